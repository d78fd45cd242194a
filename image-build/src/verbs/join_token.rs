//! `kedge join-token`: what lets devices in.

use super::Scene;
use super::hub::{HubArgument, clean, pair, span, table};
use crate::files;
use crate::hub::{Address, Client, escaped};
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use kedge_api::operator::{JoinToken, NewJoinToken};
use kedge_revision::Name;
use kedge_revision::enrolment::Provision;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Make, list and end join tokens: a device that was given one enrols without anybody's word.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge join-token new --uses 10 --for 1h --out provision.json
  kedge run --provision provision.json
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
    /// The hub's address as devices reach it, for --out; the operator's if absent.
    #[arg(long, value_name = "URL", requires = "out")]
    hub_for_devices: Option<Address>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Made {
    #[serde(flatten)]
    token: JoinToken,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
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
        if let Some(path) = &self.out {
            // Before there is a token that nobody has.
            ensure!(
                !path.exists(),
                "{} exists already; nothing was changed",
                path.display()
            );
        }
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
        let text = match &self.out {
            Some(path) => {
                self.write(client, path, &mut token)?;
                format!(
                    "Made the {about}.\n{} holds it: `kedge run --provision` gives it to a device in QEMU.",
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
        };
        scene.output.result(text, &made)
    }

    /// Moves the token into a provisioning.
    fn write(&self, client: &Client, path: &std::path::Path, token: &mut JoinToken) -> Result<()> {
        let secret = token.token.take();
        let secret = secret.context("the hub made a join token and did not tell it")?;
        let address = self.hub_for_devices.as_ref().unwrap_or(client.address());
        let provision = Provision::new(vec![address.to_string()], Some(secret), BTreeMap::new());
        let bytes = provision
            .encode()
            .map(Zeroizing::new)
            .context("cannot make the provisioning")?;
        Provision::parse(&bytes).context("devices would not take the provisioning")?;
        files::write_private(path, &bytes)
    }
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
