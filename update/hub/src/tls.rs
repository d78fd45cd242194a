//! TLS: one port for devices, operators and strangers.
//!
//! A client's certificate is optional. One that is shown must be of the hub's own authority; one whose time is over passes
//! here all the same, so that its device can renew it, and is refused by every other request (`http::access`), which also
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

/// Judges clients' certificates by the hub's authority, and forgives only that their time is over.
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
        // Judged at a moment at which it was good, if there was one.
        let moment = now.as_secs().min(read.not_after);
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
