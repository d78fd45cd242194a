//! Keys as OpenSSL and their owners write them, and what is refused.

use super::*;
use crate::keys::may_be_open;
use kedge_revision::Mode;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

const WORDS: &str = "four words are best";

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

#[test]
fn certificates_say_what_ours_are_for() {
    use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
    let folder = made(None);
    for role in ROLES {
        let read = Certificate::read(&folder.path().join(format!("{role}.pem"))).unwrap();
        let said = &read.inner().tbs_certificate;
        let (is_critical, constraints) = said.get::<BasicConstraints>().unwrap().unwrap();
        assert!(is_critical && !constraints.ca, "{role}");
        let (is_critical, usage) = said.get::<KeyUsage>().unwrap().unwrap();
        assert!(is_critical && usage.digital_signature() && !usage.key_cert_sign());
    }
}

#[test]
fn openssl_tells_itself_why_it_ended_early() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("openssl.cnf");
    files::write(&configuration, CONFIGURATION).unwrap();
    // More than a pipe holds.
    let much = vec![b'x'; 1 << 20];
    let error = openssl(&configuration, &["req", "-nonsense"], &much).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("nknown option"), "{error}");
    assert!(!error.contains("pipe"), "{error}");
}

#[test]
fn keys_are_read_in_each_form_that_openssl_writes() {
    let folder = made(Some(WORDS));
    let path = |name| folder.path().join(name);
    let certificate = Certificate::read(&path("db.pem")).unwrap();
    let given = Passphrase::given(WORDS);
    assert!(open(folder.path(), &given).unwrap().is_protected());
    let error = refusal(folder.path(), &Passphrase::given("four words are good"));
    assert!(error.contains("the passphrase is wrong"), "{error}");
    let error = refusal(folder.path(), &Passphrase::Never);
    assert!(error.contains("db.key needs its passphrase"), "{error}");
    let forms: [(&[&str], &str, bool); 4] = [
        (&["pkey"], "PRIVATE KEY", false),
        (&["rsa", "-traditional"], "RSA PRIVATE KEY", false),
        (&["pkcs8", "-topk8"], ENCRYPTED, true),
        (&["rsa", "-traditional", "-aes256"], "RSA PRIVATE KEY", true),
    ];
    let source = path("other.key");
    files::copy(&path("db.key"), &source).unwrap();
    for (words, label, is_protected) in forms {
        let mut command = Command::new("openssl");
        command.args(words).arg("-in").arg(&source);
        command.args(["-passin", &format!("pass:{WORDS}")]);
        if is_protected {
            command.args(["-passout", &format!("pass:{WORDS}")]);
        }
        let text = process::output(&mut command).unwrap();
        files::write_private(&path("db.key"), &text).unwrap();
        assert!(text.starts_with(format!("-----BEGIN {label}-----").as_bytes()));
        let is_old = words.contains(&"-aes256");
        if is_old {
            let error = refusal(folder.path(), &given);
            assert!(error.contains("cannot use the key"), "{error}");
        } else {
            let signer = open(folder.path(), &given).unwrap();
            assert_eq!(signer.is_protected(), is_protected, "{label}");
            assert_eq!(signer.certificate().subject(), certificate.subject());
        }
    }
    files::copy(&path("KEK.pem"), &path("db.pem")).unwrap();
    files::copy(&source, &path("db.key")).unwrap();
    let error = refusal(folder.path(), &given);
    assert!(error.contains("is not that of the key"), "{error}");
}

#[test]
fn a_large_key_signs_and_a_small_one_is_refused() {
    for (bits, is_good) in [(4096, true), (1024, false)] {
        let folder = tempfile::tempdir().unwrap();
        let [key, certificate] = ["db.key", "db.pem"].map(|name| folder.path().join(name));
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-x509", "-nodes", "-subj", "/CN=o/"]);
        command.args(["-newkey", &format!("rsa:{bits}"), "-keyout"]);
        process::run(command.arg(&key).arg("-out").arg(&certificate)).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        if is_good {
            let signer = open(folder.path(), &Passphrase::Never).unwrap();
            assert_eq!(signer.sign(b"program").unwrap().len(), 512);
        } else {
            let error = refusal(folder.path(), &Passphrase::Never);
            assert!(error.contains("cannot use the key"), "{error}");
        }
    }
}
