//! Secrets in the head of a revision: opened with the device's key before PID 1 judges them.
//!
//! The agent has that key, and PID 1 has not; what it hands on is judged like everything that it brings.

use ed25519_dalek::SigningKey;
use kedge_revision::bundle::{HEADER, Kind, MAGIC, Section};
use kedge_revision::parameters::Parameters;
use kedge_revision::{Error, sealed};

/// The head with the values of its parameters opened. One that is none is for PID 1 to refuse.
///
/// # Errors
/// A value that is not for this device, by its name alone.
pub fn opened(mut head: Vec<u8>, key: &SigningKey) -> Result<Vec<u8>, Error> {
    let prefix = sealed::PREFIX.as_bytes();
    let Some(begin) = parameters(&head) else {
        return Ok(head);
    };
    let document = head.get(begin..).unwrap_or_default();
    if !document.windows(prefix.len()).any(|bytes| bytes == prefix) {
        return Ok(head);
    }
    let document = Parameters::parse(document)?.open(key)?.encode()?;
    let section = Section {
        kind: Kind::Parameters,
        length: u64::try_from(document.len()).unwrap_or(u64::MAX),
    };
    head.truncate(begin.saturating_sub(HEADER));
    head.extend_from_slice(&section.encode());
    head.extend_from_slice(&document);
    Ok(head)
}

/// Where the parameters begin, which are the last section if there are any.
fn parameters(head: &[u8]) -> Option<usize> {
    let mut at = MAGIC.len();
    loop {
        let begin = at.checked_add(HEADER)?;
        let section = Section::parse(head.get(at..begin)?.first_chunk()?).ok()?;
        at = begin.checked_add(usize::try_from(section.length).ok()?)?;
        if section.kind == Kind::Parameters {
            return (at == head.len()).then_some(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_revision::bundle::Head;
    use kedge_revision::{Name, PublicKey};
    use std::collections::BTreeMap;

    fn head(values: Option<&[(&str, String)]>) -> Head {
        let values = values.map(|values| {
            let values: BTreeMap<Name, String> = values
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.clone()))
                .collect();
            Parameters::new(4, values).encode().unwrap()
        });
        Head {
            revision: b"revision".to_vec(),
            signatures: b"signatures".to_vec(),
            parameters: values,
        }
    }

    #[test]
    fn what_is_sealed_for_the_device_is_opened_and_the_rest_stays() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
        let name = "password".parse().unwrap();
        let value = sealed::seal(public, &name, "hunter2", [9; 32]).unwrap();
        let plain = ("site", "berlin".to_owned());
        let sealed = head(Some(&[plain.clone(), ("password", value)]));
        let open = head(Some(&[plain.clone(), ("password", "hunter2".to_owned())]));
        let done = opened(sealed.encode(), &key).unwrap();
        assert_eq!(Head::parse(&done).unwrap(), open);
        let other = SigningKey::from_bytes(&[2; 32]);
        let error = opened(sealed.encode(), &other).unwrap_err().to_string();
        assert!(error.contains("password") && !error.contains("sealed:v1"));
        for untouched in [head(None), head(Some(&[plain])), head(Some(&[]))] {
            let bytes = untouched.encode();
            assert_eq!(opened(bytes.clone(), &key).unwrap(), bytes);
        }
        let bytes = sealed.encode();
        for length in 0..bytes.len() {
            let cut = bytes[..length].to_vec();
            assert_eq!(opened(cut.clone(), &key).unwrap(), cut);
        }
    }
}
