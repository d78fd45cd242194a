//! One suite of Debian's archive, seen through a configuration of its own.

use crate::cache::{Cache, Lock};
use crate::{files, process, progress};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// The keyring that signs Debian's suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The architecture of what runs on the machine that builds.
const HOST: &str = "amd64";
/// Names under which Debian's own mirrors appear in a machine's configuration.
const SUITES: [&str; 12] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "experimental",
];
/// Lists are fetched again after a week: long enough to build kernels once, not daily; a mirror keeps
/// superseded packages about as long.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);
/// What lists lack is looked for in new ones, unless they are of the last minutes: a wrong name is to cost one update, not one
/// a try.
const NEW: Duration = Duration::from_secs(10 * 60);

/// What apt is to believe installed when it resolves dependencies.
#[derive(Debug, Clone, Copy)]
pub enum Status<'a> {
    /// Nothing: every dependency is part of the answer.
    Empty,
    /// These packages, in any version: neither they nor what only they need is part of the answer.
    Pretend(&'a [&'a str]),
}

/// A package of one version, as apt resolved it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name, without an architecture.
    pub name: String,
    /// Its version, epoch included.
    pub version: String,
    /// `amd64`, `arm64` … or `all`.
    pub architecture: String,
}

impl Package {
    /// The name of the package's file as `apt-get download` chooses it: a colon of the epoch is written `%3a`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!(
            "{}_{}_{}.deb",
            self.name,
            self.version.replace(':', "%3a"),
            self.architecture
        )
    }
}

/// A suite of Debian, readable without touching the machine's own package state.
#[derive(Debug)]
pub struct Archive {
    cache: Cache,
    suite: String,
    architecture: String,
    component: String,
    folder: PathBuf,
    /// What is read in place of this machine's mirror, as in sources.list(5).
    source: Option<String>,
}

impl Archive {
    /// Opens a suite for this machine, fetching its lists when there are none or when they are older than a week.
    ///
    /// # Errors
    /// No mirror is configured on this machine, or there are no lists and they cannot be fetched.
    pub fn open(cache: &Cache, suite: &str) -> Result<Self> {
        Self::open_for(cache, suite, HOST)
    }

    /// [`Archive::open`] with the packages of another architecture, by Debian's name for it. They are only unpacked: the
    /// machine need not be able to run them.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn open_for(cache: &Cache, suite: &str, architecture: &str) -> Result<Self> {
        Self::open_part(cache, suite, architecture, "main")
    }

    /// [`Archive::open_for`] of another part of the suite, such as `non-free-firmware`, and of that part alone.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn open_part(
        cache: &Cache,
        suite: &str,
        architecture: &str,
        component: &str,
    ) -> Result<Self> {
        let name = if component == "main" {
            format!("{suite}-{architecture}")
        } else {
            format!("{suite}-{architecture}-{component}")
        };
        let folder = cache.folder(&format!("apt/{name}"))?;
        let archive = Self {
            cache: cache.clone(),
            suite: suite.to_owned(),
            architecture: architecture.to_owned(),
            component: component.to_owned(),
            folder,
            source: None,
        };
        archive.refresh()?;
        Ok(archive)
    }

    /// An archive of tests, in place of this machine's mirror.
    #[cfg(test)]
    pub(crate) fn open_source(cache: &Cache, source: &str) -> Result<Self> {
        let archive = Self {
            cache: cache.clone(),
            suite: "trixie".to_owned(),
            architecture: HOST.to_owned(),
            component: "main".to_owned(),
            folder: cache.folder("apt/test")?,
            source: Some(source.to_owned()),
        };
        archive.refresh()?;
        Ok(archive)
    }

    fn lock(&self) -> Result<Lock> {
        let name = self.folder.file_name().unwrap_or_default();
        self.cache.lock(&format!("apt-{}", name.display()))
    }

    /// Fetches lists where there are none, and new ones where they are old.
    fn refresh(&self) -> Result<()> {
        let _lock = self.lock()?;
        match self.age() {
            Some(age) if age < FRESH => Ok(()),
            Some(_) => {
                self.try_update();
                Ok(())
            }
            None => self.update(),
        }
    }

    /// New lists, if they can be had: then true. Else the old ones are worked with, and that is said.
    fn try_update(&self) -> bool {
        let updated = self.update();
        if let Err(error) = &updated {
            progress::say(format_args!(
                "! working with old lists of {}: {error:#}",
                self.suite
            ));
        }
        updated.is_ok()
    }

    /// The suite's name.
    #[must_use]
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// The version of `package` that would be installed.
    ///
    /// # Errors
    /// The suite has no such package.
    pub fn version(&self, package: &str) -> Result<String> {
        let text = process::text(
            self.apt("apt-cache", Status::Empty)?
                .args(["policy", package]),
        )?;
        candidate(&text).with_context(|| format!("Debian {} has no package {package}", self.suite))
    }

    /// The names of all packages whose name begins with `prefix`.
    ///
    /// # Errors
    /// apt fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = process::text(
            self.apt("apt-cache", Status::Empty)?
                .args(["pkgnames", prefix]),
        )?;
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// `packages` and everything they depend on (not what they recommend), sorted by name.
    ///
    /// # Errors
    /// A package is unknown or its dependencies cannot be met.
    pub fn closure(&self, packages: &[&str], status: Status<'_>) -> Result<Vec<Package>> {
        let mut command = self.apt("apt-get", status)?;
        let text = process::text(
            command
                .args(["-s", "install", "--no-install-recommends"])
                .args(packages),
        )
        .with_context(|| {
            format!(
                "cannot resolve {} in Debian {}",
                packages.join(" "),
                self.suite
            )
        })?;
        let mut found = simulated(&text);
        found.sort();
        Ok(found)
    }

    /// The one package of that name, without its dependencies. Where the lists lack it, new ones are asked.
    ///
    /// # Errors
    /// The suite has no such package, nor by new lists if they can be had.
    pub fn package(&self, name: &str) -> Result<Package> {
        let first = self.show(name);
        if first.is_ok() {
            return first;
        }
        let _lock = self.lock()?;
        let is_new = self.age().is_some_and(|age| age < NEW);
        if !is_new && self.try_update() {
            self.show(name)
        } else {
            first
        }
    }

    /// [`Archive::package`] by the lists that there are.
    fn show(&self, name: &str) -> Result<Package> {
        let suite = &self.suite;
        let text = process::text(self.apt("apt-cache", Status::Empty)?.args([
            "show",
            "--no-all-versions",
            name,
        ]))
        .map_err(|error| {
            // Anything else that goes wrong says nothing about the package.
            let what = if error.to_string().contains("No packages found") {
                format!("Debian {suite} has no package {name}")
            } else {
                format!("cannot look for the package {name} in Debian {suite}")
            };
            error.context(what)
        })?;
        // apt ends well when it knows the name, if only from what other packages say.
        ensure!(
            !text.is_empty(),
            "Debian {suite} has no package {name}: it is a name for others, which provide it or depend on it\nhelp: name one of those, as `apt-cache showpkg {name}` lists them"
        );
        let field = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            line.map(str::to_owned)
                .with_context(|| format!("package {name} of Debian {suite}: apt shows no {key}"))
        };
        Ok(Package {
            name: name.to_owned(),
            version: field("Version")?,
            architecture: field("Architecture")?,
        })
    }

    /// Downloads what is not in the cache yet and returns the files in the order of `packages`.
    ///
    /// # Errors
    /// A download fails or does not match the signed lists.
    pub fn download(&self, packages: &[Package]) -> Result<Vec<PathBuf>> {
        let folder = self.cache.folder("debs")?;
        let paths: Vec<PathBuf> = packages
            .iter()
            .map(|package| folder.join(package.file_name()))
            .collect();
        let _lock = self.cache.lock("debs")?;
        let wanted: Vec<&Package> = packages
            .iter()
            .zip(&paths)
            .filter(|(_, path)| !path.exists())
            .map(|(package, _)| package)
            .collect();
        if wanted.is_empty() {
            return Ok(paths);
        }
        // Into a folder of their own first: an interrupted download must not look like a package.
        let new = files::temporary(&folder.join("download"));
        files::remove_folder(&new)?;
        files::make_folder(&new)?;
        progress::step(
            format_args!(
                "downloading {} from Debian {}",
                summary(&wanted),
                self.suite
            ),
            || self.fetch_or_explain(&wanted, &new),
        )?;
        for path in files::list(&new)? {
            files::publish(&path, &folder.join(path.file_name().unwrap_or_default()))?;
        }
        files::remove_folder(&new)?;
        match paths.iter().find(|path| !path.exists()) {
            Some(path) => bail!("apt-get download did not bring {}", path.display()),
            None => Ok(paths),
        }
    }

    /// Unpacks package files into `folder`, one over the other, with no script run.
    ///
    /// # Errors
    /// A file is no package, or the folder cannot be written.
    pub fn unpack(debs: &[PathBuf], folder: &Path) -> Result<()> {
        for deb in debs {
            process::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder))?;
        }
        Ok(())
    }

    /// Once more with new lists where it fails: the mirror may have moved on since they were fetched. These versions or none:
    /// what is made of them is kept under a name made from them.
    fn fetch_or_explain(&self, packages: &[&Package], folder: &Path) -> Result<()> {
        let cannot = || {
            let (what, suite) = (summary(packages), &self.suite);
            format!("cannot download {what} from Debian {suite}")
        };
        let Err(first) = self.fetch(packages, folder) else {
            return Ok(());
        };
        let is_updated = {
            let _lock = self.lock()?;
            self.try_update()
        };
        if !is_updated {
            return Err(first).with_context(cannot);
        }
        self.fetch(packages, folder).map_err(|error| {
            let gone = packages.iter().find_map(|package| self.moved(package));
            let error = error.context(cannot());
            match gone {
                Some(gone) => error.context(gone),
                None => error,
            }
        })
    }

    /// What became of a package of which the lists have this version no more.
    fn moved(&self, package: &Package) -> Option<String> {
        let Package { name, version, .. } = package;
        let suite = &self.suite;
        match self.show(name) {
            Ok(now) if now.version == *version => None,
            Ok(now) => Some(format!(
                "Debian {suite} has moved on: {name} {version} is gone, and {} is there\nhelp: the lists are new by now; run it again",
                now.version
            )),
            Err(error) => Some(format!(
                "Debian {suite} has moved on: {name} {version} is gone ({error})"
            )),
        }
    }

    fn fetch(&self, packages: &[&Package], folder: &Path) -> Result<()> {
        let names = packages
            .iter()
            .map(|package| format!("{}={}", package.name, package.version));
        process::run(
            self.apt("apt-get", Status::Empty)?
                .arg("download")
                .args(names)
                .current_dir(folder),
        )
    }

    fn age(&self) -> Option<Duration> {
        let stamp = std::fs::metadata(self.folder.join("updated"))
            .ok()?
            .modified()
            .ok()?;
        // A stamp from the future counts as fresh: the clock of a build machine may have been wrong.
        Some(SystemTime::now().duration_since(stamp).unwrap_or_default())
    }

    fn update(&self) -> Result<()> {
        let source = match &self.source {
            Some(source) => format!("{source}\n"),
            None => {
                let (mirror, suite, component) = (mirror()?, &self.suite, &self.component);
                format!("deb [signed-by={KEYRING}] {mirror} {suite} {component}\n")
            }
        };
        for folder in ["lists/partial", "archives/partial"] {
            files::make_folder(&self.folder.join(folder))?;
        }
        files::write(&self.folder.join("sources.list"), source)?;
        progress::step(
            format_args!("fetching the lists of Debian {}", self.suite),
            || {
                process::run(
                    self.apt("apt-get", Status::Empty)?
                        .args(["update", "--error-on=any"]),
                )
            },
        )?;
        files::write(&self.folder.join("updated"), "")
    }

    /// An apt command with this archive's state. Options are given on the command line, because they win over
    /// every file of the machine's configuration, which otherwise still counts (proxies, certificates).
    fn apt(&self, program: &str, status: Status<'_>) -> Result<Command> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let status = match status {
            Status::Empty => self.status_file(&[])?,
            Status::Pretend(names) => self.status_file(names)?,
        };
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        for (key, value) in [
            ("Dir::State", path("")),
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", status.display().to_string()),
            ("Dir::Cache", path("")),
            ("Dir::Cache::archives", path("archives")),
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::Etc::preferences", "-".to_owned()),
            ("Dir::Etc::preferencesparts", "-".to_owned()),
            ("APT::Architecture", self.architecture.clone()),
            ("APT::Architectures", self.architecture.clone()),
            // Everything is inside the user's own cache, where apt's download user may not go.
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                "false".to_owned(),
            ),
            ("Acquire::Retries", "3".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        Ok(command)
    }

    fn status_file(&self, pretended: &[&str]) -> Result<PathBuf> {
        let architecture = &self.architecture;
        let path = self
            .folder
            .join(format!("status-{}", crate::cache::key(pretended)));
        if !path.exists() {
            let stanza = |name: &&str| {
                format!(
                    "Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nMulti-Arch: foreign\n\
                     Maintainer: none\nVersion: 9999:1\nDescription: pretended\n\n"
                )
            };
            files::write(&path, pretended.iter().map(stanza).collect::<String>())?;
        }
        Ok(path)
    }
}

/// The mirror that this machine uses for Debian itself.
fn mirror() -> Result<String> {
    let ask = || {
        let format = "$(REPO_URI) $(RELEASE)";
        process::text(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]))
    };
    if let Some(uri) = debian_uri(&ask()?) {
        return Ok(uri);
    }
    // apt tells only of lists that it has; a fresh machine has none.
    super::host::update_lists()?;
    debian_uri(&ask()?)
        .context("this machine's apt configuration names no mirror of Debian (see sources.list(5))")
}

fn debian_uri(targets: &str) -> Option<String> {
    let mut lines = targets.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(_, release)| SUITES.contains(release))
        .map(|(uri, _)| uri.to_owned())
}

fn candidate(policy: &str) -> Option<String> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Lines such as `Inst libc6 (2.41-12 Debian:13.1/stable [amd64]) []`.
fn simulated(text: &str) -> Vec<Package> {
    text.lines().filter_map(simulated_line).collect()
}

fn simulated_line(line: &str) -> Option<Package> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    let (version, rest) = rest.split_once(' ')?;
    let (_, rest) = rest.split_once('[')?;
    let (architecture, _) = rest.split_once(']')?;
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: architecture.to_owned(),
    })
}

fn summary(packages: &[&Package]) -> String {
    match packages {
        [one] => one.name.clone(),
        [first, rest @ ..] => format!("{} and {} more packages", first.name, rest.len()),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests;
