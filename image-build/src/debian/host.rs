//! Packages of the machine that builds.

use crate::cache::Cache;
use crate::{process, progress};
use anyhow::{Context, Result, bail};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// Sees to it that these Debian packages are installed on this machine; does nothing when they are. `name>=version` wants
/// that version or a later one, as dpkg compares them: the lists of a fresh machine may name an older one.
///
/// `why` ends the sentence "… is needed to" for the person who watches.
///
/// # Errors
/// The machine is no Debian, the user is neither root nor may use sudo without a password, or apt fails. The
/// error holds the command that a person would type.
pub fn require(packages: &[&str], why: &str) -> Result<()> {
    if missing(packages)?.is_empty() {
        return Ok(());
    }
    // One at a time: apt gives up at once where another of our processes or threads has its locks, and what that one
    // installs may be all that is missing here.
    let _alone = Cache::open()?.lock("apt")?;
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let names = names(&missing).join(" ");
    let by_hand = format!(
        "install by hand: apt-get update && apt-get install --no-install-recommends {names}"
    );
    if !is_root() && !process::succeeds(Command::new("sudo").args(["-n", "true"])) {
        bail!("{names}: needed to {why}, and this user cannot install packages; {by_hand}");
    }
    progress::step(format_args!("installing {names} (needed to {why})"), || {
        if process::run(&mut install(&missing)).is_ok() && self::missing(&missing)?.is_empty() {
            return Ok(());
        }
        // The lists of a fresh machine are missing or too old: one more try after an update.
        process::run(apt_get().arg("update")).context("cannot update apt's lists")?;
        process::run(&mut install(&missing)).with_context(|| by_hand.clone())?;
        let missing = self::missing(&missing)?;
        if !missing.is_empty() {
            bail!("this machine's Debian has no {}", missing.join(" "));
        }
        Ok(())
    })
}

/// A package's name, and the version that it must have at least.
fn split(wanted: &str) -> (&str, Option<&str>) {
    match wanted.split_once(">=") {
        Some((name, version)) => (name, Some(version)),
        None => (wanted, None),
    }
}

fn names<'a>(wanted: &[&'a str]) -> Vec<&'a str> {
    wanted.iter().map(|wanted| split(wanted).0).collect()
}

/// Fetches the machine's own lists, which a fresh machine does not have.
pub(super) fn update_lists() -> Result<()> {
    progress::step(
        "updating this machine's package lists (it has none)",
        || process::run(apt_get().arg("update")),
    )
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    if process::find("dpkg-query").is_none() {
        bail!(
            "this machine has no dpkg: Kedge builds on Debian; elsewhere, build in a Debian container"
        );
    }
    let mut missing = Vec::new();
    for wanted in packages {
        let (package, least) = split(wanted);
        let status = process::text(Command::new("dpkg-query").args([
            "-W",
            "-f",
            "${db:Status-Abbrev} ${Version}",
            package,
        ]));
        let version = status.ok().and_then(|status| {
            let (status, version) = status.split_once(' ')?;
            let version = version.trim().to_owned();
            status.starts_with("ii").then_some(version)
        });
        if !version.is_some_and(|version| least.is_none_or(|least| is_at_least(&version, least))) {
            missing.push(*wanted);
        }
    }
    Ok(missing)
}

/// dpkg(1), `--compare-versions`.
fn is_at_least(version: &str, least: &str) -> bool {
    process::succeeds(Command::new("dpkg").args(["--compare-versions", version, "ge", least]))
}

/// Recommended packages stay away: they would bring daemons and desktop parts onto a developer's machine.
fn install(packages: &[&str]) -> Command {
    let mut command = apt_get();
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(names(packages));
    command
}

fn apt_get() -> Command {
    let mut command = if is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env"]);
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    // A machine that has just started may be busy with its own updates.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_not_missing() {
        assert!(missing(&["dpkg"]).unwrap().is_empty());
        assert_eq!(
            missing(&["dpkg", "kedge-no-such-package"]).unwrap(),
            ["kedge-no-such-package"]
        );
    }

    #[test]
    fn what_is_installed_in_an_older_version_is_missing() {
        assert!(missing(&["dpkg>=1.1"]).unwrap().is_empty());
        assert_eq!(missing(&["dpkg>=99:1"]).unwrap(), ["dpkg>=99:1"]);
        assert_eq!(names(&["dpkg>=99:1", "apt"]), ["dpkg", "apt"]);
    }
}
