//! `kedge.toml`: what the product is, and everything of a revision that is not a container.
//!
//! `examples/kedge.toml` shows every field. The types here are what people write; [`Manifest::content`] turns them into the checked
//! types of `kedge-revision`, which have the last word.

use super::units::{Size, Span};
use kedge_revision::configuration::{Interface, Logs, NetworkConfiguration, Ports, Sticks};
use kedge_revision::content::{Change, Commit, Content, Group, HubGoal};
use kedge_revision::parameters::Parameter;
use kedge_revision::pool::{Pool, give_addresses};
use kedge_revision::{Configuration, Container, Mode, Name};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// A project's `kedge.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// The product's name; devices refuse revisions of another.
    pub product: Name,
    /// The kind of machine.
    pub board: Name,
    /// Development or production; must be that of the trust root.
    pub mode: Mode,
    /// The author's own name for the revision.
    pub version: String,
    /// The revision's place in the order.
    #[serde(default)]
    pub revision: Revision,
    /// Kernel arguments and the like.
    #[serde(default)]
    pub boot: BootText,
    /// The key that the firmware of UEFI boards is to trust, and nothing else.
    #[serde(default)]
    pub secure_boot: Option<SecureBootText>,
    /// Groups in the order in which they start.
    pub groups: Vec<GroupText>,
    /// Values that differ between devices.
    #[serde(default)]
    pub parameters: BTreeMap<Name, Parameter>,
    /// The device's own configuration.
    #[serde(default)]
    pub configuration: ConfigurationText,
    /// How a trial is judged.
    #[serde(default)]
    pub commit: CommitText,
}

/// `[revision]`: order and trial.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Revision {
    /// `"auto"`, or a number that the author keeps.
    pub counter: Counter,
    /// Devices that committed the revision never run one with a lower counter again.
    pub floor: u64,
    /// Boots that a trial may take.
    pub tries: u8,
}

impl Default for Revision {
    fn default() -> Self {
        Self {
            counter: Counter::Auto,
            floor: 0,
            tries: 3,
        }
    }
}

/// Where the revision's counter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// One more than the last build's if anything changed (`kedge.lock`).
    Auto,
    /// This number, for instance from a build server.
    Fixed(u64),
}

impl<'de> Deserialize<'de> for Counter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Counter;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a number from 1 on")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Counter, E> {
                if text == "auto" {
                    Ok(Counter::Auto)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Counter, E> {
                match u64::try_from(number) {
                    Ok(number) if number > 0 => Ok(Counter::Fixed(number)),
                    Ok(_) | Err(_) => Err(E::invalid_value(
                        serde::de::Unexpected::Signed(number),
                        &self,
                    )),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// `[boot]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct BootText {
    /// Kernel arguments beside those of the board.
    pub arguments: String,
}

/// `[secure-boot]`; paths are relative to the project.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecureBootText {
    /// An RSA key in PEM, as for `sbsign`.
    pub key: PathBuf,
    /// Its certificate in PEM.
    pub certificate: PathBuf,
}

/// One of `[[groups]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GroupText {
    /// Its name.
    pub name: Name,
    /// What a changed container of it costs.
    pub change: Change,
}

/// `[configuration]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ConfigurationText {
    /// Addresses of the hubs.
    pub hubs: Vec<String>,
    /// What becomes of bundles on removable disks.
    pub sticks: Sticks,
    /// Interfaces and names.
    pub network: NetworkText,
    /// Networks of containers' own by name.
    pub networks: BTreeMap<Name, Pool>,
    /// Bounds of what is logged.
    pub logs: LogsText,
}

/// `[configuration.network]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NetworkText {
    /// The product's name if absent.
    pub hostname: Option<Name>,
    /// Name servers of containers on the device's network.
    pub nameservers: Vec<IpAddr>,
    /// Interfaces by the kernel's name.
    pub interfaces: BTreeMap<String, Interface>,
    /// What happens to Ethernet ports where no interface is listed.
    pub ports: Ports,
    /// Interfaces in the order in which their default routes are preferred.
    pub prefer: Vec<String>,
}

/// `[configuration.logs]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LogsText {
    /// Most of them kept on disk.
    pub disk_max: Size,
}

impl Default for LogsText {
    fn default() -> Self {
        Self {
            disk_max: Size {
                bytes: Logs::default().disk_max,
            },
        }
    }
}

/// `[commit]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct CommitText {
    /// How long all goals must hold; whole seconds.
    pub window: Span,
    /// Whether the hub must answer.
    pub hub: HubGoal,
    /// For how long its answer is waited for; whole seconds. 15 minutes if absent.
    pub hub_wait: Option<Span>,
}

impl Default for CommitText {
    fn default() -> Self {
        Self {
            window: Span::s(60),
            hub: HubGoal::IfReachableBefore,
            hub_wait: None,
        }
    }
}

impl Manifest {
    /// The content of a revision with these containers, which get their addresses of pools. Not yet checked: [`Content::check`]
    /// does that.
    #[must_use]
    pub fn content(&self, mut containers: BTreeMap<Name, Container>) -> Content {
        give_addresses(&self.configuration.networks, &mut containers);
        let network = &self.configuration.network;
        Content {
            requires: Content::FEATURES.map(str::to_owned).to_vec(),
            parameters: self.parameters.clone(),
            groups: self
                .groups
                .iter()
                .map(|g| Group {
                    name: g.name.clone(),
                    change: g.change,
                })
                .collect(),
            containers,
            configuration: Configuration {
                network: NetworkConfiguration {
                    hostname: network.hostname.clone(),
                    interfaces: network.interfaces.clone(),
                    nameservers: network.nameservers.clone(),
                    ports: network.ports,
                    prefer: network.prefer.clone(),
                },
                networks: self.configuration.networks.clone(),
                logs: Logs {
                    disk_max: self.configuration.logs.disk_max.bytes,
                },
                hubs: self.configuration.hubs.clone(),
                sticks: self.configuration.sticks,
            },
            commit: Commit {
                window_s: self.commit.window.ms / 1000,
                hub: self.commit.hub,
                hub_wait_s: self.commit.hub_wait.map(|wait| wait.ms / 1000),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_auto_or_positive() {
        let counter = |text: &str| {
            toml::from_str::<Revision>(&format!("counter = {text}")).map(|r| r.counter)
        };
        assert_eq!(counter("\"auto\""), Ok(Counter::Auto));
        assert_eq!(counter("7"), Ok(Counter::Fixed(7)));
        for bad in ["0", "-1", "\"seven\"", "1.5"] {
            counter(bad).unwrap_err();
        }
    }

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let text =
            "product = \"p\"\nboard = \"b\"\nmode = \"production\"\nversion = \"1\"\ngroups = []\n";
        let manifest: Manifest = toml::from_str(text).unwrap();
        let content = manifest.content(BTreeMap::new());
        content.check().unwrap();
        assert_eq!(content.commit.window_s, 60);
        assert_eq!(manifest.revision.tries, 3);
    }
}
