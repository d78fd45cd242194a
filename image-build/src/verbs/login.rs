//! `kedge login` and `kedge logout`: hubs that this user knows.

use super::Scene;
use crate::hub::{Address, Client, Known, Settings, tls, unhex};
use crate::{files, terminal};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use kedge_api::operator::{Device, Hub, Page};
use kedge_revision::{KeyId, Mode, PublicKey};
use serde::Serialize;
use std::io::Read;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Longest token, bytes.
const LONGEST: u64 = 1024;

/// Make a hub known: pin its certificate authority, and keep the token for it.
///
/// The first time, the hub's key and the SHA-256 of its authority are shown, to be compared with what the hub's
/// administrator says; from then on, only the holder of that authority is believed to be the hub. The token is asked for
/// without echo unless it comes from a file or standard input; it is never an argument. Both are kept in
/// $XDG_CONFIG_HOME/kedge/hubs.toml, readable by you alone. The first hub becomes the default one of all verbs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge login https://hub.example:8443
  kedge login https://hub.example:8443 --token-file token --fingerprint 4f2c…")]
pub(super) struct Login {
    /// The hub's address, as in https://hub.example:8443.
    url: Address,
    /// Take the token from the first line of a file.
    #[arg(long, value_name = "FILE", conflicts_with = "token_stdin")]
    token_file: Option<PathBuf>,
    /// Take the token from the first line of standard input.
    #[arg(long)]
    token_stdin: bool,
    /// The SHA-256 of the authority that it must have; nothing is asked then.
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Believe whoever answers now, without a question: on your own machine or network.
    #[arg(long, conflicts_with = "fingerprint")]
    yes: bool,
    /// Make it the default hub.
    #[arg(long)]
    default: bool,
}

/// Forget a hub and the token for it. The token itself holds on until `kedge-hub token delete` ends it, on the hub's
/// machine.
#[derive(Debug, Args)]
pub(super) struct Logout {
    /// The hub, by its address or host; the default one if absent.
    hub: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LoggedIn {
    url: String,
    version: String,
    mode: Mode,
    key: PublicKey,
    key_id: KeyId,
    fingerprint: String,
    default: bool,
}

impl Login {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let mut settings = Settings::open()?;
        let url = self.url.to_string();
        let told = Client::unjudged(self.url.clone())?.hub()?;
        let authority = unhex(&told.authority).context("the hub's authority is not understood")?;
        let fingerprint = tls::fingerprint(&authority);
        let before = settings.hubs.iter().find(|known| known.url == url);
        self.believe(scene, before, &told, &fingerprint)?;
        let token = self.token()?;
        // Asked again, of the holder of the authority: whoever was in between before is no more.
        let client = Client::judged(self.url.clone(), &authority, Some(token.clone()))?;
        ensure!(
            client.hub()? == told,
            "{url} says another thing of itself to somebody who knows its authority: somebody may be in between"
        );
        let _: Page<Device> = client.get("/v1/devices?limit=1")?;
        settings.add(Known::new(url.clone(), told.key, &authority, token));
        if self.default {
            settings.default = Some(url.clone());
        }
        settings.save()?;
        let done = LoggedIn {
            version: told.version,
            mode: told.mode,
            key: told.key,
            key_id: told.key.id(),
            fingerprint,
            default: settings.default.as_ref() == Some(&url),
            url,
        };
        let default = if done.default {
            ", the default hub"
        } else {
            ""
        };
        scene
            .output
            .result(format!("Logged in to {}{default}.", done.url), &done)
    }

    /// Makes sure that the authority is the one that is meant.
    fn believe(
        &self,
        scene: &Scene,
        before: Option<&Known>,
        told: &Hub,
        fingerprint: &str,
    ) -> Result<()> {
        let url = &self.url;
        if let Some(expected) = &self.fingerprint {
            let expected = normal(expected);
            ensure!(
                expected == fingerprint,
                "the authority of {url} has the fingerprint\n  {fingerprint}, not\n  {expected}\nhelp: it is not the hub that is meant, or was set up anew: ask its administrator"
            );
            return Ok(());
        }
        if let Some(before) = before {
            let pinned = tls::fingerprint(&before.authority()?);
            ensure!(
                pinned == fingerprint,
                "{url} is not the hub that was pinned: its authority has the fingerprint\n  {fingerprint}, not\n  {pinned}\nhelp: if it was set up anew: kedge logout {url}, and log in again"
            );
            return Ok(());
        }
        scene.output.say(format_args!(
            "{url} says that it is\n  key        {}\n  authority  {fingerprint} (SHA-256)",
            told.key
        ));
        if self.yes {
            return Ok(());
        }
        let question = "Is that what the hub's administrator says?";
        let answer = terminal::confirm(question)
            .context("nobody can be asked whether it is the hub: use --fingerprint or --yes")?;
        ensure!(answer, "nothing was pinned");
        Ok(())
    }

    fn token(&self) -> Result<Zeroizing<String>> {
        let text = match (&self.token_file, self.token_stdin) {
            (Some(path), _) => Zeroizing::new(files::read_text(path)?),
            (None, true) => {
                let mut text = Zeroizing::new(String::with_capacity(1024));
                std::io::stdin()
                    .take(LONGEST)
                    .read_to_string(&mut text)
                    .context("cannot read the token from standard input")?;
                text
            }
            (None, false) => terminal::hidden(&format!("Token for {}: ", self.url))
                .context("cannot ask for the token: use --token-file or --token-stdin")?,
        };
        let token = text.lines().next().unwrap_or_default().trim();
        ensure!(!token.is_empty(), "there is no token in it");
        ensure!(
            token.len() <= 1024 && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "a token is printable text without spaces"
        );
        Ok(Zeroizing::new(token.to_owned()))
    }
}

/// A fingerprint as it is written anywhere: with colons, spaces, capitals.
fn normal(fingerprint: &str) -> String {
    fingerprint
        .chars()
        .filter(|c| !matches!(c, ':' | ' '))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

impl Logout {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let mut settings = Settings::open()?;
        let url = match settings.hub(self.hub.as_deref()) {
            Ok(known) => known.url.clone(),
            Err(error) => bail!("{error}\nnothing was changed"),
        };
        settings.remove(&url);
        settings.save()?;
        let text = match &settings.default {
            Some(default) => format!("Forgot {url}. The default hub is {default}."),
            None => format!("Forgot {url}. No hub is known now."),
        };
        let object = serde_json::json!({ "forgot": url, "default": settings.default });
        scene.output.result(text, &object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_compared_however_they_are_written() {
        assert_eq!(normal("4F:2c 0A"), "4f2c0a");
    }
}
