//! The text of new project files: they teach the format, and parse as they are.

use super::container::ContainerText;
use super::units::{Signal, Size, Span};
use kedge_revision::container::{Capability, Goal, Network, Process, RootWrites};
use kedge_revision::{Mode, Name, ObjectId};

/// What ordinary images need inside their own user namespace.
pub const CAPABILITIES: [Capability; 7] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::NetBindService,
];

/// Ignored by git: what can be made again, and what must not get out.
pub const GITIGNORE: &str = "/build/\n/keys/\n";

/// `kedge.toml` of a new project.
#[must_use]
pub fn manifest(product: &Name, board: &Name, mode: Mode, hub: Option<&str>) -> String {
    let (mode, explained) = match mode {
        Mode::Development => (
            "development",
            "the control socket is open to the host that runs the device",
        ),
        Mode::Production => (
            "production",
            "nothing is open that the containers do not open",
        ),
    };
    let hubs = match hub {
        Some(hub) => format!(
            "{:<26} # asked for revisions; the trust root names its key",
            list(&[hub.to_owned()])
        ),
        None => {
            "[]                  # https://… of your hub; none: the device is on its own".to_owned()
        }
    };
    format!(
        r#"# A Kedge project. `kedge add IMAGE --name NAME` adds a container, `kedge build` makes a signed revision and a disk
# image, `kedge run` boots it in QEMU.

product = "{product}"        # devices refuse revisions of another product
board = "{board}"    # the kind of machine; `kedge build` needs its platform folder
mode = "{mode}"     # {explained}; must be the trust root's
version = "0.1.0"          # your own name for the revision; shown, never compared

[revision]
counter = "auto"           # one more than in kedge.lock when anything changed; or a number that you keep
floor = 0                  # devices that committed this revision never run a lower counter again
tries = 3                  # boots that a trial may take without a verdict

[boot]
arguments = ""             # kernel arguments beside those of the board

# Groups start in this order: the next one when this one's goals are met.
# change: what it costs when a container of the group changes: "reboot", or "restart" of that container.
[[groups]]
name = "platform"
change = "reboot"

[[groups]]
name = "app"
change = "restart"

# Values that differ between devices; the only ones that provisioning or a hub may fill.
# [parameters.site-name]
# type = "string"          # string, integer, boolean, ipv4, ipv4-prefix
# default = "unnamed"

[configuration]
hubs = {hubs}

# Every Ethernet port has DHCP, and IPv6 as its routers say, until an interface is listed: the others then stay down.
[configuration.network]
# nameservers = ["192.168.1.1"]
# [configuration.network.interfaces.eth0]
# addresses = ["192.168.1.10/24"]
# gateways = ["192.168.1.1"]

[configuration.logs]
disk-max = "8MiB"          # all containers and the kernel together

[commit]
window = "60s"             # of a trial: at its end all goals must hold, and have held for half of it
hub = "if-reachable-before" # or "never"
"#
    )
}

/// What `kedge add` knows of a container.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// The image as it was named.
    pub image: String,
    /// Which image of several in it.
    pub reference: Option<String>,
    /// Its layers, the lowest first.
    pub layers: Vec<ObjectId>,
    /// The group.
    pub group: Name,
    /// The goal.
    pub goal: Goal,
    /// The network.
    pub network: Network,
    /// Writes to the root.
    pub root: RootWrites,
    /// The process, its user resolved.
    pub process: Process,
    /// The user's name in the image; empty for numbers.
    pub user_name: String,
    /// The health check, already as TOML lines; empty for none.
    pub health: String,
    /// Volume's name and path.
    pub volumes: Vec<(Name, String)>,
    /// Largest memory.
    pub memory: Option<Size>,
}

/// `containers/<name>.toml` with every default visible.
#[must_use]
pub fn container(new: &NewContainer) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| put(&mut text, line);
    line(format_args!(
        "# Written by `kedge add`; yours to change. What is deleted here is taken from the container."
    ));
    line(format_args!("image = {}", quote(&new.image)));
    line(format_args!(
        "# The lowest first. `kedge add` writes them; they are part of the revision."
    ));
    line(format_args!("layers = ["));
    for layer in &new.layers {
        line(format_args!("    \"{layer}\","));
    }
    line(format_args!("]"));
    line(format_args!("group = \"{}\"", new.group));
    line(format_args!(
        "goal = {:<16} # started, ready (needs [health]) or finished (exit status 0)",
        word(&new.goal)
    ));
    line(format_args!(
        "root = {:<16} # writes to the root: refused, revision (on disk, until this definition changes), boot (memory)",
        word(&new.root)
    ));
    network(&mut line, &new.network);
    line(format_args!(
        "# Inside the container's own user namespace; what ordinary images need. Delete what yours does not."
    ));
    let names: Vec<String> = CAPABILITIES.iter().map(word).collect();
    line(format_args!("capabilities = [{}]", names.join(", ")));
    line(format_args!(
        "roles = []                 # observe, lock, operate, exec: what it may ask of the device over the control socket"
    ));
    line(format_args!(
        "after = []                 # containers of the group that must have met their goals first"
    ));
    process(&mut text, new);
    text.push_str(&new.health);
    text.push_str(RESTART);
    volumes(&mut text, &new.volumes);
    text.push_str("\n[limits]\npids-max = 512\n");
    match new.memory {
        Some(size) => put(&mut text, format_args!("memory-max = \"{size}\"")),
        None => text.push_str("# memory-max = \"64MiB\"\n"),
    }
    text.push_str(
        "# cpu-weight = 100         # 1 to 10000\n# cpu-max-percent = 50     # of one processor\n",
    );
    text
}

const RESTART: &str = r#"
[restart]
policy = "on-failure"      # no, on-failure, always
delay = "1s"               # doubles with each failure in a row …
max-delay = "1min"         # … up to this
reset-after = "5min"       # a run this long forgets earlier failures
# max-retries = 5          # without end if absent
then = "leave"             # leave, roll-back (on trial), reboot: when retries are used up
"#;

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&line.to_string());
    text.push('\n');
}

fn process(text: &mut String, new: &NewContainer) {
    let process = &new.process;
    let mut line = |line: std::fmt::Arguments<'_>| put(text, line);
    line(format_args!("\n[process]"));
    line(format_args!("arguments = {}", list(&process.arguments)));
    line(format_args!("environment = ["));
    for entry in &process.environment {
        line(format_args!("    {},", quote(entry)));
    }
    line(format_args!("]"));
    let user = format!("\"{}:{}\"", process.user.uid, process.user.gid);
    if new.user_name.is_empty() {
        line(format_args!("user = {user}"));
    } else {
        line(format_args!(
            "user = {user:<18} # {} of the image",
            quote(&new.user_name)
        ));
    }
    if !process.user.groups.is_empty() {
        let groups: Vec<String> = process.user.groups.iter().map(u16::to_string).collect();
        line(format_args!("groups = [{}]", groups.join(", ")));
    }
    line(format_args!(
        "working-directory = {}",
        quote(&process.working_directory)
    ));
    line(format_args!(
        "stop-signal = \"{}\"",
        Signal {
            number: process.stop_signal
        }
    ));
    line(format_args!(
        "stop-grace = \"{}\"         # then its whole cgroup is killed",
        Span::ms(process.stop_grace_ms)
    ));
}

fn network(line: &mut dyn FnMut(std::fmt::Arguments<'_>), network: &Network) {
    let text = match network {
        Network::Pool(place) => format!("{{ pool = \"{}\" }}", place.name),
        Network::None | Network::Host => word(network),
    };
    line(format_args!(
        "network = {text:<13} # none, host (the device's own), or {{ pool = \"NAME\" }}: docs/network.md"
    ));
    let ports = network.place().map(|place| place.ports.iter());
    let ports: Vec<String> = ports
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    if !ports.is_empty() {
        line(format_args!(
            "ports = {:<15} # of the device, behind which it listens: PORT-OF-DEVICE:PORT-OF-CONTAINER",
            list(&ports)
        ));
    }
}

fn volumes(text: &mut String, volumes: &[(Name, String)]) {
    for (name, path) in volumes {
        put(
            text,
            format_args!("\n[volumes.{name}]\npath = {}", quote(path)),
        );
        text.push_str("lifetime = \"permanent\"     # permanent, revision, boot (memory)\n# size = \"64MiB\"\n");
    }
    if volumes.is_empty() {
        text.push_str("\n# [volumes.data]\n# path = \"/data\"\n# lifetime = \"permanent\"   # permanent, revision, boot (memory)\n");
    }
}

/// A TOML string.
#[must_use]
pub fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A TOML array of strings.
#[must_use]
pub fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A word of an enum, as TOML has it.
fn word<T: serde::Serialize>(value: &T) -> String {
    toml::Value::try_from(value)
        .map(|value| value.to_string())
        .unwrap_or_default()
}

/// Whether a text that this module made is read back without a mistake.
///
/// # Errors
/// The parser's words.
pub fn check(text: &str) -> Result<ContainerText, toml::de::Error> {
    toml::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Manifest;
    use super::*;
    use kedge_revision::container::User;
    use std::collections::BTreeMap;

    #[test]
    fn a_new_manifest_parses_and_checks() {
        for (board, mode) in [
            ("qemu-x86-64", Mode::Development),
            ("raspberry-pi", Mode::Production),
        ] {
            let names = ("gateway".parse().unwrap(), board.parse().unwrap());
            let hub = "https://hub.example:8443";
            let text = manifest(&names.0, &names.1, mode, Some(hub));
            let with: Manifest = toml::from_str(&text).unwrap();
            assert_eq!(with.configuration.hubs, [hub]);
            with.content(BTreeMap::new()).check().unwrap();
            let text = manifest(&names.0, &names.1, mode, None);
            let manifest: Manifest = toml::from_str(&text).unwrap();
            assert_eq!(manifest.mode, mode);
            manifest.content(BTreeMap::new()).check().unwrap();
        }
    }

    #[test]
    fn a_new_container_is_read_back_as_it_was_meant() {
        let process = Process {
            arguments: vec!["nginx".into(), "-g".into(), "daemon off; # \"x\"\n".into()],
            environment: vec!["PATH=/bin".into(), "Q=a\\b'\"".into()],
            user: User {
                uid: 101,
                gid: 102,
                groups: vec![4],
            },
            working_directory: "/srv".into(),
            stop_signal: 3,
            stop_grace_ms: 10_000,
            parameters: BTreeMap::new(),
            secrets: Vec::new(),
        };
        let new = NewContainer {
            image: "oci:images/web".into(),
            reference: None,
            layers: vec![format!("v1:{}", "0a".repeat(32)).parse().unwrap()],
            group: "app".parse().unwrap(),
            goal: Goal::Started,
            network: Network::Host,
            root: RootWrites::Revision,
            process: process.clone(),
            user_name: "nginx".into(),
            health: "\n[health]\ntcp = 80\n".into(),
            volumes: vec![("data".parse().unwrap(), "/data".into())],
            memory: Some(Size { bytes: 64 << 20 }),
        };
        let text = container(&new);
        let resolve = |text: &_| super::super::users::numeric(text).ok_or_else(String::new);
        let parsed = check(&text)
            .unwrap_or_else(|error| panic!("{error}\n{text}"))
            .container(&resolve)
            .unwrap();
        parsed.check("containers.web").unwrap();
        assert_eq!(parsed.process, process);
        assert_eq!(parsed.limits.memory_max, Some(64 << 20));
        assert_eq!(parsed.network, Network::Host);
        assert_eq!(parsed.capabilities.len(), CAPABILITIES.len());
    }
}
