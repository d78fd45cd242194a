//! Keys for Secure Boot and what is signed with them, judged by Debian's `sbverify`; keys and certificates are read by OpenSSL and
//! used by `sbsign`, too.

use crate::command::{KEDGE, platform, workshop};
use anyhow::{Context, Result, ensure};
use kedge_board_support::statement::{SECTION, section};
use kedge_image_build::keys::Passphrase;
use kedge_image_build::platform::Platform;
use kedge_image_build::secure_boot::{Signer, authenticode, keys, statement};
use kedge_image_build::{debian, files, process, tools};
use kedge_tests::kedge::Kedge;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const TABLE: &str = r#"
[secure-boot]
key = "keys/secure-boot/db.key"
certificate = "keys/secure-boot/db.pem"
"#;

/// A project that signs, with a passphrase in a file, and a platform.
struct Owner {
    kedge: Kedge,
    platform: PathBuf,
    words: PathBuf,
    folder: tempfile::TempDir,
}

impl Owner {
    fn new() -> Result<Self> {
        debian::require(
            &["sbsigntool", "openssl"],
            "judge signatures for Secure Boot",
        )?;
        let folder = workshop()?;
        // Whoever calls has a configuration of OpenSSL that is none.
        let broken = folder.path().join("openssl.cnf");
        files::write(&broken, "[req\n")?;
        let kedge = Kedge::new(KEDGE, &folder.path().join("gateway"));
        let kedge = kedge.with("OPENSSL_CONF", &broken);
        kedge.create("gateway", "pc-x86-64")?;
        append(&kedge, TABLE)?;
        let words = folder.path().join("words");
        files::write(&words, "correct horse\n")?;
        let platform = platform(folder.path())?;
        let description = platform.join("platform.json");
        let mut read = Platform::load(&platform)?;
        read.board = "pc-x86-64".into();
        files::write(&description, serde_json::to_string(&read)?)?;
        Ok(Self {
            kedge,
            platform,
            words,
            folder,
        })
    }

    /// Gives the platform a kernel that the loader could start: a program for UEFI that asks for no relocations.
    fn kernel(&self) -> Result<()> {
        let program = statement::make(b"", b"", b"")?;
        files::write(&self.platform.join("vmlinuz"), program)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.kedge.folder().join("keys/secure-boot").join(name)
    }

    /// A verb with the passphrase.
    fn verb<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        let file = self.words.to_str().unwrap_or_default();
        [words, &["--passphrase-file", file]].concat()
    }

    fn build(&self) -> Vec<&str> {
        let platform = self.platform.to_str().unwrap_or_default();
        self.verb(&["build", "--revision-only", "--platform", platform])
    }

    /// The place of the built revision's object of a kind.
    fn object(&self, built: &Value, kind: &str) -> Result<PathBuf> {
        let objects = built["objects"].as_object().context("no objects")?;
        let mut named = objects.iter().filter(|(_, object)| object["kind"] == kind);
        let (id, _) = named
            .next()
            .with_context(|| format!("no {kind}: {built}"))?;
        let hex = id.trim_start_matches("v1:");
        let shard = hex.get(..2).context("a short id")?;
        Ok(self
            .kedge
            .folder()
            .join("build/objects/v1")
            .join(shard)
            .join(hex))
    }
}

fn append(kedge: &Kedge, text: &str) -> Result<()> {
    let manifest = kedge.folder().join("kedge.toml");
    files::write(&manifest, files::read_text(&manifest)? + text)
}

/// Whether `sbverify` finds a signature of a certificate's key.
fn verifies(certificate: &Path, program: &Path) -> bool {
    let mut command = Command::new("sbverify");
    process::succeeds(command.arg("--cert").arg(certificate).arg(program))
}

/// A platform that was made when modules lost their signatures is refused, and another one is left.
fn modules_have_signatures(owner: &Owner) -> Result<()> {
    let description = owner.platform.join("platform.json");
    let mut described = Platform::load(&owner.platform)?;
    described.modules = vec!["modules/loop.ko".into()];
    files::write(&description, serde_json::to_string(&described)?)?;
    let module = owner.platform.join("modules/loop.ko");
    files::write(&module, "a module")?;
    let (said, _) = owner.kedge.refuse(&owner.build())?;
    for words in ["module loop.ko", "cargo xtask image pc-x86-64"] {
        ensure!(said.contains(words), "{said}");
    }
    files::write(&module, "a module~Module signature appended~\n")
}

#[test]
fn host_secure_boot_signs_what_sbverify_takes_and_keeps_signatures() -> Result<()> {
    let owner = Owner::new()?;
    owner.kedge.ask(&owner.verb(&["key", "secure-boot"]))?;
    let mut openssl = Command::new("openssl");
    let pass = format!("file:{}", owner.words.display());
    openssl.args(["pkey", "-noout", "-passin", &pass, "-in"]);
    process::run(openssl.arg(owner.path("db.key")))?;
    // Signed by somebody else before, with sbsign.
    let other = owner.folder.path().join("other");
    files::make_folder(&other)?;
    keys::make(&other, "other", None)?;
    let program = tools::package("systemd-boot-efi")?;
    let program = program.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi");
    let signed = owner.folder.path().join("signed.efi");
    let mut sbsign = Command::new("sbsign");
    sbsign.arg("--key").arg(other.join("db.key"));
    sbsign.arg("--cert").arg(other.join("db.pem"));
    process::run(sbsign.arg("--output").arg(&signed).arg(&program))?;

    owner.kernel()?;
    modules_have_signatures(&owner)?;
    let built = owner.kedge.ask(&owner.build())?;
    let [kernel, initramfs, signed_statement] = [
        owner.object(&built, "kernel")?,
        owner.object(&built, "initramfs")?,
        owner.object(&built, "statement")?,
    ];
    ensure!(verifies(&owner.path("db.pem"), &signed_statement));
    for (certificate, program) in [
        (owner.path("KEK.pem"), &signed_statement),
        (other.join("db.pem"), &signed_statement),
        // Nothing of the owner's lets a firmware start the kernel by itself.
        (owner.path("db.pem"), &kernel),
    ] {
        ensure!(
            !verifies(&certificate, program),
            "{}",
            certificate.display()
        );
    }
    // A second signature leaves the first.
    let words = Passphrase::File(owner.words.clone());
    let signer = Signer::open(&owner.path("db.key"), &owner.path("db.pem"), &words)?;
    let twice = owner.folder.path().join("twice.efi");
    files::write(&twice, authenticode::sign(files::read(&signed)?, &signer)?)?;
    for certificate in [owner.path("db.pem"), other.join("db.pem")] {
        ensure!(verifies(&certificate, &twice), "{}", certificate.display());
    }
    // Its lines are those of sha256sum.
    let line = owner.folder.path().join("cmdline.txt");
    files::write(&line, "\n")?;
    let sums = process::text(Command::new("sha256sum").args([&kernel, &initramfs, &line]))?;
    let program = files::read(&signed_statement)?;
    let lines = section(&program, SECTION).context("no section")?;
    let lines = String::from_utf8(lines.to_vec())?;
    for ((sum, said), name) in
        sums.lines()
            .zip(lines.lines())
            .zip(["kernel", "initramfs", "cmdline.txt"])
    {
        let (sum, _) = sum.split_once("  ").context("no sum")?;
        ensure!(said == format!("{sum}  {name}"), "{said} instead of {sum}");
    }
    let again = owner.kedge.ask(&owner.build())?;
    ensure!(again["unchanged"] == true, "{again}");
    ensure!(again["revision"] == built["revision"], "{again}");
    Ok(())
}

#[test]
fn host_secure_boot_says_what_it_cannot_use() -> Result<()> {
    let owner = Owner::new()?;
    let refuse = |words: &[&str], expected: &str| -> Result<()> {
        let (said, _) = owner.kedge.refuse(words)?;
        ensure!(said.contains(expected), "{said}");
        Ok(())
    };
    refuse(&owner.build(), "db.pem")?;
    owner.kedge.ask(&owner.verb(&["key", "secure-boot"]))?;
    refuse(&owner.verb(&["key", "secure-boot"]), "PK.pem already")?;
    // The kernel of this platform is no program.
    refuse(&owner.build(), "under Secure Boot: it is no program")?;
    files::write(&owner.words, "wrong horse\n")?;
    refuse(&owner.build(), "the passphrase is wrong")?;
    files::copy(&owner.path("KEK.pem"), &owner.path("db.pem"))?;
    files::write(&owner.words, "correct horse\n")?;
    refuse(&owner.build(), "is not that of the key")?;
    files::copy(&owner.path("KEK.pem"), &owner.path("db.key"))?;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(owner.path("db.key"), open)?;
    refuse(&owner.build(), "others may read")?;
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(owner.path("db.key"), closed)?;
    refuse(&owner.build(), "holds a \"CERTIFICATE\", not a private key")?;

    let folder = workshop()?;
    let kedge = Kedge::new(KEDGE, &folder.path().join("virtual"));
    kedge.create("virtual", "qemu-x86-64")?;
    append(&kedge, TABLE)?;
    let platform = platform(folder.path())?;
    let (said, _) = kedge.refuse(&["build", "--platform", &platform.display().to_string()])?;
    ensure!(
        said.contains("qemu-x86-64 is not started by UEFI"),
        "{said}"
    );
    Ok(())
}

#[test]
fn host_secure_boot_keys_of_production_have_a_passphrase() -> Result<()> {
    let folder = workshop()?;
    let words = folder.path().join("words");
    files::write(&words, "correct horse\n")?;
    let words = words.display().to_string();
    let kedge = Kedge::new(KEDGE, &folder.path().join("gateway"));
    let mut new = Command::new(KEDGE);
    new.args(["new", "gateway", "--board", "pc-x86-64", "--production"]);
    new.args(["--passphrase-file", &words, "--path"]);
    process::run(new.arg(kedge.folder()))?;
    append(&kedge, TABLE)?;
    let (said, _) = kedge.refuse(&["key", "secure-boot", "--no-passphrase"])?;
    ensure!(said.contains("under a passphrase"), "{said}");
    // Brought from elsewhere.
    let place = kedge.folder().join("keys/secure-boot");
    files::make_folder(&place)?;
    keys::make(&place, "gateway", None)?;
    let platform = platform(folder.path())?.display().to_string();
    let build = ["build", "--revision-only", "--platform", &platform];
    let (said, _) = kedge.refuse(&[&build[..], &["--passphrase-file", &words]].concat())?;
    ensure!(said.contains("db.key has no passphrase"), "{said}");
    Ok(())
}

#[test]
fn host_secure_boot_has_a_passphrase_of_its_own_beside_a_token() -> Result<()> {
    let owner = Owner::new()?;
    owner.kedge.ask(&owner.verb(&["key", "secure-boot"]))?;
    // The library is not there: what comes so far as to the token says that, and would have cost it a try.
    let path = owner.kedge.folder().join("keys/release.toml");
    let text = files::read_text(&path)?;
    let kept = text.lines().filter(|line| !line.starts_with("plain"));
    let noted: String = kept.map(|line| format!("{line}\n")).collect();
    let uri = "pkcs11:token=vault;object=release?module-path=/nothing.so";
    files::write_private(&path, format!("{noted}token = \"{uri}\"\n").as_bytes())?;
    owner.kernel()?;
    let refuse = |words: &[&str]| -> Result<String> { Ok(owner.kedge.refuse(words)?.0) };
    let said = refuse(&owner.build())?;
    ensure!(said.contains("--secure-boot-passphrase-file"), "{said}");
    let pin = owner.folder.path().join("pin");
    files::write(&pin, "123456\n")?;
    let words = owner.words.display().to_string();
    let pin = pin.display().to_string();
    let platform = owner.platform.display().to_string();
    let build = ["build", "--revision-only", "--platform", &platform];
    let both = ["--passphrase-file", &pin, "--secure-boot-passphrase-file"];
    let said = refuse(&[&build[..], &both, &[&words]].concat())?;
    ensure!(said.contains("nothing.so"), "{said}");
    let said = refuse(&[&build[..], &both, &[&pin]].concat())?;
    ensure!(said.contains("db.key: the passphrase is wrong"), "{said}");
    // With the release key in its file one word opens both, and each may have its own.
    files::write_private(&path, text.as_bytes())?;
    owner.kedge.ask(&owner.build())?;
    owner
        .kedge
        .ask(&[&build[..], &both, &[&words]].concat())
        .map(drop)
}
