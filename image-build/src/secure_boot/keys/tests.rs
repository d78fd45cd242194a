//! Keys as OpenSSL and their owners write them, and what is refused.

use super::*;
use crate::keys::may_be_open;
use kedge_revision::Mode;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

fn made(phrase: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), "gateway", phrase).unwrap();
    folder
}

fn open(folder: &Path, passphrase: &Passphrase) -> Result<Signer> {
    Signer::open(&folder.join("db.key"), &folder.join("db.pem"), passphrase)
}

fn refusal(folder: &Path, passphrase: &Passphrase) -> String {
    format!("{:#}", open(folder, passphrase).unwrap_err())
}

#[test]
fn a_key_is_held_to_what_release_keys_are() {
    let folder = made(None);
    let signer = open(folder.path(), &Passphrase::Never).unwrap();
    assert!(!signer.is_protected());
    may_be_open(Mode::Development).unwrap();
    may_be_open(Mode::Production).unwrap_err();
    let key = folder.path().join("db.key");
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let error = refusal(folder.path(), &Passphrase::Never);
    assert!(error.contains("chmod 600"), "{error}");
    let short = tempfile::tempdir().unwrap();
    let error = make(short.path(), "gateway", Some("7 signs")).unwrap_err();
    assert!(error.to_string().contains("too short"), "{error}");
    assert!(files::list(short.path()).unwrap().is_empty());
}

#[test]
fn keys_are_made_all_or_none() {
    for suffix in SUFFIXES {
        for role in ROLES {
            let folder = tempfile::tempdir().unwrap();
            let name = format!("{role}.{suffix}");
            files::write(&folder.path().join(&name), "mine").unwrap();
            let error = make(folder.path(), "gateway", None).unwrap_err();
            assert!(error.to_string().contains(&name), "{error}");
            assert_eq!(files::list(folder.path()).unwrap().len(), 1, "{name}");
        }
    }
    // OpenSSL takes no such name.
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), &"long".repeat(20), None).unwrap_err();
    assert!(files::list(folder.path()).unwrap().is_empty());
    let folder = made(None);
    assert_eq!(files::list(folder.path()).unwrap().len(), 9);
}
