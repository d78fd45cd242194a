//! The product of the trials' tests: a few containers, and what can be made of one of them to be tried.
//!
//! The project is made once a run through the host command. Each test has a copy of its own, changes it as a developer
//! would, and pushes it to its device.

use crate::disk::Disk;
use crate::guest::{BOOT, Guest, text};
use crate::kedge::Kedge;
use crate::product::{self, BOARD, PerBoard};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::platform::Platform;
use kedge_image_build::{files, process, toolchain};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;
use std::time::Duration;

/// Seconds for which a trial's goals must hold. The least that there is, 5, was too few on a machine under load: a goal
/// that comes later than the window is missed.
pub const WINDOW: u64 = 10;
/// How long a trial without a boot may take until its verdict: one and a half windows, on a machine that is busy.
pub const JUDGED: Duration = Duration::from_secs(60);

/// A project of one test, and its device's disk.
#[derive(Debug)]
pub struct Project {
    /// The host command in it.
    pub kedge: Kedge,
    /// Removed with it.
    _folder: Option<tempfile::TempDir>,
    layer: String,
    platform: PathBuf,
}

struct Made {
    folder: PathBuf,
    image: PathBuf,
    layer: String,
    platform: PathBuf,
}

static MADE: PerBoard<Made> = PerBoard::new();

/// A copy of the project and of its disk; `kedge` is the path of the host command.
///
/// # Errors
/// It cannot be built.
pub fn project(kedge: &str) -> Result<(Project, Disk)> {
    project_on(kedge, BOARD)
}

/// [`project`] for another board.
///
/// # Errors
/// As [`project`].
pub fn project_on(kedge: &str, board: &str) -> Result<(Project, Disk)> {
    let made = MADE.get(board, || make(kedge, board))?;
    let folder = tempfile::Builder::new().prefix("kedge-trial-").tempdir()?;
    let copy = folder.path().join("project");
    process::run(
        Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(&made.folder)
            .arg(&copy),
    )?;
    let project = Project {
        kedge: Kedge::new(kedge, &copy),
        _folder: Some(folder),
        layer: made.layer.clone(),
        platform: made.platform.clone(),
    };
    Ok((project, Disk::copy_of(&made.image)?))
}

fn make(program: &str, board: &str) -> Result<Made> {
    let folder = product::folder(board)?.join("trials");
    let kedge = Kedge::new(program, &folder);
    kedge.create("trials", board)?;
    fill(&kedge, board)
}

/// Fills a new project with the containers, and builds it.
fn fill(kedge: &Kedge, board: &str) -> Result<Made> {
    let folder = kedge.folder().to_owned();
    let probe = toolchain::build_program(&boards::find(board)?, "kedge-probe", "probe")
        .context("cannot build the program in the containers")?;
    let place = product::folder(board)?;
    let source = place.join("trial-files");
    product::root_file_system(&source, &probe)?;
    let image = format!("dir:{}", source.display());
    let words = [
        "add",
        &image,
        "--name",
        "app",
        "--command",
        "/probe",
        "sleep",
    ];
    let layer = product::layer(&kedge.ask(&words)?)?;
    let manifest = folder.join("kedge.toml");
    let text = files::read_text(&manifest)?;
    let text = edit(
        &text,
        "window = \"60s\"",
        &format!("window = \"{WINDOW}s\""),
    )?;
    let text = format!(
        "{text}\n[parameters.site]\ntype = \"string\"\nmax-length = 20\ndefault = \"nowhere\"\n"
    );
    files::write(&manifest, text)?;
    for (name, text) in [
        ("app", container(&layer, "app", &["sleep"], "")),
        ("keeper", container(&layer, "app", &["sleep"], "")),
        ("base", container(&layer, "platform", &["sleep"], "")),
        ("site", container(&layer, "app", &["facts"], SITE)),
        (
            "data",
            container(&layer, "app", &["volumes", "/keep"], DATA),
        ),
    ] {
        files::write(&folder.join(format!("containers/{name}.toml")), text)?;
    }
    product::bridge(&folder, board, &layer)?;
    let platform = product::platform(board)?;
    let words = ["build", "--platform", &platform.display().to_string()];
    let built = kedge.ask(&words)?;
    Ok(Made {
        image: folder.join(image_of(&built)?),
        folder,
        layer,
        platform,
    })
}

/// The image that `kedge build` has made, as it says.
fn image_of(built: &Value) -> Result<&str> {
    let path = built.pointer("/image/path").and_then(Value::as_str);
    path.context("kedge build names no image")
}

/// What comes behind `[process]` of the container that shows its site.
const SITE: &str = "parameters = { SITE = \"site\" }\n";
/// What comes behind `[process]` of the container that counts its starts.
const DATA: &str = "[volumes.keep]\npath = \"/keep\"\nlifetime = \"permanent\"\nsize = \"2MiB\"\nsnapshot = \"on-trial\"\nsnapshot-max = \"1MiB\"\n";

/// A container's file; `rest` begins in the table `[process]`.
fn container(layer: &str, group: &str, arguments: &[&str], rest: &str) -> String {
    container_with(layer, group, "started", arguments, rest)
}

fn container_with(layer: &str, group: &str, goal: &str, arguments: &[&str], rest: &str) -> String {
    let arguments: Vec<String> = arguments.iter().map(|word| format!("{word:?}")).collect();
    format!(
        "layers = [\"{layer}\"]\ngroup = \"{group}\"\ngoal = \"{goal}\"\n\n[process]\narguments = [\"/probe\", {}]\n{rest}",
        arguments.join(", ")
    )
}

/// A text in which one place is another.
///
/// # Errors
/// The place is not there.
fn edit(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "no {from:?} in:\n{text}");
    Ok(text.replacen(from, to, 1))
}

/// How a push ended.
#[derive(Debug)]
pub struct Pushed {
    /// What the host command said, as JSON.
    pub said: Value,
    /// Whether the trial was committed.
    pub committed: bool,
}

impl Project {
    /// A new and empty project for a board with the containers of the trials, and its device's disk.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn fill(kedge: Kedge, board: &str) -> Result<(Self, Disk)> {
        // One at a time for a board: all build the same program.
        let cell = MADE.cell(board);
        let one = cell.lock().unwrap_or_else(PoisonError::into_inner);
        let made = fill(&kedge, board)?;
        drop(one);
        let project = Self {
            kedge,
            _folder: None,
            layer: made.layer,
            platform: made.platform,
        };
        Ok((project, Disk::copy_of(&made.image)?))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.kedge.folder().join(name)
    }

    /// Where the layer that all its containers have lies on a device's data partition.
    ///
    /// # Errors
    /// It is named by no digest.
    pub fn layer_on_disk(&self) -> Result<String> {
        let (_, hex) = self
            .layer
            .split_once(':')
            .context("the layer has no digest")?;
        let folder = hex.get(..2).context("the layer's digest is short")?;
        Ok(format!("/objects/v1/{folder}/{hex}"))
    }

    /// Makes the container `app` another one.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn app(&self, goal: &str, arguments: &[&str], rest: &str) -> Result<()> {
        self.set("app", "app", goal, arguments, rest)
    }

    /// Makes a container another one.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn set(
        &self,
        name: &str,
        group: &str,
        goal: &str,
        arguments: &[&str],
        rest: &str,
    ) -> Result<()> {
        let text = container_with(&self.layer, group, goal, arguments, rest);
        files::write(&self.file(&format!("containers/{name}.toml")), text)
    }

    /// Lays a layer of [`Project::layer_of`] over those of a container.
    ///
    /// # Errors
    /// It has no file.
    pub fn lay(&self, name: &str, layer: &str) -> Result<()> {
        let path = self.file(&format!("containers/{name}.toml"));
        let text = files::read_text(&path)?;
        files::write(&path, edit(&text, "\"]\n", &format!("\", {layer:?}]\n"))?)
    }

    /// Gives a container a role, and with it a control socket.
    ///
    /// # Errors
    /// It has no file.
    pub fn grant(&self, name: &str, role: &str) -> Result<()> {
        self.add_line(name, &format!("roles = [{role:?}]"))
    }

    /// Adds a line to a container's file, before all others.
    ///
    /// # Errors
    /// It has no file.
    pub fn add_line(&self, name: &str, line: &str) -> Result<()> {
        let path = self.file(&format!("containers/{name}.toml"));
        let text = files::read_text(&path)?;
        files::write(&path, format!("{line}\n{text}"))
    }

    /// Changes a place of `kedge.toml`.
    ///
    /// # Errors
    /// The place is not there.
    pub fn edit(&self, from: &str, to: &str) -> Result<()> {
        let path = self.file("kedge.toml");
        let text = edit(&files::read_text(&path)?, from, to)?;
        files::write(&path, text)
    }

    /// Sets for how long a trial's goals must hold.
    ///
    /// # Errors
    /// As [`Project::edit`].
    pub fn window(&self, window: &str) -> Result<()> {
        self.set_line("window = ", &format!("window = {window:?}"))
    }

    /// Sets how many boots a trial may take without a verdict.
    ///
    /// # Errors
    /// As [`Project::edit`].
    pub fn tries(&self, tries: u8) -> Result<()> {
        self.set_line("tries = ", &format!("tries = {tries}"))
    }

    fn set_line(&self, start: &str, new: &str) -> Result<()> {
        let path = self.file("kedge.toml");
        let text = files::read_text(&path)?;
        let line = text.lines().find(|line| line.starts_with(start));
        let line = line.with_context(|| format!("no {start:?} in kedge.toml"))?;
        files::write(&path, edit(&text, line, new)?)
    }

    /// Sets the kernel's arguments.
    ///
    /// # Errors
    /// As [`Project::edit`].
    pub fn kernel_arguments(&self, arguments: &str) -> Result<()> {
        self.set_line("arguments = ", &format!("arguments = {arguments:?}"))
    }

    /// From now on the project's initramfs has another program as its `/init`.
    ///
    /// # Errors
    /// The platform cannot be copied.
    pub fn replace_init(&mut self, program: &Path) -> Result<()> {
        let copy = self.file("platform-with-another-init");
        files::remove_folder(&copy)?;
        process::run(Command::new("cp").arg("-a").arg(&self.platform).arg(&copy))?;
        files::write_executable(&copy.join("init"), files::read(program)?)?;
        self.platform = copy;
        Ok(())
    }

    /// The project's platform is this one again.
    pub fn use_platform(&mut self, platform: &Path) {
        platform.clone_into(&mut self.platform);
    }

    /// The folder of its platform.
    #[must_use]
    pub fn platform(&self) -> &Path {
        &self.platform
    }

    /// Whether this driver is a module of the platform's kernel, and not built into it.
    ///
    /// # Errors
    /// The platform cannot be read.
    pub fn has_module(&self, name: &str) -> Result<bool> {
        let modules = Platform::load(&self.platform)?.modules;
        // In names of modules `-` and `_` are the same.
        let file = format!("modules/{name}.ko").replace('-', "_");
        Ok(modules.iter().any(|path| path.replace('-', "_") == file))
    }

    /// Whether the platform's kernel is our own, which has no modules and all drivers that its board names.
    ///
    /// # Errors
    /// The platform cannot be read.
    pub fn has_own_kernel(&self) -> Result<bool> {
        Ok(Platform::load(&self.platform)?.has_own_kernel())
    }

    /// Whether the platform's kernel has this driver: built in, or as a module that comes along.
    ///
    /// # Errors
    /// The platform cannot be read.
    pub fn has_driver(&self, name: &str) -> Result<bool> {
        Ok(self.has_own_kernel()? || self.has_module(name)?)
    }

    /// Takes a folder in as a layer, without a container of it.
    ///
    /// # Errors
    /// As `kedge add`.
    pub fn layer_of(&self, folder: &Path) -> Result<String> {
        let image = format!("dir:{}", folder.display());
        let words = ["add", &image, "--name", "spare", "--command", "/none"];
        let layer = product::layer(&self.kedge.ask(&words)?)?;
        let written = self.file("containers/spare.toml");
        std::fs::remove_file(written).context("kedge add wrote no container")?;
        Ok(layer)
    }

    /// Builds the project as it is now; a disk of its image.
    ///
    /// # Errors
    /// As `kedge build`.
    pub fn build(&self) -> Result<Disk> {
        let platform = self.platform.display().to_string();
        let built = self.kedge.ask(&["build", "--platform", &platform])?;
        Disk::copy_of(&self.file(image_of(&built)?))
    }

    /// Writes the project as a bundle.
    ///
    /// # Errors
    /// As `kedge bundle`.
    pub fn bundle(&self, name: &str) -> Result<PathBuf> {
        let path = self.file(name);
        let platform = self.platform.display().to_string();
        let out = path.display().to_string();
        self.kedge
            .ask(&["bundle", "--platform", &platform, "--out", &out])?;
        Ok(path)
    }

    /// Pushes the project to a device and waits for the verdict.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn push(&self, guest: &Guest, more: &[&str]) -> Result<Pushed> {
        let platform = self.platform.display().to_string();
        let mut words = vec!["--platform", &platform];
        words.extend(more);
        self.push_words(guest, &words)
    }

    /// Pushes a bundle to a device and waits for the verdict.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn push_bundle(&self, guest: &Guest, bundle: &Path) -> Result<Pushed> {
        self.push_words(guest, &[&bundle.display().to_string()])
    }

    fn push_words(&self, guest: &Guest, words: &[&str]) -> Result<Pushed> {
        let socket = guest.control_socket().display().to_string();
        let mut all = vec!["push", "--socket", &socket];
        all.extend(words);
        let (said, status) = self.kedge.try_ask(&all)?;
        let said: Value = serde_json::from_str(&said)
            .with_context(|| format!("`kedge push` said no JSON: {said}"))?;
        Ok(Pushed {
            said,
            committed: status == Some(0),
        })
    }
}

/// The `update` object of a device's status.
///
/// # Errors
/// Nobody answers, or there is none.
pub fn update(guest: &Guest) -> Result<Value> {
    let status = guest.status()?;
    status
        .get("update")
        .cloned()
        .with_context(|| format!("the status tells nothing of updates: {status}"))
}

/// The reason of the last trial that failed; empty: none did.
///
/// # Errors
/// Nobody answers.
pub fn failure(guest: &Guest) -> Result<String> {
    let update = update(guest)?;
    let failed = update.get("failed");
    Ok(failed
        .map_or("", |failed| text(failed, "reason"))
        .to_owned())
}

/// The id of the committed revision.
///
/// # Errors
/// Nobody answers.
pub fn committed(guest: &Guest) -> Result<String> {
    let update = update(guest)?;
    let committed = update.get("committed").context("nothing is committed")?;
    Ok(text(committed, "revision").to_owned())
}

/// The process of a container.
///
/// # Errors
/// It does not run.
pub fn pid(guest: &Guest, name: &str) -> Result<u64> {
    let container = guest.container(name)?;
    container
        .get("pid")
        .and_then(Value::as_u64)
        .with_context(|| format!("{name} does not run: {container}"))
}

/// The process of a container that runs, or is about to: a device that has only just begun answers before its last
/// group is started.
///
/// # Errors
/// It does not run in the time that a boot may take.
pub fn running(guest: &Guest, name: &str) -> Result<u64> {
    guest.wait_for_state(name, "running", BOOT)?;
    pid(guest, name)
}
