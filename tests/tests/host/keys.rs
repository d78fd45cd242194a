//! Stories of keys, as `docs/trust.md` tells them: each command is run as it stands there, and what comes of it is judged as a
//! device does, which begins with the root that its image was built with and follows no other way than the chain.

use crate::command::{platform, project, workshop};
use anyhow::{Context, Result, ensure};
use kedge_api::Signed;
use kedge_api::device::Ask;
use kedge_image_build::files;
use kedge_image_build::hub::Client;
use kedge_revision::fresh::{Fresh, Nonce};
use kedge_revision::{
    Error, Floor, KeyId, Policy, Product, PublicKey, Root, SignatureSet, Verified,
};
use kedge_tests::hub::Hub;
use kedge_tests::kedge::Kedge;
use serde_json::Value;
use std::path::{Path, PathBuf};

const HUB: &str = env!("CARGO_BIN_EXE_test-hub");

/// A revision with its signatures.
type Built = (Vec<u8>, SignatureSet);

/// A project with the commands of the stories, whose paths are in its folder.
struct Story {
    kedge: Kedge,
    platform: PathBuf,
    folder: tempfile::TempDir,
}

impl Story {
    fn new() -> Result<Self> {
        let folder = workshop()?;
        let kedge = project(folder.path())?;
        Ok(Self {
            platform: platform(folder.path())?,
            kedge: kedge.with("XDG_CONFIG_HOME", &folder.path().join("config")),
            folder,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.kedge.folder().join(name)
    }

    /// Runs a command as the documentation has it; files of the project get their whole path.
    fn run(&self, line: &str) -> Result<Value> {
        let words: Vec<String> = line.split(' ').map(|word| self.word(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.kedge.ask(&words).with_context(|| line.to_owned())
    }

    fn word(&self, word: &str) -> String {
        let (before, path) = word
            .split_once('=')
            .map_or(("", word), |(role, path)| (role, path));
        if !path.starts_with("keys/") && !path.starts_with("build/") {
            return word.to_owned();
        }
        let whole = self.path(path).display().to_string();
        if before.is_empty() {
            whole
        } else {
            format!("{before}={whole}")
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        files::publish(&self.path(from), &self.path(to))
    }

    /// Builds a revision that has another version than those before.
    fn build(&self, version: &str) -> Result<Built> {
        let manifest = files::read_text(&self.path("kedge.toml"))?;
        let changed: Vec<String> = manifest
            .lines()
            .map(|line| {
                if line.starts_with("version = ") {
                    format!("version = \"{version}\"")
                } else {
                    line.to_owned()
                }
            })
            .collect();
        ensure!(
            manifest.contains("\nversion = "),
            "no version in {manifest}"
        );
        files::write(&self.path("kedge.toml"), changed.join("\n"))?;
        let platform = self.platform.display().to_string();
        self.kedge.ask(&["build", "--platform", &platform])?;
        self.built()
    }

    fn built(&self) -> Result<Built> {
        let signatures = files::read(&self.path("build/revision.sig"))?;
        Ok((
            files::read(&self.path("build/revision.json"))?,
            SignatureSet::parse(&signatures)?,
        ))
    }
}

/// What a device knows, and how it judges.
struct Device {
    product: Product,
    root: Root,
    floor: Floor,
}

impl Device {
    /// As it leaves the factory with the story's first image.
    fn new(story: &Story) -> Result<Self> {
        let document = files::read(&story.path("roots/1.json"))?;
        let root = Root::parse(&document)?;
        let set = SignatureSet::parse(&files::read(&story.path("roots/1.sig"))?)?;
        root.verify_self(&document, &set)?;
        Ok(Self {
            product: Product::new("gateway".parse()?, "qemu-x86-64".parse()?, root.mode),
            root,
            floor: Floor::default(),
        })
    }

    /// Follows the roots that are published, as far as they lead.
    fn follow(&mut self, story: &Story) -> Result<u32> {
        loop {
            let path = story.path(&format!("roots/{}.json", self.root.version + 1));
            if !path.exists() {
                return Ok(self.root.version);
            }
            let set = SignatureSet::parse(&files::read(&path.with_extension("sig"))?)?;
            self.root = self.root.replace(&files::read(&path)?, &set)?;
        }
    }

    fn judge(&self, (document, signatures): &Built) -> Result<Verified, Error> {
        let policy = Policy {
            product: &self.product,
            floor: self.floor,
        };
        Verified::verify(document, signatures, &self.root, &policy)
    }

    /// Takes an update and commits it.
    fn update(&mut self, built: &Built) -> Result<()> {
        let floor = self.judge(built)?.envelope().floor();
        self.floor = self.floor.after_commit(floor.root, floor.counter);
        Ok(())
    }
}

fn id(made: &Value) -> Result<KeyId> {
    let id = made["id"].as_str().context("no id")?;
    Ok(id.parse()?)
}

#[test]
fn host_keys_a_release_key_of_a_running_fleet_is_replaced() -> Result<()> {
    let story = Story::new()?;
    let mut device = Device::new(&story)?;
    let first = story.build("1")?;
    device.update(&first)?;
    story.run("key new release-2 --no-passphrase")?;
    story.run("key change --add release=keys/release-2.toml --remove release=keys/release.toml")?;
    story.rename("keys/release.toml", "keys/retired.toml")?;
    story.rename("keys/release-2.toml", "keys/release.toml")?;
    let second = story.build("2")?;
    // A device that has not heard of the new root does not take it; with it, it does, and nothing of the old key.
    ensure!(device.judge(&second).is_err());
    ensure!(device.follow(&story)? == 2);
    device.update(&second)?;
    ensure!(matches!(
        device.judge(&first),
        Err(Error::Threshold { valid: 0, .. })
    ));
    let (document, _) = &second;
    story.run("sign build/revision.json --key keys/retired.toml --signatures build/theirs.sig")?;
    let theirs = SignatureSet::parse(&files::read(&story.path("build/theirs.sig"))?)?;
    let refused = device.judge(&(document.clone(), theirs));
    ensure!(
        matches!(refused, Err(Error::Threshold { valid: 0, .. })),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn host_keys_one_of_three_is_lost_and_replaced() -> Result<()> {
    let story = Story::new()?;
    let mut device = Device::new(&story)?;
    device.update(&story.build("1")?)?;
    let mut lost = None;
    for name in ["root-2", "root-3", "root-4", "release-2", "release-3"] {
        let made = story.run(&format!("key new {name} --no-passphrase"))?;
        if name == "root-3" {
            lost = Some(id(&made)?);
        }
    }
    story.run("key change --add root=keys/root-2.toml --add root=keys/root-3.toml --threshold root=2 --add release=keys/release-2.toml --add release=keys/release-3.toml --threshold release=2")?;
    ensure!(device.follow(&story)? == 2);
    // One release key is not enough any more; `kedge build` says so, and another one signs beside it.
    let platform = story.platform.display().to_string();
    let (said, _) = story.kedge.refuse(&["build", "--platform", &platform])?;
    ensure!(said.contains("kedge sign build/revision.json"), "{said}");
    story.run("sign build/revision.json --key keys/release-3.toml")?;
    device.update(&story.build("1")?)?;
    // The lost one is nowhere. With it two are left of three, which is what the threshold asks for.
    let lost = lost.context("no key was made")?;
    std::fs::remove_file(story.path("keys/root-3.toml"))?;
    let change = format!("key change --remove root={lost} --add root=keys/root-4.toml");
    files::publish(
        &story.path("keys/root-2.toml"),
        &story.folder.path().join("safe"),
    )?;
    let (said, _) = story.kedge.refuse(
        &change
            .split(' ')
            .map(|word| story.word(word))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    )?;
    ensure!(said.contains("1 of them are not here"), "{said}");
    let safe = story.folder.path().join("safe").display().to_string();
    story.run(&format!("{change} --key {safe}"))?;
    ensure!(device.follow(&story)? == 3);
    ensure!(!device.root.keys.contains_key(&lost));
    ensure!(device.root.roles.root.keys.len() == 3 && device.root.roles.root.threshold == 2);
    Ok(())
}

/// What a hub says the time is, to a device that has the key of this seed.
fn asked(hub: &Hub, device: KeyId, nonce: Nonce) -> Result<Signed> {
    let client = Client::unjudged(hub.url().parse()?)?;
    client.send("POST", "/v1/time", &Ask { device, nonce })
}

fn believed(signed: &Signed, root: &Root, device: KeyId, nonce: Nonce) -> Result<Fresh, Error> {
    Fresh::verify(
        signed.document.as_bytes(),
        &signed.signatures()?,
        root,
        device,
        nonce,
    )
}

#[test]
fn host_keys_a_hub_is_revoked() -> Result<()> {
    let story = Story::new()?;
    let [old, new] = ["old", "new"].map(|name| -> Result<Hub> {
        let folder = story.folder.path().join(name);
        files::make_folder(&folder)?;
        Hub::start(HUB, &folder)
    });
    let (old, new) = (old?, new?);
    for hub in [&old, &new] {
        let token = hub.token();
        story
            .kedge
            .ask(&["login", hub.url(), "--token-file", &token, "--yes"])?;
    }
    story.run(&format!("key trust-hub {}", old.url()))?;
    let mut device = Device::new(&story)?;
    ensure!(device.follow(&story)? == 2);
    let key = PublicKey::from_bytes([9; 32]).id();
    let nonce = Nonce::from_bytes([7; 32]);
    let (said, others) = (asked(&old, key, nonce)?, asked(&new, key, nonce)?);
    believed(&said, &device.root, key, nonce)?;
    ensure!(believed(&others, &device.root, key, nonce).is_err());
    story.run(&format!("key trust-hub {} --instead", new.url()))?;
    ensure!(device.follow(&story)? == 3);
    // What the old hub signed and signs is nobody's word.
    for words in [said, asked(&old, key, nonce)?] {
        let refused = believed(&words, &device.root, key, nonce);
        ensure!(
            matches!(
                refused,
                Err(Error::Threshold {
                    role: "hub",
                    valid: 0,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    believed(&others, &device.root, key, nonce)?;
    // The new hub, which only the third root names, has the way to it from the first one on.
    let platform = story.platform.display().to_string();
    story.run(&format!(
        "publish --platform {platform} --hub {}",
        new.url()
    ))?;
    let client = Client::unjudged(new.url().parse()?)?;
    for version in 1..=3 {
        let target = format!("/v1/roots/{version}?product=gateway");
        client.get::<Signed>(&target).with_context(|| target)?;
    }
    let manifest = files::read_text(&story.path("kedge.toml"))?;
    ensure!(
        manifest.contains(new.url()) && !manifest.contains(old.url()),
        "{manifest}"
    );
    Ok(())
}

#[test]
fn host_keys_a_vulnerable_revision_never_returns() -> Result<()> {
    let story = Story::new()?;
    let mut device = Device::new(&story)?;
    let vulnerable = story.build("1")?;
    device.update(&vulnerable)?;
    let mended = story.build("2")?;
    device.update(&mended)?;
    // The floor has not risen: it may be gone back to.
    device.judge(&vulnerable)?;
    set_floor(
        &story.path("kedge.toml"),
        device.judge(&mended)?.envelope().counter,
    )?;
    let floored = story.build("3")?;
    // It rises with the commit, not with the offer.
    device.judge(&vulnerable)?;
    device.update(&floored)?;
    let refused = device.judge(&vulnerable);
    ensure!(
        matches!(refused, Err(Error::BelowFloor { .. })),
        "{refused:?}"
    );
    device.judge(&mended)?;
    Ok(())
}

fn set_floor(manifest: &Path, floor: u64) -> Result<()> {
    let text = files::read_text(manifest)?;
    let before = text.lines().find(|line| line.starts_with("floor = "));
    let before = before.context("no floor in kedge.toml")?;
    files::write(
        manifest,
        text.replacen(before, &format!("floor = {floor}"), 1),
    )
}
