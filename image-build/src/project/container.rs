//! `containers/<name>.toml`: one container, as its author writes it.
//!
//! `examples/web.toml` shows every field. What is absent has the same default as in the signed form (which confines);
//! `kedge add` writes down what an image needs, so that everything which widens stands in the file and can be deleted.

use super::limits::LimitsText;
use super::units::{Signal, Size, Span, UserText};
use kedge_revision::container::{
    Capability, Check, ControlRole, DeviceRule, Goal, Health, Lifetime, Network, Process, Restart,
    RestartPolicy, RootWrites, Snapshot, Then, User, Volume,
};
use kedge_revision::device::Access;
use kedge_revision::pool::{Place, Published};
use kedge_revision::{Container, Error, Name, ObjectId};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A container's definition.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ContainerText {
    /// Where its layers came from; `kedge build` imports it again when `build/` was deleted.
    #[serde(default)]
    pub image: Option<String>,
    /// Which image of several in that source.
    #[serde(default)]
    pub reference: Option<String>,
    /// Its layers, the lowest first; written by `kedge add`.
    pub layers: Vec<ObjectId>,
    /// The group it belongs to.
    pub group: Name,
    /// What it must reach for its revision to hold.
    pub goal: Goal,
    /// Where writes to its root go.
    #[serde(default)]
    pub root: RootWrites,
    /// Which network it sees.
    #[serde(default)]
    pub network: NetworkText,
    /// Ports of the device behind which it listens; for a container in a pool.
    #[serde(default)]
    pub ports: Vec<Published>,
    /// Devices that appear in its `/dev`.
    #[serde(default)]
    pub devices: Vec<DeviceText>,
    /// Capabilities inside its own user namespace.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// What it may ask of PID 1.
    #[serde(default)]
    pub roles: Vec<ControlRole>,
    /// Containers of the group that must have met their goals first.
    #[serde(default)]
    pub after: Vec<Name>,
    /// What runs.
    pub process: ProcessText,
    /// How it is found ready.
    #[serde(default)]
    pub health: Option<HealthText>,
    /// What follows its end.
    #[serde(default)]
    pub restart: RestartText,
    /// Writable data by name.
    #[serde(default)]
    pub volumes: BTreeMap<Name, VolumeText>,
    /// Bounds on what it uses.
    #[serde(default)]
    pub limits: LimitsText,
}

/// `network`: `"none"`, `"host"`, or `{ pool = "front" }`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkText {
    /// Loopback alone.
    #[default]
    None,
    /// The device's own.
    Host,
    /// A pool of `configuration.networks`.
    Pool(Name),
}

/// `devices = [{ subsystem = "tty", vendor = "0403", product = "6001" }]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeviceText {
    /// A folder of `/sys/class`, or `usb`.
    pub subsystem: String,
    /// Of the USB or PCI device that it belongs to.
    #[serde(default)]
    pub vendor: Option<String>,
    /// Likewise.
    #[serde(default)]
    pub product: Option<String>,
    /// Of the USB device that it belongs to.
    #[serde(default)]
    pub serial: Option<String>,
    /// Its place in sysfs, or that of one above.
    #[serde(default)]
    pub path: Option<String>,
    /// What it is called in the container.
    #[serde(default)]
    pub name: Option<String>,
    /// `r`, `w` or `rw`.
    #[serde(default)]
    pub access: AccessText,
    /// Whether there is no start without it.
    #[serde(default)]
    pub required: bool,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub enum AccessText {
    /// It is read.
    #[serde(rename = "r")]
    Read,
    /// It is written.
    #[serde(rename = "w")]
    Write,
    /// Both.
    #[default]
    #[serde(rename = "rw")]
    Both,
}

/// The signed form of rules for devices.
fn devices(texts: &[DeviceText]) -> Result<Vec<DeviceRule>, Wrong> {
    let rules = texts.iter().enumerate().map(|(index, text)| {
        let text = text.clone();
        let rule = DeviceRule {
            subsystem: text.subsystem,
            vendor: text.vendor,
            product: text.product,
            serial: text.serial,
            path: text.path,
            name: text.name,
            access: match text.access {
                AccessText::Read => Access::Read,
                AccessText::Write => Access::Write,
                AccessText::Both => Access::Both,
            },
            required: text.required,
        };
        // In a document it is one line: what that cannot carry, as a space in a name, is no rule.
        let is_rule = rule
            .to_string()
            .parse::<DeviceRule>()
            .is_ok_and(|read| read == rule);
        let wrong = |key: Option<&str>, message, help: &str| {
            let keys = ["devices", &index.to_string()].map(str::to_owned);
            let key = key.map(str::to_owned);
            Wrong {
                keys: keys.into_iter().chain(key).collect(),
                message,
                help: help.to_owned(),
            }
        };
        // Before they are sorted: the signed form has them in another order than the file.
        if let Err(Error::Invalid { field, why }) = rule.check("") {
            let key = field.trim_start_matches('.');
            let help = "docs/devices.md tells what a rule may say";
            return Err(wrong(Some(key), format!("`{key}` {why}"), help));
        }
        let help = "only a serial number may have spaces in it";
        let why = "this is no rule for devices".to_owned();
        is_rule
            .then_some(rule)
            .ok_or_else(|| wrong(None, why, help))
    });
    Ok(sorted(&rules.collect::<Result<Vec<_>, _>>()?))
}

/// `[process]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProcessText {
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// `NAME=value`.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Numbers, or names of the image's own `/etc/passwd` and `/etc/group`.
    #[serde(default = "root_user")]
    pub user: UserText,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<u16>,
    /// Absolute path.
    #[serde(default = "slash")]
    pub working_directory: String,
    /// What asks it to end.
    #[serde(default = "terminate")]
    pub stop_signal: Signal,
    /// Between the stop signal and the kill.
    #[serde(default = "ten_seconds")]
    pub stop_grace: Span,
    /// Environment variables filled from parameters.
    #[serde(default)]
    pub parameters: BTreeMap<String, Name>,
    /// Secret parameters that it reads as files.
    #[serde(default)]
    pub secrets: Vec<Name>,
}

/// `[health]`: exactly one of `notify`, `command`, `http` and `tcp`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HealthText {
    /// `notify = true`: it says so itself (sd_notify(3)).
    #[serde(default)]
    pub notify: Option<bool>,
    /// A command inside the container.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// A GET on the container's loopback.
    #[serde(default)]
    pub http: Option<HttpText>,
    /// A port on the container's loopback.
    #[serde(default)]
    pub tcp: Option<u16>,
    /// From one check to the next.
    #[serde(default = "thirty_seconds")]
    pub interval: Span,
    /// When a check has failed.
    #[serde(default = "five_seconds")]
    pub timeout: Span,
    /// Failures in a row after which it is ill.
    #[serde(default = "three")]
    pub retries: u32,
    /// Failures do not count for so long after its start.
    #[serde(default)]
    pub start_period: Option<Span>,
}

/// `http = { port = 8080, path = "/" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HttpText {
    /// TCP port.
    pub port: u16,
    /// Path of the URL.
    #[serde(default = "slash")]
    pub path: String,
}

/// `[restart]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RestartText {
    /// When it is started again.
    pub policy: RestartPolicy,
    /// Before the first restart; doubles.
    pub delay: Span,
    /// The delay grows no further.
    pub max_delay: Span,
    /// A run this long forgets earlier failures.
    pub reset_after: Span,
    /// Restarts in a row before `then`; without end if absent.
    pub max_retries: Option<u32>,
    /// What happens when they are used up.
    pub then: Then,
}

impl Default for RestartText {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::OnFailure,
            delay: Span::s(1),
            max_delay: Span::s(60),
            reset_after: Span::s(300),
            max_retries: None,
            then: Then::Leave,
        }
    }
}

/// `[volumes.<name>]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VolumeText {
    /// Absolute path inside the container.
    pub path: String,
    /// How long the data lives.
    pub lifetime: Lifetime,
    /// Owner of its top directory; the process's user if absent.
    #[serde(default)]
    pub owner: Option<UserText>,
    /// Most data.
    #[serde(default)]
    pub size: Option<Size>,
    /// Whether a copy is kept while a revision is on trial.
    #[serde(default)]
    pub snapshot: Snapshot,
    /// Largest copy; `size` if absent.
    #[serde(default)]
    pub snapshot_max: Option<Size>,
}

/// What is wrong with a definition before it has the signed form: the keys that lead to it, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Keys from the file's top.
    pub keys: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// How a user's name becomes ids: the image's own `/etc/passwd` and `/etc/group` decide.
pub type ResolveUser<'a> = dyn Fn(&UserText) -> Result<User, String> + 'a;

impl ContainerText {
    /// The signed form. Lists that are sorted there may stand in any order here.
    ///
    /// # Errors
    /// [`Wrong`]; bounds are checked later, by [`Container::check`].
    pub fn container(&self, resolve: &ResolveUser<'_>) -> Result<Container, Wrong> {
        let process = self.process(resolve)?;
        let mut volumes = BTreeMap::new();
        for (name, volume) in &self.volumes {
            let keys = || vec!["volumes".to_owned(), name.to_string(), "owner".to_owned()];
            let owner = volume
                .owner
                .as_ref()
                .map(|text| user(resolve, text, keys))
                .transpose()?;
            let volume = Volume {
                path: volume.path.clone(),
                lifetime: volume.lifetime,
                owner,
                size: volume.size.map(|s| s.bytes),
                snapshot: volume.snapshot,
                snapshot_max: volume.snapshot_max.map(|s| s.bytes),
            };
            volumes.insert(name.clone(), volume);
        }
        Ok(Container {
            group: self.group.clone(),
            layers: self.layers.clone(),
            process,
            goal: self.goal,
            health: self.health.as_ref().map(HealthText::health).transpose()?,
            restart: self.restart.restart(),
            root: self.root,
            volumes,
            limits: self.limits.limits(),
            network: self.network()?,
            devices: devices(&self.devices)?,
            capabilities: sorted(&self.capabilities),
            roles: sorted(&self.roles),
            after: sorted(&self.after),
        })
    }

    /// Without an address: those of a pool are given when all its containers are known.
    fn network(&self) -> Result<Network, Wrong> {
        match &self.network {
            NetworkText::Pool(name) => {
                let ports = sorted(&self.ports);
                Ok(Network::Pool(Place::without_address(name.clone(), ports)))
            }
            NetworkText::None | NetworkText::Host if !self.ports.is_empty() => Err(Wrong {
                keys: vec!["ports".to_owned()],
                message: "only a container in a pool publishes ports".to_owned(),
                help: "for instance network = { pool = \"front\" }; on the device's own network the program itself listens"
                    .to_owned(),
            }),
            NetworkText::None => Ok(Network::None),
            NetworkText::Host => Ok(Network::Host),
        }
    }

    fn process(&self, resolve: &ResolveUser<'_>) -> Result<Process, Wrong> {
        let text = &self.process;
        let mut ids = user(resolve, &text.user, || {
            vec!["process".to_owned(), "user".to_owned()]
        })?;
        ids.groups.extend(&text.groups);
        ids.groups = sorted(&ids.groups);
        let mut environment = text.environment.clone();
        if !environment.iter().any(|entry| entry.starts_with("PATH=")) {
            environment.insert(0, DEFAULT_PATH.to_owned());
        }
        Ok(Process {
            arguments: text.arguments.clone(),
            environment,
            user: ids,
            working_directory: text.working_directory.clone(),
            stop_signal: text.stop_signal.number,
            stop_grace_ms: text.stop_grace.ms,
            parameters: text.parameters.clone(),
            secrets: sorted(&text.secrets),
        })
    }
}

impl HealthText {
    fn health(&self) -> Result<Health, Wrong> {
        let checks = [
            self.notify.filter(|notify| *notify).map(|_| Check::Notify),
            self.command.clone().map(Check::Command),
            self.http.clone().map(|http| Check::Http {
                port: http.port,
                path: http.path,
            }),
            self.tcp.map(|port| Check::Tcp { port }),
        ];
        let mut given = checks.into_iter().flatten();
        let (Some(check), None) = (given.next(), given.next()) else {
            return Err(Wrong {
                keys: vec!["health".to_owned()],
                message: "a health check is exactly one of `notify`, `command`, `http` and `tcp`"
                    .to_owned(),
                help: "for instance: http = { port = 8080, path = \"/\" }".to_owned(),
            });
        };
        Ok(Health {
            check,
            interval_ms: self.interval.ms,
            timeout_ms: self.timeout.ms,
            retries: self.retries,
            start_period_ms: self.start_period.map_or(0, |span| span.ms),
        })
    }
}

impl RestartText {
    fn restart(&self) -> Restart {
        Restart {
            policy: self.policy,
            delay_ms: self.delay.ms,
            max_delay_ms: self.max_delay.ms,
            reset_after_ms: self.reset_after.ms,
            max_retries: self.max_retries,
            then: self.then,
        }
    }
}

/// What a process finds programs by when neither image nor author says so (as container runtimes have it).
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn user(
    resolve: &ResolveUser<'_>,
    text: &UserText,
    keys: impl Fn() -> Vec<String>,
) -> Result<User, Wrong> {
    resolve(text).map_err(|message| Wrong {
        keys: keys(),
        message,
        help: "write numbers, as in \"1000:1000\"".to_owned(),
    })
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list.dedup();
    list
}

fn root_user() -> UserText {
    UserText {
        user: "0".to_owned(),
        group: Some("0".to_owned()),
    }
}

fn slash() -> String {
    "/".to_owned()
}

fn terminate() -> Signal {
    Signal { number: 15 }
}

fn five_seconds() -> Span {
    Span::s(5)
}

fn ten_seconds() -> Span {
    Span::s(10)
}

fn thirty_seconds() -> Span {
    Span::s(30)
}

fn three() -> u32 {
    3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &UserText) -> Result<User, String> {
        super::super::users::numeric(text).ok_or_else(|| format!("`{text}` is unknown"))
    }

    fn parse(rest: &str) -> ContainerText {
        let layer = format!("v1:{}", "0a".repeat(32));
        let text = format!(
            "layers = [\"{layer}\"]\ngroup = \"app\"\ngoal = \"started\"\n{rest}\n[process]\narguments = [\"/bin/true\"]\n"
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn the_shortest_definition_confines() {
        let container = parse("").container(&numbers).unwrap();
        container.check("containers.web").unwrap();
        assert!(container.capabilities.is_empty() && container.root == RootWrites::Refused);
        assert_eq!(container.process.environment, [DEFAULT_PATH]);
    }

    #[test]
    fn lists_may_stand_in_any_order() {
        let text = "capabilities = [\"SETUID\", \"CHOWN\", \"SETUID\"]\nafter = [\"b\", \"a\"]\nroles = []";
        let container = parse(text).container(&numbers).unwrap();
        container.check("containers.web").unwrap();
        assert_eq!(
            container.capabilities,
            [Capability::Chown, Capability::Setuid]
        );
    }

    #[test]
    fn a_volume_asks_for_a_copy_on_trial() {
        let mut text = parse("");
        let volume = "path = \"/data\"\nlifetime = \"permanent\"\nsnapshot = \"on-trial\"\nsnapshot-max = \"1MiB\"";
        text.volumes
            .insert("data".parse().unwrap(), toml::from_str(volume).unwrap());
        let container = text.container(&numbers).unwrap();
        container.check("containers.web").unwrap();
        let volume = container.volumes.values().next().unwrap();
        assert_eq!(volume.snapshot_bound(), Some(1 << 20));
    }

    #[test]
    fn ports_are_published_of_a_pool_alone() {
        let ports = "ports = [\"8080:80\", \"53:53/udp\", \"80:80\"]";
        let text = parse(&format!("network = {{ pool = \"front\" }}\n{ports}"));
        let container = text.container(&numbers).unwrap();
        let place = container.network.place().unwrap();
        let spelled: Vec<String> = place.ports.iter().map(ToString::to_string).collect();
        assert_eq!(
            (place.name.as_str(), spelled),
            (
                "front",
                ["80:80", "8080:80", "53:53/udp"]
                    .map(str::to_owned)
                    .to_vec()
            )
        );
        for network in ["", "network = \"host\"", "network = \"none\""] {
            let text = parse(&format!("{network}\n{ports}"));
            assert_eq!(text.container(&numbers).unwrap_err().keys, ["ports"]);
        }
    }

    #[test]
    fn two_health_checks_are_refused() {
        let mut text = parse("");
        text.health = toml::from_str("tcp = 80\nnotify = true").ok();
        assert_eq!(text.container(&numbers).unwrap_err().keys, ["health"]);
        text.health = toml::from_str("retries = 3").ok();
        text.container(&numbers).unwrap_err();
    }

    #[test]
    fn an_unknown_user_has_its_place() {
        let mut text = parse("");
        text.process.user = "nobody".parse().unwrap();
        assert_eq!(
            text.container(&numbers).unwrap_err().keys,
            ["process", "user"]
        );
    }
}
