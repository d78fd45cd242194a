//! `kedge join-token`: what lets devices in.

use super::Scene;
use super::hub::{HubArgument, pair, parameter, span, table, value_in};
use crate::files;
use crate::hub::{Address, Client, escaped};
use crate::project::Project;
use crate::terminal::clean;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use kedge_api::operator::{JoinToken, NewJoinToken};
use kedge_revision::Name;
use kedge_revision::enrolment::Provision;
use kedge_revision::parameters::Parameters;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Most bytes of values that a device keeps; with more they would hold for its first boot alone.
const MOST_VALUES: usize = 16 * 1024;

/// Make, list and end join tokens: a device that was given one enrols without anybody's word.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge join-token new --uses 10 --for 1h --out provision.json
  kedge flash /dev/sdb --provision provision.json     # or, in QEMU: kedge run --provision provision.json
  kedge join-token new --value site-name=berlin --out berlin.json
  kedge join-token list
  kedge join-token delete 4f2c…")]
pub(super) struct JoinTokenVerb {
    #[command(flatten)]
    hub: HubArgument,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a join token; it is told this once. With --out it goes into a provisioning file and is not shown.
    New(New),
    /// List join tokens, without their secrets.
    List,
    /// End a join token. Devices that enrolled with it stay.
    Delete {
        /// Its id, as `kedge join-token list` shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
struct New {
    /// How many devices may use it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// For how long, as 30m, 1h, 7d.
    #[arg(long = "for", value_name = "SPAN", default_value = "1h", value_parser = span)]
    lasts_s: u32,
    /// Only for devices of this product.
    #[arg(long, value_name = "NAME")]
    product: Option<Name>,
    /// Tag devices that come with it, as site=berlin. May be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    tag: Vec<(String, String)>,
    /// Write a provisioning for devices with the token in it, readable by you alone.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The hub's address as devices reach it, for --out: they ask it before those of their revision. If absent, they ask those of the
    /// project's kedge.toml alone; where that names none, or there is no project, the operator's.
    #[arg(long, value_name = "URL", requires = "out", alias = "hub-for-devices")]
    device_hub: Option<Address>,
    /// Give devices a value for a parameter, for --out, as site-name=berlin. May be given again.
    #[arg(long, value_name = "NAME=VALUE", requires = "out", value_parser = pair)]
    value: Vec<(String, String)>,
    /// Take such a value from a file, without the line break at its end: a secret. May be given again.
    #[arg(long, value_name = "NAME=FILE", requires = "out", value_parser = pair)]
    secret_file: Vec<(String, String)>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Made {
    #[serde(flatten)]
    token: JoinToken,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// What the provisioning says of hubs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hubs: Vec<String>,
}

impl JoinTokenVerb {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let client = self.hub.client()?;
        match &self.action {
            Action::New(new) => new.run(scene, &client),
            Action::List => list(scene, &client),
            Action::Delete { id } => {
                client.command("DELETE", &format!("/v1/join-tokens/{}", escaped(id)))?;
                let object = serde_json::json!({ "deleted": id });
                scene.output.result(
                    format!("The join token {id} lets nobody in any more."),
                    &object,
                )?;
                Ok(())
            }
        }
    }
}

impl New {
    fn run(&self, scene: &Scene, client: &Client) -> Result<()> {
        // Before there is a token that nobody has.
        let to = self.out.as_ref().map(|path| {
            ensure!(
                !path.exists(),
                "{} exists already; nothing was changed",
                path.display()
            );
            let project = Project::find(&scene.project)?;
            Ok((path, self.provision(project.as_ref(), client.address())?))
        });
        let to = to.transpose()?;
        let request = NewJoinToken {
            product: self.product.clone(),
            uses: self.uses,
            lasts_s: self.lasts_s,
            tags: self.tag.iter().cloned().collect(),
        };
        let mut token: JoinToken = client.send("POST", "/v1/join-tokens", &request)?;
        let about = format!(
            "join token {} for {} devices until {}",
            token.id, token.left, token.until
        );
        let mut hubs = Vec::new();
        let text = match to {
            Some((path, mut provision)) => {
                hubs.clone_from(&provision.hubs);
                let asked = match hubs.as_slice() {
                    [] => "the hubs that kedge.toml names".to_owned(),
                    named => named.join(", "),
                };
                provision.token = token.token.take();
                write(path, &provision)?;
                format!(
                    "Made the {about}.\n{} holds it: `kedge flash --provision` gives it to a device on its card, `kedge run --provision` to one in QEMU.\nIts device asks {asked}.",
                    path.display()
                )
            }
            None => format!(
                "{}\nThis is the {about}; it is not shown again.",
                token.token.as_deref().unwrap_or_default()
            ),
        };
        let made = Made {
            token,
            path: self.out.clone(),
            hubs,
        };
        scene.output.result(text, &made)
    }

    /// All of a provisioning but the token.
    fn provision(&self, project: Option<&Project>, operators: &Address) -> Result<Provision> {
        let manifest = project.map(Project::manifest);
        // What this project says is of no other product's devices.
        let mine = |name: &Name| self.product.as_ref().is_none_or(|product| product == name);
        let manifest = manifest.filter(|manifest| mine(&manifest.product));
        let named = manifest.is_some_and(|manifest| !manifest.configuration.hubs.is_empty());
        let hubs = match &self.device_hub {
            Some(hub) => vec![hub.to_string()],
            // A device asks those of its revision behind those that stand here: it may not reach the operator's at all.
            None if named => Vec::new(),
            None => vec![operators.to_string()],
        };
        let mut values = BTreeMap::new();
        for (name, value) in &self.value {
            let name = parameter(name)?;
            let declared = manifest.and_then(|manifest| manifest.parameters.get(&name));
            ensure!(
                declared.is_none_or(|declared| !declared.secret),
                "{name} is a secret, and others can see arguments\nhelp: give it with --secret-file {name}=FILE"
            );
            values.insert(name, value.clone());
        }
        for (name, path) in &self.secret_file {
            values.insert(parameter(name)?, value_in(path)?);
        }
        let given = Parameters::new(0, values);
        if let Some(manifest) = manifest {
            let judged = given.check(&manifest.parameters);
            judged.context("the project's kedge.toml declares its parameters otherwise")?;
        }
        let size = given.encode().map(Zeroizing::new);
        let size = size.context("cannot write the values")?.len();
        ensure!(
            size <= MOST_VALUES,
            "the values have {size} bytes, and devices keep at most {MOST_VALUES}"
        );
        let provision = Provision::new(hubs, None, given.values);
        encoded(&provision)?;
        Ok(provision)
    }
}

/// Writes a provisioning with its token, for its owner's eyes alone.
fn write(path: &Path, provision: &Provision) -> Result<()> {
    ensure!(
        provision.token.is_some(),
        "the hub made a join token and did not tell it"
    );
    files::write_private(path, &encoded(provision)?)
}

/// The bytes of a provisioning that devices take.
fn encoded(provision: &Provision) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = provision.encode().map(Zeroizing::new);
    let bytes = bytes.context("cannot make the provisioning")?;
    Provision::parse(&bytes).context("devices would not take the provisioning")?;
    Ok(bytes)
}

/// A provisioning in a file, as devices will understand it.
pub(super) fn provisioning(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    Provision::parse(&bytes).with_context(|| format!("{} is no provisioning", path.display()))?;
    Ok(bytes)
}

fn list(scene: &Scene, client: &Client) -> Result<()> {
    let tokens: Vec<JoinToken> = client.list("/v1/join-tokens", "")?;
    let mut rows = vec![
        ["ID", "LEFT", "UNTIL", "PRODUCT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(tokens.iter().map(|token| {
        let product = token.product.as_ref().map_or("any", Name::as_str);
        vec![
            clean(&token.id),
            token.left.to_string(),
            token.until.to_string(),
            product.to_owned(),
        ]
    }));
    let text = if tokens.is_empty() {
        "There are no join tokens.".to_owned()
    } else {
        table(&rows)
    };
    scene
        .output
        .result(text, &serde_json::json!({ "join-tokens": tokens }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::{MANIFEST, template};
    use clap::Parser;
    use kedge_revision::Mode;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        new: New,
    }

    fn provision(project: Option<&Project>, words: &[&str]) -> Result<Provision> {
        let words = [&["new", "--out", "provision.json"], words].concat();
        let line = Line::try_parse_from(words).unwrap();
        let operators = "https://127.0.0.1:8443".parse().unwrap();
        line.new.provision(project, &operators)
    }

    /// A project whose devices ask a hub, if one is named, and take two values.
    fn project(folder: &Path, hub: Option<&str>) -> Project {
        let (product, board) = ("gateway".parse().unwrap(), "qemu-x86-64".parse().unwrap());
        let mut text = template::manifest(&product, &board, Mode::Development, hub);
        text.push_str("[parameters.port]\ntype = \"integer\"\n");
        text.push_str("[parameters.password]\ntype = \"string\"\nsecret = true\n");
        files::write(&folder.join(MANIFEST), text).unwrap();
        Project::find(folder).unwrap().unwrap()
    }

    #[test]
    fn devices_are_not_sent_to_the_operators_own_address() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Project::find(folder.path()).unwrap().is_none());
        let operators = ["https://127.0.0.1:8443".to_owned()];
        assert_eq!(provision(None, &[]).unwrap().hubs, operators);
        let alone = project(folder.path(), None);
        assert_eq!(provision(Some(&alone), &[]).unwrap().hubs, operators);
        let named = project(folder.path(), Some("https://10.0.2.2:8443"));
        assert!(provision(Some(&named), &[]).unwrap().hubs.is_empty());
        let other = ["--product", "other"];
        assert_eq!(provision(Some(&named), &other).unwrap().hubs, operators);
        for name in ["--device-hub", "--hub-for-devices"] {
            let given = provision(Some(&named), &[name, "https://hub"]).unwrap();
            assert_eq!(given.hubs, ["https://hub"]);
        }
    }

    #[test]
    fn values_are_those_that_devices_take() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        files::write(&secret, "hunter2\n").unwrap();
        let secret = format!("password={}", secret.display());
        let project = project(folder.path(), None);
        let words = ["--value", "port=8080", "--secret-file", &secret];
        let made = provision(Some(&project), &words).unwrap();
        let values: Vec<(&str, &str)> = made
            .parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(values, [("password", "hunter2"), ("port", "8080")]);
        for (bad, why) in [
            ("port=x", "integer"),
            ("prot=1", "prot"),
            ("Port=1", "`Port`"),
            ("password=hunter2", "--secret-file"),
        ] {
            let error = provision(Some(&project), &["--value", bad]).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{bad}: {error:#}");
        }
        // Nobody knows what another project declares; how much a device keeps is known.
        provision(None, &["--value", "prot=1"]).unwrap();
        let large = format!("a={}", "x".repeat(MOST_VALUES));
        let error = provision(None, &["--value", &large]).unwrap_err();
        assert!(error.to_string().contains("16384"), "{error}");
    }
}
