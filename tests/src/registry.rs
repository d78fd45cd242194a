//! Debian's `docker-registry` on loopback, and Debian's `skopeo` to fill it: taken out of their packages, not installed. And
//! a [`Liar`], for what an honest registry does not do.

mod liar;

pub use liar::{Liar, Reply};

use anyhow::{Context, Result, bail};
use kedge_image_build::cache::{self, Cache};
use kedge_image_build::debian::{Archive, Status};
use kedge_image_build::{files, process, progress};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The suite that both come from.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 2] = ["docker-registry", "skopeo"];
/// What only their scripts and services need.
const SCRIPTS_ONLY: [&str; 6] = [
    "adduser",
    "debconf",
    "init-system-helpers",
    "perl-base",
    "dpkg",
    "tar",
];
/// `password` of `user`, as htpasswd(1) -B writes it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";

/// What a registry has beside images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guard {
    /// Only [`USER`] with [`PASSWORD`] gets in.
    pub login: bool,
    /// TLS with a certificate of an authority of its own.
    pub tls: bool,
}

/// Who gets in.
pub const USER: &str = "user";
/// And by what.
pub const PASSWORD: &str = "password";

/// A registry that runs until this is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
    guard: Guard,
}

impl Registry {
    /// Starts one whose data lie in `folder`.
    ///
    /// # Errors
    /// The packages cannot be fetched, or it does not come up.
    pub fn start(folder: &Path, guard: Guard) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let configuration = configuration(folder, address, guard)?;
        let path = folder.join("registry.yml");
        files::write(&path, configuration)?;
        let log = std::fs::File::create(folder.join("registry.log"))?;
        let child = command("usr/bin/docker-registry")?
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry")?;
        let mut registry = Self {
            child,
            address,
            folder: folder.to_owned(),
            guard,
        };
        registry.wait()?;
        Ok(registry)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What it has said so far: a line a request.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn log(&self) -> Result<String> {
        files::read_text(&self.folder.join("registry.log"))
    }

    /// Puts an OCI layout into it, with all the images that it has.
    ///
    /// # Errors
    /// skopeo fails, with its own words.
    pub fn fill(&self, layout: &Path, image: &str) -> Result<()> {
        let policy = self.folder.join("policy.json");
        files::write(
            &policy,
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )?;
        let mut skopeo = command("usr/bin/skopeo")?;
        skopeo.arg("--policy").arg(&policy).args([
            "copy",
            "--all",
            "--quiet",
            "--dest-tls-verify=false",
            "--preserve-digests",
        ]);
        if self.guard.login {
            skopeo.arg("--dest-creds").arg(format!("{USER}:{PASSWORD}"));
        }
        skopeo
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{image}", self.address))
            .env("XDG_RUNTIME_DIR", &self.folder)
            .env("HOME", &self.folder);
        process::run(&mut skopeo)
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("docker-registry ended with {status}: {}", self.log()?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("docker-registry does not come up: {}", self.log()?)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It is gone either way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn configuration(folder: &Path, address: SocketAddr, guard: Guard) -> Result<String> {
    let place = folder.join("data");
    files::make_folder(&place)?;
    let mut text = format!(
        "version: 0.1\nlog: {{ level: info, accesslog: {{ disabled: false }} }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\nhttp:\n  addr: {address}\n  secret: test\n",
        place.display()
    );
    if guard.tls {
        let (certificate, key) = (folder.join("tls.pem"), folder.join("tls.key"));
        let own = certified(folder)?;
        files::write(&certificate, &own.0)?;
        files::write(&key, &own.1)?;
        text.push_str(&format!(
            "  tls: {{ certificate: {}, key: {} }}\n",
            certificate.display(),
            key.display()
        ));
    }
    if guard.login {
        let path = folder.join("htpasswd");
        files::write(&path, HTPASSWD)?;
        text.push_str(&format!(
            "auth:\n  htpasswd: {{ realm: test, path: {} }}\n",
            path.display()
        ));
    }
    Ok(text)
}

/// A certificate for loopback and its key, of an authority that is written beside them.
fn certified(folder: &Path) -> Result<(String, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    let certificate = params.signed_by(&key, &authority)?;
    files::write(&folder.join("ca.pem"), pem("CERTIFICATE", authority.der()))?;
    Ok((
        pem("CERTIFICATE", certificate.der()),
        pem("PRIVATE KEY", &key.serialize_der()),
    ))
}

/// PEM (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut lines = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        lines.push_str(&String::from_utf8_lossy(line));
        lines.push('\n');
    }
    lines.push_str(&format!("-----END {label}-----\n"));
    lines
}

/// A program of the packages, through their own loader.
fn command(program: &str) -> Result<Command> {
    let cache = Cache::open()?;
    let key = cache::key(PACKAGES.into_iter().chain([SUITE]));
    let root = cache.entry("tools", &key, |folder| {
        progress::step(format_args!("unpacking {}", PACKAGES.join(", ")), || {
            let archive = Archive::open(&cache, SUITE)?;
            let packages = archive.closure(&PACKAGES, Status::Pretend(&SCRIPTS_ONLY))?;
            Archive::unpack(&archive.download(&packages)?, folder)
        })
    })?;
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(root.join(program))
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LD_PRELOAD");
    Ok(command)
}
