//! Who is believed to be the registry.

use super::reference::Reference;
use super::{Access, Insecure};
use crate::files;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// The machine's authorities, those of a file, and those that docker and podman keep for this registry.
pub(super) fn config(reference: &Reference, access: &Access) -> Result<TlsConfig> {
    let builder = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    match access.insecure {
        // Nothing is judged, or nothing is encrypted: a token server still may be, and is judged then.
        Some(Insecure::UnverifiedTls) => Ok(builder.disable_verification(true).build()),
        Some(Insecure::Http) | None => {
            let mut roots = system();
            for path in &kept(reference, |name| std::env::var_os(name)) {
                roots.extend(authorities(path)?);
            }
            if let Some(path) = &access.authority {
                roots.extend(authorities(path)?);
            }
            Ok(builder
                .root_certs(RootCerts::Specific(Arc::new(roots)))
                .build())
        }
    }
}

/// What the machine itself believes; `SSL_CERT_FILE` and `SSL_CERT_DIR` hold, as for other programs.
fn system() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    let certificates = found.certs.iter();
    certificates
        .map(|one| Certificate::from_der(one.as_ref()).to_owned())
        .collect()
}

/// The certificates of a file.
fn authorities(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let bytes = files::read(path)?;
    let mut all = Vec::new();
    for item in parse_pem(&bytes) {
        let item = item.with_context(|| format!("{} is damaged", path.display()))?;
        if let PemItem::Certificate(certificate) = item {
            all.push(certificate);
        }
    }
    ensure!(
        !all.is_empty(),
        "{} holds no certificate in PEM",
        path.display()
    );
    Ok(all)
}

/// The files `*.crt` for this registry (containers-certs.d(5)).
fn kept(
    reference: &Reference,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Vec<PathBuf> {
    let home = variable("HOME").map(|home| PathBuf::from(home).join(".config"));
    let own = variable("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let folders = [
        own.map(|folder| folder.join("containers/certs.d")),
        Some(PathBuf::from("/etc/containers/certs.d")),
        Some(PathBuf::from("/etc/docker/certs.d")),
    ];
    let folder = folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join(reference.registry()))
        .find(|folder| folder.is_dir());
    // A folder that cannot be listed holds nothing that could be believed.
    let found = folder.and_then(|folder| files::list(&folder).ok());
    let mut found = found.unwrap_or_default();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    found
}

/// What a failure of TLS means, and what to do; none for other failures.
pub(super) fn explained(error: &ureq::Error, insecure: Option<Insecure>) -> Option<String> {
    let found = if let ureq::Error::Rustls(error) = error {
        error
    } else if let ureq::Error::Io(error) = error {
        error.get_ref()?.downcast_ref::<rustls::Error>()?
    } else {
        return None;
    };
    Some(if let rustls::Error::InvalidCertificate(why) = found {
        format!(
            "its certificate is not believed ({why})\nhelp: for a registry with its own authority: --ca-file FILE, or the file in ~/.config/containers/certs.d/HOST:PORT/ca.crt"
        )
    } else if matches!(found, rustls::Error::InvalidMessage(_)) && insecure.is_none() {
        "it does not speak TLS\nhelp: see whether the port is right; a registry without TLS is asked only with --insecure http".to_owned()
    } else {
        format!("TLS fails ({found})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_found_by_the_registrys_name_and_port() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("containers/certs.d/h.example:5000");
        files::write(&folder.join("ca.crt"), "x").unwrap();
        files::write(&folder.join("client.key"), "x").unwrap();
        let found = |image: &str| {
            let image = image.parse().unwrap();
            kept(&image, |name| {
                (name == "XDG_CONFIG_HOME").then(|| home.path().into())
            })
        };
        assert_eq!(found("h.example:5000/x"), [folder.join("ca.crt")]);
        assert!(found("h.example/x").is_empty());
    }
}
