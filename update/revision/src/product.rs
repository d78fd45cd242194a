//! The identity that an image is built with: `/etc/kedge/product.json` of the initramfs.
//!
//! `{"spec":"kedge.product/1","product":"gateway","board":"qemu-x86-64","mode":"development"}`

use crate::error::Error;
use crate::id::Name;
use crate::json;
use serde::{Deserialize, Serialize};

/// How much a device trusts whoever stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Mode {
    /// Control from the host and a rescue console are open; its trust root says so and a production hub refuses it.
    Development,
    /// Nothing of that exists.
    Production,
}

/// What a device is: one product on one board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Product {
    spec: String,
    /// The product; a revision for another is refused.
    pub product: Name,
    /// The board; a revision for another is refused.
    pub board: Name,
    /// Development or production.
    pub mode: Mode,
}

impl Product {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.product/1";
    /// Largest document, bytes.
    pub const CAP: usize = 1024;

    /// A product's identity.
    #[must_use]
    pub fn new(product: Name, board: Name, mode: Mode) -> Self {
        Self {
            spec: Self::SPEC.to_owned(),
            product,
            board,
            mode,
        }
    }

    /// Parses the document.
    ///
    /// # Errors
    /// As [`json::parse`], and [`Error::Spec`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let product: Self = json::parse("product", Self::CAP, bytes)?;
        if product.spec == Self::SPEC {
            Ok(product)
        } else {
            Err(Error::Spec {
                expected: Self::SPEC,
                found: product.spec,
            })
        }
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("product", self)
    }
}
