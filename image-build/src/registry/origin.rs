//! Addresses of requests: who is asked, and where a redirect leads.

use super::reference::shown;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::str::FromStr;
use ureq::http::Uri;

/// Longest address.
const LONGEST: usize = 8 * 1024;

/// Scheme, host and port: what of two addresses must be equal for one to be told the other's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Origin {
    pub(super) fn is_encrypted(&self) -> bool {
        self.scheme == "https"
    }

    pub(super) fn has_host_of(&self, other: &Self) -> bool {
        self.host == other.host
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match (self.scheme, self.port) {
            ("https", 443) | ("http", 80) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

impl FromStr for Origin {
    type Err = anyhow::Error;

    /// Of a whole address; what is behind the host is passed over.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || format!("`{}` is no address", shown(text));
        ensure!(
            text.len() <= LONGEST,
            "an address has more than {LONGEST} bytes"
        );
        let uri: Uri = text.parse().with_context(wrong)?;
        let (scheme, port) = match uri.scheme_str() {
            Some("https") => ("https", 443),
            Some("http") => ("http", 80),
            Some(_) | None => bail!(wrong()),
        };
        let authority = uri.authority().with_context(wrong)?;
        // A name and password in an address would be sent along with the request.
        ensure!(
            !authority.as_str().contains('@'),
            "an address has a login in it"
        );
        ensure!(!authority.host().is_empty(), wrong());
        Ok(Self {
            scheme,
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(port),
        })
    }
}

/// Where a redirect leads: a whole address, or a path of the same origin.
pub(super) fn joined(origin: &Origin, place: &str) -> Result<String> {
    if let Some(rest) = place.strip_prefix("//") {
        return Ok(format!("{}://{rest}", origin.scheme));
    }
    if place.starts_with('/') {
        return Ok(format!("{origin}{place}"));
    }
    ensure!(
        place.contains("://"),
        "{origin} sends on to `{}`, which is no address",
        shown(place)
    );
    Ok(place.to_owned())
}

/// Adds a field to an address.
pub(super) fn query(address: &mut String, name: &str, value: &str) {
    address.push(if address.contains('?') { '&' } else { '?' });
    address.push_str(name);
    address.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            address.push(char::from(byte));
        } else {
            address.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_origins_are_equal_and_no_others_are() {
        let origin = |text: &str| text.parse::<Origin>().unwrap();
        assert_eq!(
            origin("https://H.example/a?b"),
            origin("https://h.example:443/c")
        );
        for other in [
            "http://h.example",
            "https://h.example:444",
            "https://h.example.org",
            "https://x.h.example",
        ] {
            assert_ne!(origin("https://h.example"), origin(other), "{other}");
        }
        for bad in [
            "h.example",
            "/x",
            "ftp://h",
            "https://a:b@h.example/",
            "https://",
            "file:///etc",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let origin: Origin = "https://h.example:5000/v2/".parse().unwrap();
        for (place, wanted) in [
            ("/a?b", "https://h.example:5000/a?b"),
            ("https://s.example/x", "https://s.example/x"),
            ("//s.example/x", "https://s.example/x"),
        ] {
            assert_eq!(joined(&origin, place).unwrap(), wanted);
        }
        joined(&origin, "a/b").unwrap_err();
        let mut address = "https://a/token?x=1".to_owned();
        query(&mut address, "service", "a&b=c d");
        assert_eq!(address, "https://a/token?x=1&service=a%26b%3Dc%20d");
    }
}
