//! TLS 1.3 to a hub: first unjudged, to learn whom to believe; then mutual.
//!
//! Before a device knows the time and the hub's authority it can judge no certificate. What it is told until then is
//! signed by the hub's online key, so that TLS has nothing to say about it. From then on only a server whose
//! certificate the authority issued for the hub's name is the hub, judged at the time that the hub has signed, and the
//! device shows a certificate for its own key.

mod curve;

use crate::error::Error;
use crate::pace::Paced;
use core::fmt;
use curve::{ALGORITHMS, X25519};
use ed25519_dalek::{Signer as _, SigningKey};
use kedge_sys::memory::{Entropy, fill_random};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, ResolvesClientCert};
use rustls::crypto::{
    CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, ring, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, Signer, SigningKey as TlsSigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureAlgorithm, SignatureScheme, StreamOwned,
};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A connection to a hub.
pub type Stream = StreamOwned<ClientConnection, Paced>;

/// The time by which certificates are judged: what a hub's key has signed last, and what has passed since.
#[derive(Debug)]
pub struct Clock {
    /// Seconds since the epoch at `start`; 0: nobody has told it. Not an atomic number: 32-bit MIPS has none of 64 bits.
    base: Mutex<u64>,
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            base: Mutex::new(0),
            start: Instant::now(),
        }
    }
}

impl Clock {
    /// It is so many seconds after the epoch now.
    pub fn set(&self, unix: u64) {
        let base = unix.saturating_sub(self.start.elapsed().as_secs());
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = base;
    }

    /// Seconds since the epoch; none: nobody has told.
    #[must_use]
    pub fn now(&self) -> Option<u64> {
        let base = *self.base.lock().unwrap_or_else(PoisonError::into_inner);
        (base > 0).then(|| base.saturating_add(self.start.elapsed().as_secs()))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        self.now()
            .map(|unix| UnixTime::since_unix_epoch(Duration::from_secs(unix)))
    }
}

/// Any time, where nothing is judged by it. Without one rustls ends every handshake, also those that ask for none.
#[derive(Debug)]
struct AnyTime;

impl TimeProvider for AnyTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::ZERO))
    }
}

/// Random numbers are the kernel's, as everywhere on the device.
#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill_random(buffer, Entropy::Seeded).map_err(|_| GetRandomFailed)
    }
}

/// Reads no key: the device's own is [`Key`].
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(
        &self,
        _: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn TlsSigningKey>, rustls::Error> {
        let text = "a device's key is no file".to_owned();
        Err(rustls::Error::General(text))
    }
}

/// Only what is used is linked: one key exchange and two ciphers, of which the second is for processors with AES. Of ring's own
/// provider not even the small parts are taken: it names all that there is, RSA and three curves among it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![&X25519],
        signature_verification_algorithms: ALGORITHMS,
        secure_random: &Random,
        key_provider: &NoKeys,
    })
}

/// The device's key, as TLS signs with it.
struct Key(SigningKey);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device's key")
    }
}

impl TlsSigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(Self(self.0.clone())) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Shows one certificate to whoever asks.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let knows = schemes.contains(&SignatureScheme::ED25519);
        knows.then(|| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes every certificate: what is asked over such a connection is signed by itself.
#[derive(Debug)]
struct Unjudged;

impl ServerCertVerifier for Unjudged {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Believes nobody yet.
///
/// # Errors
/// [`Error::Tls`].
pub fn unjudged() -> Result<Arc<ClientConfig>, Error> {
    let config = builder(Arc::new(AnyTime))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unjudged))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Believes who has a certificate of the authority, and shows the device's own if there is one yet.
///
/// # Errors
/// [`Error::Tls`] for certificates that are none.
pub fn judged(
    clock: &Arc<Clock>,
    authority: &[Vec<u8>],
    own: Option<(&SigningKey, &[u8])>,
) -> Result<Arc<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in authority {
        let certificate = CertificateDer::from(certificate.clone());
        roots.add(certificate).map_err(Error::Tls)?;
    }
    let clock: Arc<dyn TimeProvider> = Arc::<Clock>::clone(clock);
    let builder = builder(clock)?.with_root_certificates(roots);
    Ok(Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some((key, certificate)) => {
            let chain = vec![CertificateDer::from(certificate.to_vec())];
            let certified = CertifiedKey::new(chain, Arc::new(Key(key.clone())));
            builder.with_client_cert_resolver(Arc::new(Shown(Arc::new(certified))))
        }
    }))
}

fn builder(
    clock: Arc<dyn TimeProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Tls)
}

/// TLS over a connected socket; the handshake happens with the first bytes.
///
/// # Errors
/// [`Error::Tls`], [`Error::Address`].
pub fn connect(config: &Arc<ClientConfig>, host: &str, socket: TcpStream) -> Result<Stream, Error> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::Address {
        url: host.to_owned(),
    })?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(Error::Tls)?;
    Ok(StreamOwned::new(connection, Paced::new(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_anybody_told_the_time_a_hub_can_be_asked_however_long_the_agent_runs() {
        let config = unjudged().unwrap();
        assert!(config.time_provider.current_time().is_some());
        // What nobody told is nothing to judge by.
        let clock = Clock::default();
        assert_eq!(clock.now(), None);
        clock.set(1_800_000_000);
        assert!(clock.now().is_some_and(|unix| unix >= 1_800_000_000));
    }
}
