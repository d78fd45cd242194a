//! HPKE in base mode, one message a context: RFC 9180, sections 4 to 6, for one suite. Names are the standard's.

use curve25519_dalek::montgomery::MontgomeryPoint;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

/// DHKEM(X25519, HKDF-SHA256).
const KEM: &[u8] = b"KEM\x00\x20";
/// The same with HKDF-SHA256 and ChaCha20Poly1305.
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";
/// Bytes of a key, and of what sealing adds.
const KEY: usize = 32;
const TAG: usize = 16;

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    out
}

/// `LabeledExtract`.
fn extract(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> [u8; 32] {
    hmac(salt, &[b"HPKE-v1", suite, label, ikm])
}

/// `LabeledExpand`, for at most one block of the hash: `length` is 32 at most.
fn expand(suite: &[u8], prk: &[u8], label: &[u8], info: &[u8], length: u8) -> [u8; 32] {
    hmac(prk, &[&[0, length], b"HPKE-v1", suite, label, info, &[1]])
}

/// `ExtractAndExpand` over what both sides have.
fn shared_secret(dh: MontgomeryPoint, enc: &[u8], receiver: &[u8]) -> Option<[u8; 32]> {
    // A point of small order: both would have the same secret with everybody (RFC 9180, section 7.1.4).
    if dh.as_bytes() == &[0; 32] {
        return None;
    }
    let prk = extract(KEM, b"", b"eae_prk", dh.as_bytes());
    let context = [enc, receiver].concat();
    Some(expand(KEM, &prk, b"shared_secret", &context, 32))
}

/// `KeySchedule` in base mode: the key of the one message and its nonce.
fn schedule(secret: &[u8; 32], info: &[u8]) -> Option<(LessSafeKey, Nonce)> {
    let psk_id = extract(SUITE, b"", b"psk_id_hash", b"");
    let info = extract(SUITE, b"", b"info_hash", info);
    let context = [&[0][..], &psk_id, &info].concat();
    let secret = extract(SUITE, secret, b"secret", b"");
    let key = expand(SUITE, &secret, b"key", &context, 32);
    let nonce = expand(SUITE, &secret, b"base_nonce", &context, 12);
    let key = UnboundKey::new(&CHACHA20_POLY1305, &key).ok()?;
    let nonce = Nonce::assume_unique_for_key(*nonce.first_chunk()?);
    Some((LessSafeKey::new(key), nonce))
}

/// `SealBase`: the sender's key, and what is sealed. `chance` is its secret half.
pub(super) fn seal(
    receiver: MontgomeryPoint,
    info: &[u8],
    aad: &[u8],
    plain: &[u8],
    chance: [u8; 32],
) -> Option<Vec<u8>> {
    let enc = MontgomeryPoint::mul_base_clamped(chance);
    let dh = receiver.mul_clamped(chance);
    let secret = shared_secret(dh, enc.as_bytes(), receiver.as_bytes())?;
    let (key, nonce) = schedule(&secret, info)?;
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed)
        .ok()?;
    let mut all = enc.as_bytes().to_vec();
    all.append(&mut sealed);
    Some(all)
}

/// `OpenBase`.
pub(super) fn open(receiver: [u8; 32], info: &[u8], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (enc, sealed) = sealed.split_first_chunk::<KEY>()?;
    let own = MontgomeryPoint::mul_base_clamped(receiver);
    let dh = MontgomeryPoint(*enc).mul_clamped(receiver);
    let secret = shared_secret(dh, enc, own.as_bytes())?;
    let (key, nonce) = schedule(&secret, info)?;
    let mut plain = sealed.to_vec();
    key.open_in_place(nonce, Aad::from(aad), &mut plain).ok()?;
    plain.truncate(plain.len().checked_sub(TAG)?);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).unwrap()).collect();
        let pairs = digits.chunks(2);
        pairs
            .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
            .collect()
    }

    fn key(hex: &str) -> [u8; 32] {
        bytes(hex).try_into().unwrap()
    }

    /// RFC 9180, appendix A.2.1.
    #[test]
    fn the_vector_of_the_standard() {
        let sender = key("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600");
        let enc = key("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let receiver = key("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let public = key("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let info = bytes("4f6465206f6e2061204772656369616e2055726e");
        let aad = bytes("436f756e742d30");
        let plain = bytes("4265617574792069732074727574682c20747275746820626561757479");
        let sealed = bytes(
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
        );
        assert_eq!(MontgomeryPoint::mul_base_clamped(sender).0, enc);
        assert_eq!(MontgomeryPoint::mul_base_clamped(receiver).0, public);
        let dh = MontgomeryPoint(public).mul_clamped(sender);
        assert_eq!(
            shared_secret(dh, &enc, &public),
            Some(key(
                "0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7"
            ))
        );
        let all = [&enc[..], &sealed].concat();
        let ours = seal(MontgomeryPoint(public), &info, &aad, &plain, sender);
        assert_eq!(ours.as_deref(), Some(&all[..]));
        assert_eq!(open(receiver, &info, &aad, &all), Some(plain));
        assert_eq!(open(receiver, &info, b"", &all), None);
        assert_eq!(open(receiver, b"", &aad, &all), None);
    }

    #[test]
    fn a_point_of_small_order_is_refused() {
        // u = 0 and u = 1 (RFC 7748, section 6.1).
        for u in [0, 1] {
            let mut point = [0; 32];
            point[0] = u;
            let sealed = [&point[..], &[9; 40]].concat();
            assert_eq!(open([5; 32], b"", b"", &sealed), None);
            assert_eq!(seal(MontgomeryPoint(point), b"", b"", b"x", [5; 32]), None);
        }
    }
}
