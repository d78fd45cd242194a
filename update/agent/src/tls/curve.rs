//! What TLS needs of elliptic curves, from the crates that verify revisions and open secrets: a second implementation, with its
//! tables, would be 200 kB of the device binary.

use core::fmt;
use curve25519_dalek::montgomery::MontgomeryPoint;
use ed25519_dalek::{Signature, VerifyingKey};
use kedge_sys::memory::{Entropy, fill_random};
use rustls::crypto::{
    ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup, WebPkiSupportedAlgorithms,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use rustls::{NamedGroup, PeerMisbehaved, SignatureScheme};

/// What everybody signs with: hubs, their authorities, and devices.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[&Ed25519],
    mapping: &[(SignatureScheme::ED25519, &[&Ed25519])],
};

/// Ed25519 (RFC 8032, and RFC 8410 in certificates), as strictly as for revisions.
#[derive(Debug)]
struct Ed25519;

impl SignatureVerificationAlgorithm for Ed25519 {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let signature = Signature::from_slice(signature).map_err(|_| InvalidSignature)?;
        let key: &[u8; 32] = key.try_into().map_err(|_| InvalidSignature)?;
        let key = VerifyingKey::from_bytes(key).map_err(|_| InvalidSignature)?;
        let judged = key.verify_strict(message, &signature);
        judged.map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }
}

/// The key exchange X25519 (RFC 7748; in TLS: RFC 8446, sections 4.2.8.2 and 7.4.2).
#[derive(Debug)]
pub(super) struct X25519;

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        let mut secret = [0; 32];
        fill_random(&mut secret, Entropy::Seeded).map_err(|_| GetRandomFailed)?;
        let public = MontgomeryPoint::mul_base_clamped(secret).to_bytes();
        Ok(Box::new(Exchange { secret, public }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// One exchange on its way.
struct Exchange {
    secret: [u8; 32],
    public: [u8; 32],
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key exchange")
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, rustls::Error> {
        let invalid = PeerMisbehaved::InvalidKeyShare;
        let peer: [u8; 32] = peer.try_into().map_err(|_| invalid.clone())?;
        let shared = MontgomeryPoint(peer).mul_clamped(self.secret).to_bytes();
        // A point of small order: the secret would be the same with everybody (RFC 7748, section 6.1).
        if shared == [0; 32] {
            return Err(invalid.into());
        }
        Ok(SharedSecret::from(shared.as_slice()))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use rustls::crypto::ring;

    #[test]
    fn secrets_are_those_of_another_implementation() {
        let ours = X25519.start().unwrap();
        let theirs = ring::kx_group::X25519.start().unwrap();
        let (public, other) = (ours.pub_key().to_vec(), theirs.pub_key().to_vec());
        let secret = ours.complete(&other).unwrap();
        let same = theirs.complete(&public).unwrap();
        assert_eq!(secret.secret_bytes(), same.secret_bytes());
    }

    #[test]
    fn points_that_everybody_shares_a_secret_with_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for peer in [[0; 32].as_slice(), &one, &[9; 31], &[9; 33], &[]] {
            let exchange = X25519.start().unwrap();
            let refused = exchange.complete(peer).err().unwrap();
            assert_eq!(refused, PeerMisbehaved::InvalidKeyShare.into(), "{peer:?}");
        }
    }

    #[test]
    fn signatures_are_judged_by_key_message_and_length() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key().to_bytes();
        let signature = key.sign(b"message").to_bytes();
        let judged = |key: &[u8], message: &[u8], signature: &[u8]| {
            Ed25519.verify_signature(key, message, signature).is_ok()
        };
        assert!(judged(&public, b"message", &signature));
        assert!(!judged(&public, b"another", &signature));
        assert!(!judged(&[9; 32], b"message", &signature));
        assert!(!judged(&public[..31], b"message", &signature));
        assert!(!judged(&public, b"message", &signature[..63]));
        let mut changed = signature;
        changed[63] ^= 0x10;
        assert!(!judged(&public, b"message", &changed));
        // A key of small order, with which everybody signs everything: only strict verification refuses it.
        let mut small = [0; 32];
        small[0] = 1;
        let mut anything = [0; 64];
        anything[0] = 1;
        assert!(!judged(&small, b"message", &anything));
    }
}
