//! Parameters: the only values that differ between devices of a product.
//!
//! A revision declares each with a type and bounds; provisioning or the hub fill them and can fill
//! nothing else. {revision, parameters} is what is tried, judged and rolled back.

use crate::configuration::Prefix;
use crate::error::Error;
use crate::id::Name;
use crate::json;
use crate::sealed;
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One entry of `content.parameters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Parameter {
    /// What values are allowed.
    #[serde(rename = "type")]
    pub kind: ParameterType,
    /// Longest value, bytes, for `string`; 1024 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// The value on a device to which nobody gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Never logged or reported, sealed to the device's key in transit, given to containers as a file only.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub secret: bool,
}

/// Type of a parameter's value; every value is written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterType {
    /// Text without control characters.
    String,
    /// A decimal integer that fits 64 bits.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// `10.0.2.15`.
    Ipv4,
    /// `10.0.2.15/24`, or `dhcp`.
    Ipv4Prefix,
}

impl Parameter {
    /// Longest text of a value, bytes.
    pub const MAX_LENGTH: u32 = 4096;

    fn longest(&self) -> usize {
        usize::try_from(self.max_length.unwrap_or(1024)).unwrap_or(usize::MAX)
    }

    /// Whether `value` may be given to this parameter.
    ///
    /// # Errors
    /// [`Error::Invalid`] with `field`, never with the value: it may be a secret.
    pub fn accepts(&self, value: &str, field: &str) -> Result<(), Error> {
        if value.len() > self.longest() {
            return Err(Error::invalid(field, "is longer than the parameter allows"));
        }
        let (good, why) = match self.kind {
            ParameterType::String => (
                !value.chars().any(char::is_control),
                "holds a control character",
            ),
            ParameterType::Integer => (
                value.parse::<i64>().is_ok_and(|n| n.to_string() == value),
                "is no decimal integer of 64 bits",
            ),
            ParameterType::Boolean => (
                value == "true" || value == "false",
                "is neither true nor false",
            ),
            ParameterType::Ipv4 => (value.parse::<Ipv4Addr>().is_ok(), "is no IPv4 address"),
            ParameterType::Ipv4Prefix => (
                value == "dhcp" || value.parse::<Prefix>().is_ok_and(|p| p.address.is_ipv4()),
                "is neither an IPv4 address with prefix length nor dhcp",
            ),
        };
        if good {
            Ok(())
        } else {
            Err(Error::invalid(field, why))
        }
    }

    /// Checks the declaration itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field.
    pub fn check(&self, field: &str) -> Result<(), Error> {
        if self.max_length.is_some_and(|n| n > Self::MAX_LENGTH) {
            return Err(Error::invalid(
                format!("{field}.max-length"),
                "is over 4096",
            ));
        }
        match &self.default {
            Some(_) if self.secret => Err(Error::invalid(
                format!("{field}.default"),
                "of a secret would stand in every revision",
            )),
            Some(default) => self.accepts(default, &format!("{field}.default")),
            None => Ok(()),
        }
    }
}

/// The values given to one device: `/data/revisions/<id>/parameters/<counter>`.
///
/// `{"spec":"kedge.parameters/1","counter":3,"values":{"site-ip":"dhcp"}}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Parameters {
    spec: String,
    /// Only grows on a device; 0 is "nobody gave any".
    pub counter: u64,
    /// Value by parameter.
    pub values: BTreeMap<Name, String>,
}

impl Parameters {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.parameters/1";
    /// Largest document, bytes.
    pub const CAP: usize = 64 * 1024;

    /// Values that were given under `counter`.
    #[must_use]
    pub fn new(counter: u64, values: BTreeMap<Name, String>) -> Self {
        Self {
            spec: Self::SPEC.to_owned(),
            counter,
            values,
        }
    }

    /// Parses the document; whether the values fit a revision is told by [`Parameters::check`].
    ///
    /// # Errors
    /// As [`json::parse`], and [`Error::Spec`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let parameters: Self = json::parse("parameters", Self::CAP, bytes)?;
        if parameters.spec == Self::SPEC {
            Ok(parameters)
        } else {
            Err(Error::Spec {
                expected: Self::SPEC,
                found: parameters.spec,
            })
        }
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("parameters", self)
    }

    /// Whether every value is declared and of its type: on a device, which has opened its secrets.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the parameter's name.
    pub fn check(&self, declared: &BTreeMap<Name, Parameter>) -> Result<(), Error> {
        self.each(declared, |parameter, value, field| {
            if parameter.secret && sealed::is_sealed(value) {
                return Err(Error::invalid(field, "is still sealed"));
            }
            parameter.accepts(value, field)
        })
    }

    /// Keeps the values that a revision takes: of those that are declared otherwise now, and of those that no longer are, there is
    /// nothing left. On a device, as [`Parameters::check`].
    pub fn retain(&mut self, declared: &BTreeMap<Name, Parameter>) {
        self.values.retain(|name, value| {
            declared.get(name).is_some_and(|parameter| {
                let open = !(parameter.secret && sealed::is_sealed(value));
                open && parameter.accepts(value, "").is_ok()
            })
        });
    }

    /// The same at a hub, where secrets are sealed: of what is in them only the length is known.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the parameter's name, also for a secret that is not sealed.
    pub fn check_sealed(&self, declared: &BTreeMap<Name, Parameter>) -> Result<(), Error> {
        self.each(declared, |parameter, value, field| {
            if parameter.secret {
                sealed::check(value, parameter.longest(), field)
            } else {
                parameter.accepts(value, field)
            }
        })
    }

    fn each(
        &self,
        declared: &BTreeMap<Name, Parameter>,
        judge: impl Fn(&Parameter, &str, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (name, value) in &self.values {
            let field = format!("parameters.{name}");
            match declared.get(name) {
                Some(parameter) => judge(parameter, value, &field)?,
                None => return Err(Error::invalid(field, "is not declared by the revision")),
            }
        }
        Ok(())
    }

    /// With its sealed values opened by the device's key.
    ///
    /// # Errors
    /// As [`sealed::open`].
    #[cfg(feature = "seal")]
    pub fn open(mut self, device: &ed25519_dalek::SigningKey) -> Result<Self, Error> {
        for (name, value) in &mut self.values {
            if sealed::is_sealed(value) {
                *value = sealed::open(device, name, value)?;
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_type_are_refused() {
        let typed = |kind| Parameter {
            kind,
            max_length: None,
            default: None,
            secret: false,
        };
        for (kind, good, bad) in [
            (ParameterType::String, "a b", "a\nb"),
            (ParameterType::Integer, "-7", "+7"),
            (ParameterType::Integer, "0", "00"),
            (ParameterType::Boolean, "true", "yes"),
            (ParameterType::Ipv4, "10.0.0.1", "10.0.0.256"),
            (ParameterType::Ipv4Prefix, "dhcp", "10.0.0.1"),
            (ParameterType::Ipv4Prefix, "10.0.0.1/8", "::1/64"),
        ] {
            typed(kind).accepts(good, "p").unwrap();
            typed(kind).accepts(bad, "p").unwrap_err();
        }
    }

    #[test]
    fn a_secret_is_sealed_at_a_hub_and_open_on_a_device() {
        let secret = Parameter {
            kind: ParameterType::String,
            max_length: Some(8),
            default: None,
            secret: true,
        };
        let name: Name = "password".parse().unwrap();
        let declared = BTreeMap::from([(name.clone(), secret)]);
        let given =
            |value: &str| Parameters::new(1, BTreeMap::from([(name.clone(), value.to_owned())]));
        let sealed = format!("{}{}", sealed::PREFIX, "0a".repeat(32 + 16 + 8));
        given("hunter2").check(&declared).unwrap();
        given("hunter2").check_sealed(&declared).unwrap_err();
        given(&sealed).check_sealed(&declared).unwrap();
        given(&sealed).check(&declared).unwrap_err();
        let longer = format!("{sealed}0a");
        given(&longer).check_sealed(&declared).unwrap_err();
    }

    #[test]
    fn a_secret_has_no_default() {
        let secret = Parameter {
            kind: ParameterType::String,
            max_length: None,
            default: Some("x".into()),
            secret: true,
        };
        secret.check("parameters.p").unwrap_err();
    }
}
