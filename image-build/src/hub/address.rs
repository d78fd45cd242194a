//! Where a hub is: `https://host[:port]`, and nothing behind it.

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use std::fmt;
use std::str::FromStr;

/// A hub's port where its address has none: that of HTTPS.
const PORT: u16 = 443;

/// The address of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host without brackets, for the resolver.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as they stand in an address and in the header `host`.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == PORT {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// The name that its certificate must have.
    pub(super) fn server_name(&self) -> Result<ServerName<'static>> {
        ServerName::try_from(self.host.clone())
            .with_context(|| format!("`{}` can be no name of a server", self.host))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || format!("`{text}` is no hub's address\nhelp: write https://HOST:PORT");
        let Some(rest) = text.strip_prefix("https://") else {
            bail!(wrong());
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').with_context(wrong)?;
                (host, rest.strip_prefix(':'))
            }
            None => rest
                .split_once(':')
                .map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(PORT), str::parse).with_context(wrong)?;
        ensure!(port > 0, wrong());
        let address = Self {
            host: host.to_ascii_lowercase(),
            port,
        };
        address.server_name().with_context(wrong)?;
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        for (text, one) in [
            ("https://hub.example:8443/", "https://hub.example:8443"),
            ("https://Hub.Example:443", "https://hub.example"),
            ("https://10.0.2.2:8443", "https://10.0.2.2:8443"),
            ("https://[fd00::1]:8443", "https://[fd00::1]:8443"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), one);
        }
        for bad in [
            "hub.example",
            "http://hub",
            "https://",
            "https://hub/path",
            "https://hub:0",
            "https://hub:x",
            "https://user@hub",
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(format!("{error:#}").contains("https://HOST:PORT"), "{bad}");
        }
    }
}
