//! For random trees: normalising is deterministic, idempotent, and never puts anything outside.

use proptest::prelude::*;

use super::fixture::*;
use crate::archive::Kind;
use crate::bounds::Bounds;
use crate::options::Policy;

fn member() -> impl Strategy<Value = Given> {
    let path = prop::collection::vec(
        prop::sample::select(vec!["a", "b", "c", "a-", ".wh.a", ".wh..wh..opq"]),
        1..4,
    );
    let kind = prop::sample::select(vec![0_u8, 1, 2, 3, 4]);
    (path, kind, 0_u16..0o10000, 0_u16..3, ".{0,20}").prop_map(|(path, kind, mode, owner, text)| {
        let path = path.join("/");
        let mut given = match kind {
            0 | 1 => file(&path, &text),
            2 => directory(&path),
            3 => symlink(&path, "b/c"),
            _ => hard_link(&path, "a/b"),
        };
        (given.mode, given.owner) = (mode, (owner, owner));
        given
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn normalised_once_is_normal(members in prop::collection::vec(member(), 0..20)) {
        // Refusing is fine; what is taken must be a fixed point.
        if let Ok((once, _)) = run(&members) {
            prop_assert!(run(&members).unwrap().0 == once, "not the same twice");
            let (twice, _) = run_with(&once, Bounds::default(), Policy::default()).unwrap();
            prop_assert!(twice == once, "{:?} became {:?}", names(&once), names(&twice));
            let mut seen = vec![String::new()];
            for (m, _) in list(&once) {
                let name = String::from_utf8(m.path).unwrap();
                let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
                let parent = name.rsplit_once('/').map_or("", |(p, _)| p).to_owned();
                prop_assert!(seen.contains(&parent), "{} before its parent", name);
                if m.kind == Kind::Directory {
                    seen.push(name);
                }
            }
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        drop(run_with(&bytes, Bounds::default(), Policy::default()));
    }

    #[test]
    fn damage_never_panics(members in prop::collection::vec(member(), 1..5), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = tar(&members);
        let at = at.index(bytes.len());
        bytes[at] = with;
        drop(run_with(&bytes, Bounds::default(), Policy::default()));
    }
}
