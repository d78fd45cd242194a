//! A key that can sign, wherever it is kept.

use super::token::{TokenKey, Uri};
use super::{KeyFile, Passphrase, public};
use anyhow::{Context, Result};
use ed25519_dalek::SigningKey;
use kedge_revision::signing::{Kind, message};
use kedge_revision::{PublicKey, SignatureSet};
use std::path::Path;

/// A key that can sign.
#[derive(Debug)]
pub enum Signer {
    /// Its secret is in this process's memory: it came from a file.
    Held(SigningKey),
    /// Its secret is in a token.
    Token(TokenSigner),
}

/// A key of a token, logged in.
#[derive(Debug)]
pub struct TokenSigner(TokenKey);

impl Signer {
    /// A key by what a command line says: a key file, or a `pkcs11:` URI.
    ///
    /// # Errors
    /// As [`KeyFile::signer`] and [`Signer::in_token`].
    pub fn named(name: &Path, passphrase: &Passphrase) -> Result<Self> {
        match name.to_str().filter(|text| Uri::is_one(text)) {
            Some(uri) => Self::in_token(uri, passphrase),
            None => KeyFile::read(name)?.signer(passphrase),
        }
    }

    /// A token's key.
    ///
    /// # Errors
    /// The name is none, the library, the token or the key is not there or is of another kind, or the PIN is wrong.
    pub fn in_token(uri: &str, pin: &Passphrase) -> Result<Self> {
        let key = TokenKey::open(&Uri::parse(uri)?, pin)?;
        Ok(Self::Token(TokenSigner(key)))
    }

    /// A new key in a token.
    ///
    /// # Errors
    /// As [`Signer::in_token`]; a key of that name is there.
    pub fn make_in_token(uri: &str, pin: &Passphrase) -> Result<Self> {
        let key = TokenKey::make(&Uri::parse(uri)?, pin)?;
        Ok(Self::Token(TokenSigner(key)))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Held(key) => public(key),
            Self::Token(TokenSigner(key)) => key.public(),
        }
    }

    /// Adds its signature over a document to a set. What a token gives is verified as devices do before it is used.
    ///
    /// # Errors
    /// The token refuses, or signs what does not verify.
    pub fn sign(&self, set: &mut SignatureSet, kind: Kind, document: &[u8]) -> Result<()> {
        match self {
            Self::Held(key) => {
                set.sign(kind, document, key);
                Ok(())
            }
            Self::Token(TokenSigner(key)) => {
                let signature = key.sign(&message(kind, document))?;
                set.insert(kind, document, key.public(), signature)
                    .context("the token's signature is of no use; it was not written")
            }
        }
    }
}
