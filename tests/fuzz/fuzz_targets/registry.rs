//! What a registry of images says, and what its images are called.

use kedge_image_build::registry::challenge::{self, Challenge};
use kedge_image_build::registry::manifest::{self, Document, Platform};
use kedge_image_build::registry::reference::Reference;

/// A name that is read is written so that it reads as itself, and stays within what a request's line and a path may hold.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(read) = text.parse::<Reference>() else {
        assert!(!Reference::names_registry(text), "a name that is none");
        return;
    };
    let written = read.to_string();
    assert_eq!(written.parse::<Reference>().expect("own name"), read);
    assert!(Reference::is_marked(&written));
    let bare = written.trim_start_matches("docker://");
    assert_eq!(
        bare.parse::<Reference>()
            .expect("own name without its mark"),
        read
    );
    for part in [read.registry(), read.repository(), &read.version()] {
        assert!(!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!part.contains(['?', '#', '%', '\\', '@']));
        // A tag may have dots side by side; a whole part of the path that is them would lead elsewhere.
        assert!(part.split('/').all(|step| step != "." && step != ".."));
    }
}

/// Realms are texts without control characters, since they become addresses.
pub fn challenge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for one in challenge::parse(text).unwrap_or_default() {
        if let Challenge::Bearer { realm, .. } = one {
            assert!(!realm.contains(['\r', '\n']), "a realm of two lines");
        }
    }
}

/// What is picked fits, and nothing fits better.
pub fn manifest(bytes: &[u8]) {
    for stated in [None, Some("application/vnd.oci.image.index.v1+json")] {
        let Ok(document) = manifest::parse(bytes, stated, 128) else {
            continue;
        };
        match document {
            Document::Index(entries) => {
                let wanted = Platform::linux("arm");
                if let Ok(entry) = manifest::pick(&entries, &wanted) {
                    let rank = entry.platform.as_ref().map_or(1, |one| one.rank(&wanted));
                    let best = entries.iter().filter_map(|one| one.platform.as_ref());
                    assert!(rank > 0 && best.into_iter().all(|one| one.rank(&wanted) <= rank));
                }
            }
            Document::Manifest { layers, .. } => assert!(layers.len() <= 128),
        }
    }
}
