//! Mix and match, wrong product or board, absent fields: a revision is one thing, for one kind of device.

use crate::fixture::{altered, draft, judge_signed, object, revision};
use kedge_revision::content::{Change, Group};
use kedge_revision::parameters::Parameters;
use kedge_revision::revision::{MAX_BOOT_FILES, Object, ObjectKind};
use kedge_revision::{Error, SignatureSet};

#[test]
fn mix_and_match_what_boots_is_what_the_revision_lists() {
    let document = revision(1, 5);
    let [kernel, initramfs, layer, foreign] =
        ["kernel", "initramfs", "layer", "of another revision"]
            .map(|text| object(text).to_string());
    for (field, own) in [("kernel", &kernel), ("initramfs", &initramfs)] {
        let from = format!("\"{field}\":\"{own}\"");
        let unlisted = altered(&document, &from, &format!("\"{field}\":\"{foreign}\""));
        let refused = judge_signed(&unlisted).unwrap_err();
        assert!(matches!(refused, Error::UnlistedObject { .. }), "{refused}");
        let other = altered(&document, &from, &format!("\"{field}\":\"{layer}\""));
        let refused = judge_signed(&other).unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
    }
}

#[test]
fn mix_and_match_files_of_the_slot_are_listed_as_such() {
    let mut with = draft(1, 5);
    let tree = object("tree");
    with.boot.files.insert("board.dtb".parse().unwrap(), tree);
    assert!(with.clone().encode().is_err());
    let kind = ObjectKind::BootFile;
    with.objects.insert(tree, Object { size: 4, kind });
    let (_, document) = with.encode().unwrap();
    judge_signed(&document).unwrap();
    let layer = altered(&document, "\"kind\":\"boot-file\"", "\"kind\":\"layer\"");
    assert!(judge_signed(&layer).is_err());
}

#[test]
fn mix_and_match_what_a_loader_says_is_no_argument_of_a_revision() {
    let document = revision(1, 5);
    for (line, said) in [
        ("kedge.slot=b", "kedge.slot=b"),
        ("quiet kedge.try=9 debug", "kedge.try=9"),
        ("quiet  kedge.written-to=a", "kedge.written-to=a"),
        ("kedge.", "kedge."),
    ] {
        // The builder refuses to make it, a device to run what another one has made.
        let mut with = draft(1, 5);
        with.boot.arguments = line.to_owned();
        let made = altered(&document, "\"quiet\"", &format!("\"{line}\""));
        for refused in [with.encode().unwrap_err(), judge_signed(&made).unwrap_err()] {
            assert!(
                matches!(&refused, Error::LoadersWord { word } if word == said),
                "{line}: {refused}"
            );
        }
    }
    for line in [
        "",
        "console=ttyS0 kedge",
        "init=/kedge.x",
        "tests.kedge.slot=b",
    ] {
        let made = altered(&document, "\"quiet\"", &format!("\"{line}\""));
        judge_signed(&made).unwrap();
    }
}

#[test]
fn path_tricks_in_files_of_the_slot_are_refused() {
    let mut with = draft(1, 5);
    let tree = object("tree");
    with.boot.files.insert("board.dtb".parse().unwrap(), tree);
    let kind = ObjectKind::BootFile;
    with.objects.insert(tree, Object { size: 4, kind });
    let (_, document) = with.encode().unwrap();
    for name in [
        "kernel",
        "initramfs",
        "cmdline.txt",
        "statement.efi",
        "KERNEL",
        "Board.dtb",
        "../kernel",
        "a/b",
        "a\\\\b",
        "kernel.",
        ".",
        "",
        "nul.dtb",
        "kernel ",
        "kernel~1",
    ] {
        let named = altered(&document, "\"board.dtb\"", &format!("\"{name}\""));
        let refused = judge_signed(&named).unwrap_err();
        assert!(matches!(refused, Error::Json { .. }), "{name}: {refused}");
    }
    // One name twice: whichever of the two a reader took, another reader may take the other.
    let member = format!("\"board.dtb\":\"{tree}\"");
    let twice = altered(&document, &member, &format!("{member},{member}"));
    assert!(judge_signed(&twice).is_err());
}

#[test]
fn endless_data_files_of_the_slot_are_counted() {
    let mut with = draft(1, 5);
    let tree = object("tree");
    let kind = ObjectKind::BootFile;
    with.objects.insert(tree, Object { size: 4, kind });
    for number in 0..MAX_BOOT_FILES {
        let name = format!("f{number}").parse().unwrap();
        with.boot.files.insert(name, tree);
    }
    with.clone().encode().unwrap();
    with.boot.files.insert("more".parse().unwrap(), tree);
    assert!(matches!(with.encode(), Err(Error::Invalid { .. })));
}

#[test]
fn mix_and_match_a_statement_is_listed_as_such() {
    let mut with = draft(1, 5);
    let statement = object("statement");
    with.boot.statement = Some(statement);
    assert!(with.clone().encode().is_err());
    let kind = ObjectKind::Statement;
    with.objects.insert(statement, Object { size: 4, kind });
    let (_, document) = with.encode().unwrap();
    judge_signed(&document).unwrap();
    let layer = altered(&document, "\"kind\":\"statement\"", "\"kind\":\"layer\"");
    assert!(judge_signed(&layer).is_err());
}

#[test]
fn mix_and_match_content_is_part_of_what_is_signed() {
    // The content of one revision in the envelope of another has another id, and nobody's signature.
    let mut other = draft(1, 5);
    other.content.groups = vec![Group {
        name: "app".parse().unwrap(),
        change: Change::Restart,
    }];
    let (id, document) = other.encode().unwrap();
    let verified = judge_signed(&document).unwrap();
    assert_eq!(verified.id(), id);
    let (first, _) = draft(1, 5).encode().unwrap();
    assert_ne!(first, id);
}

#[test]
fn wrong_product_or_board_is_refused_by_name() {
    let document = revision(1, 5);
    let product = altered(&document, "\"gateway\"", "\"gateway-2\"");
    let refused = judge_signed(&product).unwrap_err();
    assert!(
        matches!(&refused, Error::Product { expected, found } if expected == "gateway" && found == "gateway-2")
    );
    let board = altered(&document, "\"qemu-x86-64\"", "\"qemu-arm64\"");
    let refused = judge_signed(&board).unwrap_err();
    assert!(
        matches!(&refused, Error::Board { expected, found } if expected == "qemu-x86-64" && found == "qemu-arm64")
    );
}

#[test]
fn absent_fields_are_refused_and_mean_nothing() {
    let document = String::from_utf8(revision(1, 5)).unwrap();
    let members = members(&document);
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    assert!(
        names.contains(&"product") && names.contains(&"floor") && names.len() == 13,
        "{names:?}"
    );
    for absent in &names {
        let rest = members.iter().filter(|(name, _)| name != absent);
        let rest: Vec<&str> = rest.map(|(_, member)| *member).collect();
        let without = format!("{{{}}}", rest.join(","));
        let refused = judge_signed(without.as_bytes()).unwrap_err();
        assert!(matches!(refused, Error::Json { .. }), "{absent}: {refused}");
    }
    for member in ["\"tries\":3", "\"product\":\"gateway\"", "\"floor\":0"] {
        let (name, _) = member.split_once(':').unwrap();
        let null = altered(document.as_bytes(), member, &format!("{name}:null"));
        assert!(judge_signed(&null).is_err(), "{name} is null");
    }
}

/// The members of a compact JSON object, with their names.
fn members(document: &str) -> Vec<(&str, &str)> {
    let inside = &document[1..document.len() - 1];
    let (mut depth, mut quoted, mut start, mut all) = (0, false, 0, Vec::new());
    for (at, byte) in inside.bytes().chain([b',']).enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth -= 1,
            b',' if !quoted && depth == 0 => {
                let member = &inside[start..at];
                all.push((member[1..].split('"').next().unwrap(), member));
                start = at + 1;
            }
            _ => {}
        }
    }
    all
}

#[test]
fn endless_data_documents_are_measured_before_they_are_judged() {
    let huge = vec![b' '; kedge_revision::revision::CAP + 1];
    let refused = judge_signed(&huge).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    // The largest that may be is judged.
    let refused = judge_signed(&huge[1..]).unwrap_err();
    assert!(matches!(refused, Error::Json { .. }), "{refused}");
    // So is what comes beside it, which has no other judge of its size.
    let huge = vec![b' '; SignatureSet::CAP + 1];
    let refused = SignatureSet::parse(&huge).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    let huge = vec![b' '; Parameters::CAP + 1];
    let refused = Parameters::parse(&huge).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    let mut many = draft(1, 5);
    for number in 0..kedge_revision::revision::MAX_OBJECTS {
        let kind = ObjectKind::Layer;
        many.objects
            .insert(object(&number.to_string()), Object { size: 1, kind });
    }
    assert!(many.encode().is_err());
}
