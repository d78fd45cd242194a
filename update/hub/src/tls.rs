//! TLS: one port for devices, operators and strangers.
//!
//! A client's certificate is optional. One that is shown must be of the hub's own authority; one whose time is over, or has not
//! begun, passes here all the same, so that its device can renew it, and is refused by every other request (`http::access`), which also
//! judges revocation. Both are judged for each request and not for each connection: connections and resumed sessions
//! outlive either.

use crate::certificate::Certificate;
use crate::error::Error;
use crate::identity::{Identity, ServerCertificate};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider, sign::any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The server's certificate, which is replaced while it runs.
#[derive(Debug)]
pub(crate) struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    pub(crate) fn new(certificate: ServerCertificate) -> Result<Self, Error> {
        Ok(Self(RwLock::new(certified(certificate)?)))
    }

    /// Connections that are made from now on see this one.
    pub(crate) fn replace(&self, certificate: ServerCertificate) -> Result<(), Error> {
        let certified = certified(certificate)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }
}

fn certified(certificate: ServerCertificate) -> Result<Arc<CertifiedKey>, Error> {
    let key = PrivatePkcs8KeyDer::from(certificate.key);
    let key = any_eddsa_type(&key).map_err(Error::Tls)?;
    let chain = vec![CertificateDer::from(certificate.der)];
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

/// How the hub speaks TLS.
pub(crate) fn config(identity: &Identity, current: Arc<Current>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(default_provider());
    let verifier = Verifier::new(identity.authority(), &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Sessions are kept by the clients: a hundred thousand devices cost the hub nothing between connections.
    config.ticketer = Ticketer::new().map_err(Error::Tls)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// Judges clients' certificates by the hub's authority, and forgives only that it is not their time.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn new(authority: &[u8], provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(authority.to_vec()))
            .map_err(Error::Tls)?;
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let inner = builder
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?;
        Ok(Self { inner })
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let read = Certificate::read(certificate).ok_or(rustls::Error::InvalidCertificate(
            CertificateError::BadEncoding,
        ))?;
        // Judged at a moment at which it was good, if there was one: either clock may have been off when it was made, and
        // whether it still counts is for the device's row to say.
        let moment = now.as_secs().max(read.not_before).min(read.not_after);
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(moment));
        self.inner
            .verify_client_cert(certificate, intermediates, moment)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use kedge_revision::PublicKey;

    #[test]
    fn a_certificate_of_another_time_passes_and_one_of_another_authority_does_not() {
        let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [own, other] = data
            .each_ref()
            .map(|data| Identity::open(data.path()).unwrap());
        let key = SigningKey::from_bytes(&[5; 32]).verifying_key();
        let key = PublicKey::from_bytes(key.to_bytes());
        let verifier = Verifier::new(own.authority(), &Arc::new(default_provider())).unwrap();
        let passes = |identity: &Identity, now| {
            let der = CertificateDer::from(identity.issue(&key).unwrap().der);
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            verifier.verify_client_cert(&der, &[], now).is_ok()
        };
        // Of a clock that was ahead when it was issued, and one that has run on.
        for now in [0, crate::clock::unix(), 4_000_000_000] {
            assert!(passes(&own, now), "{now}");
            assert!(!passes(&other, now), "{now}");
        }
    }
}
