//! `kedge run`: the project's disk image in QEMU.

use super::disk::Disk as Image;
use super::join_token::provisioning;
use super::{Scene, ctl};
use crate::image::fat;
use crate::project::Project;
use crate::qemu::{Console, Ending, Event, Forward, Vm, VmConfig};
use crate::{files, process};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::fs::{File, Permissions};
use std::io::IsTerminal;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A FAT's own tables, and what its files leave of their last clusters, bytes.
const STICK_SPARE: u64 = 32 << 20;
/// Mode of a file that its owner alone reads.
const PRIVATE: u32 = 0o600;
/// When it was made, which nobody looks at: 1980, the first time that FAT knows.
const STICK_TIME: u64 = 315_619_200;

/// Boot the disk image in QEMU, with the serial console here. Ctrl-A x ends it.
///
/// The device works on a copy of the image that is thrown away at the end; with --keep the copy stays, and the next run
/// with --keep goes on with it: volumes persist. While it runs, `kedge ctl` in another terminal talks to it.
///
/// With --ram it has no disk: what `kedge build --output ram` made is loaded as a network's loader would, and all that is
/// written is gone at the next boot.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The disk image; the one that `kedge build` made if absent.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Boot kernel and initramfs of `kedge build --output ram`, without a disk.
    #[arg(long, conflicts_with_all = ["image", "keep"])]
    ram: bool,
    /// Lead a port of this machine's loopback into the device, as in 8080:80. May be given again.
    #[arg(long, short, value_name = "HOST:GUEST", value_parser = forward)]
    port: Vec<Forward>,
    /// Memory, MiB; the board's if absent.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Keep what the device writes, and go on with what an earlier --keep left.
    #[arg(long)]
    keep: bool,
    /// Give the device this provisioning, as `kedge join-token new --out` writes it: it joins the hub at its first start.
    #[arg(long, value_name = "FILE")]
    provision: Option<PathBuf>,
    /// Plug a stick with this bundle in; a device that accepts sticks takes it. May be given again.
    #[arg(long, value_name = "BUNDLE")]
    stick: Vec<PathBuf>,
    /// End after so many seconds, for scripts; the exit status is then 1.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

impl Run {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let project = scene.project()?;
        // A device passes over a provisioning that it cannot read; its user had better know at once.
        self.provision.as_deref().map(provisioning).transpose()?;
        if self.ram {
            return self.without_disk(scene, &project);
        }
        let image = self.image.clone().unwrap_or_else(|| project.image_path());
        if !image.exists() {
            bail!(
                "there is no disk image {}; make it with `kedge build`",
                image.display()
            );
        }
        let disk = self.disk(scene, &project, &image)?;
        // Whatever comes of it, the copy goes: a token may be on it.
        let ran = || {
            let mut config = self.config(scene, &project, &disk)?;
            hand_over(&mut config)?;
            self.with_stick(scene, config, &disk.with_extension("stick"))
        };
        let result = ran();
        if !self.keep {
            std::fs::remove_file(&disk)
                .with_context(|| format!("cannot remove {}", disk.display()))?;
        }
        result
    }

    fn without_disk(&self, scene: &Scene, project: &Project) -> Result<()> {
        let ram = project.ram_path();
        if !ram.exists() {
            bail!(
                "there is no {}; make it with `kedge build --output ram`",
                ram.display()
            );
        }
        let mut config = self.config(scene, project, Path::new(""))?;
        if config.provision.is_some() && !shows_provision(&config) {
            bail!(
                "the kernel of the board {} does not show a device what QEMU hands over, and there is no disk to put the provisioning on",
                config.board.name
            );
        }
        let stick = ram.with_extension("stick");
        config.ram = Some(ram);
        self.with_stick(scene, config, &stick)
    }

    /// Watches the machine with its stick, if there is one.
    fn with_stick(&self, scene: &Scene, mut config: VmConfig, stick: &Path) -> Result<()> {
        if self.stick_at(stick)? {
            config.sticks = Some(vec![stick.to_owned()]);
        }
        let result = self.watch(scene, config);
        // There may be none.
        std::fs::remove_file(stick).ok();
        result
    }

    /// Makes the image of the stick, if there is to be one.
    fn stick_at(&self, image: &Path) -> Result<bool> {
        // An earlier run may have been killed.
        std::fs::remove_file(image).ok();
        let mut size = STICK_SPARE;
        for bundle in &self.stick {
            let metadata = bundle.metadata();
            let metadata = metadata.with_context(|| format!("cannot read {}", bundle.display()))?;
            size = size.saturating_add(metadata.len());
        }
        let some = !self.stick.is_empty();
        if some {
            let size = size.next_multiple_of(1 << 20);
            fat::make_of(image, size, [0x5c; 16], &self.stick, STICK_TIME)?;
        }
        Ok(some)
    }

    /// The copy that the device writes to.
    fn disk(&self, scene: &Scene, project: &Project, image: &Path) -> Result<PathBuf> {
        let build = project.build_folder();
        files::make_folder(&build)?;
        let name = if self.keep {
            "run-kept.img".to_owned()
        } else {
            files::remove_leftovers(&build, files::RUN);
            format!("{}{}.img", files::RUN, std::process::id())
        };
        let disk = build.join(name);
        if self.keep && disk.exists() {
            let newer = |path: &Path| {
                path.metadata()
                    .and_then(|metadata| metadata.modified())
                    .ok()
            };
            if newer(image) > newer(&disk) {
                scene.output.say(format_args!(
                    "going on with {}, which is older than the image; remove it to begin anew",
                    disk.display()
                ));
            }
            only_for_its_owner(&disk)?;
            return Ok(disk);
        }
        empty_for_its_owner(&disk)?;
        if let Err(error) = process::copy_with_holes(image, &disk) {
            // A half of it would be gone on with.
            std::fs::remove_file(&disk).ok();
            return Err(error);
        }
        Ok(disk)
    }

    fn config(&self, scene: &Scene, project: &Project, disk: &Path) -> Result<VmConfig> {
        let board = project.board()?;
        let mut config = VmConfig::new(board, disk, &ctl::run_folder(project)?);
        config.forwards.clone_from(&self.port);
        config.memory = self.memory;
        config.provision.clone_from(&self.provision);
        if let Some(text) = &project.manifest().secure_boot {
            config.secure_boot = Some(project.folder().join(&text.certificate));
        }
        let terminal = std::io::stdin().is_terminal()
            && std::io::stdout().is_terminal()
            && !scene.output.is_json();
        config.console = if terminal {
            Console::Terminal
        } else {
            Console::Events
        };
        Ok(config)
    }

    fn watch(&self, scene: &Scene, config: VmConfig) -> Result<()> {
        let forwards = config.forwards.clone();
        let mut vm = Vm::start(config)?;
        report(
            scene,
            "control",
            json!({ "socket": vm.control() }),
            &format!(
                "control socket: {} (kedge ctl status)",
                vm.control().display()
            ),
        )?;
        for forward in forwards {
            let text = format!(
                "port 127.0.0.1:{} leads to the device's {}",
                forward.host, forward.guest
            );
            report(
                scene,
                "forward",
                json!({ "host": forward.host, "guest": forward.guest }),
                &text,
            )?;
        }
        let end = self
            .timeout
            .map(|seconds| Instant::now() + Duration::from_secs(seconds));
        loop {
            let tick = Instant::now() + Duration::from_hours(1);
            match vm.next(end.unwrap_or(tick)) {
                Some(Event::Line(line)) => scene
                    .output
                    .result(&line, &json!({ "event": "line", "text": line }))?,
                Some(Event::Booted(slot)) => {
                    let slot = slot.letter();
                    report(
                        scene,
                        "booted",
                        json!({ "slot": slot }),
                        &format!("QEMU started with slot {slot}"),
                    )?;
                }
                Some(Event::Reset(cause)) => {
                    let cause = format!("{cause:?}").to_lowercase();
                    report(
                        scene,
                        "reset",
                        json!({ "cause": cause }),
                        &format!("the device reset ({cause})"),
                    )?;
                }
                Some(Event::Ended(ending)) => return ended(scene, ending),
                None if end.is_some_and(|end| Instant::now() >= end) => {
                    vm.kill()?;
                    bail!(
                        "the device still ran after {} s and was switched off",
                        self.timeout.unwrap_or_default()
                    );
                }
                None => {}
            }
        }
    }
}

/// Whether the board's kernel shows a device what QEMU hands over.
fn shows_provision(config: &VmConfig) -> bool {
    config.board.modules().contains(&"qemu_fw_cfg")
}

/// Puts a provisioning onto the disk, as `kedge flash` does, where Debian's kernel for the board does not show a device what
/// QEMU hands over.
fn hand_over(config: &mut VmConfig) -> Result<()> {
    if shows_provision(config) {
        return Ok(());
    }
    if let Some(provision) = config.provision.take() {
        let image = Image::open(&config.disk)?.context("the copy is no disk image")?;
        image.put_private("/device/provision.json", &provisioning(&provision)?)?;
    }
    Ok(())
}

/// One event: words on standard error, or an object a line on standard output.
fn report(scene: &Scene, event: &str, mut object: Value, text: &str) -> Result<()> {
    if scene.output.is_json() {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("event".to_owned(), Value::String(event.to_owned()));
        }
        return scene.output.result("", &object);
    }
    scene.output.say(text);
    Ok(())
}

fn ended(scene: &Scene, ending: Ending) -> Result<()> {
    match ending {
        Ending::PoweredOff => report(
            scene,
            "ended",
            json!({ "how": "powered-off" }),
            "the device powered off",
        ),
        Ending::Killed => report(scene, "ended", json!({ "how": "killed" }), "QEMU was ended"),
        Ending::Failed(status, text) => bail!("QEMU ended with {status}\n{text}"),
        Ending::NotStarted(error) => Err(error.context("the device could not be started again")),
    }
}

/// `8080:80`.
fn forward(text: &str) -> Result<Forward, String> {
    let parse = || {
        let (host, guest) = text.split_once(':')?;
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        Some(Forward {
            host: port(host)?,
            guest: port(guest)?,
        })
    };
    parse().ok_or_else(|| "write HOST:GUEST, as in 8080:80".to_owned())
}

/// Makes the file that the disk becomes, with a device's key, values and volumes on it. What is copied onto it leaves its mode.
fn empty_for_its_owner(disk: &Path) -> Result<()> {
    // An earlier process had this number.
    std::fs::remove_file(disk).ok();
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(disk);
    made.with_context(|| format!("cannot make {}", disk.display()))?;
    Ok(())
}

fn only_for_its_owner(disk: &Path) -> Result<()> {
    std::fs::set_permissions(disk, Permissions::from_mode(PRIVATE)).with_context(|| {
        format!(
            "cannot keep {} from others, which is somebody else's\nhelp: remove it to begin anew",
            disk.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::Sample;
    use kedge_board_support::boards;

    #[test]
    fn a_provisioning_is_on_the_disk_where_the_kernel_would_not_show_it() {
        for (board, on_disk) in [("qemu-arm64", false), ("qemu-armv7", true)] {
            let sample = Sample::of(board);
            let (disk, _) = sample.build("disk").unwrap();
            let folder = tempfile::tempdir().unwrap();
            let provision = folder.path().join("provision.json");
            let text = r#"{"spec":"kedge.provision/1"}"#;
            files::write(&provision, text).unwrap();
            let mut config = VmConfig::new(boards::find(board).unwrap(), &disk, folder.path());
            config.provision = Some(provision);
            hand_over(&mut config).unwrap();
            assert_eq!(config.provision.is_none(), on_disk, "{board}");
            let image = Image::open(&disk).unwrap().unwrap();
            let found = image.read("/device/provision.json").unwrap();
            assert_eq!(found == text.as_bytes(), on_disk, "{board}");
        }
    }

    #[test]
    fn an_object_is_copied_out_to_a_folder_of_any_name() {
        let sample = Sample::new();
        let (disk, _) = sample.build("disk").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let strange = folder.path().join("my \"new\" device's");
        files::make_folder(&strange).unwrap();
        let image = Image::open(&disk).unwrap().unwrap();
        let mut layers = sample.objects.iter();
        let (id, layer) = layers.find(|(_, path)| path.ends_with("layer0")).unwrap();
        let copy = strange.join("object");
        image.copy_object(*id, &copy).unwrap();
        assert_eq!(files::read(&copy).unwrap(), files::read(layer).unwrap());
    }

    #[test]
    fn a_disk_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [image, disk] = ["image", "disk"].map(|name| folder.path().join(name));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        files::write(&image, [7; 5000]).unwrap();
        std::fs::set_permissions(&image, Permissions::from_mode(0o644)).unwrap();
        empty_for_its_owner(&disk).unwrap();
        process::copy_with_holes(&image, &disk).unwrap();
        assert_eq!(mode(&disk), PRIVATE);
        assert_eq!(files::read(&disk).unwrap(), [7; 5000]);
        std::fs::set_permissions(&disk, Permissions::from_mode(0o644)).unwrap();
        only_for_its_owner(&disk).unwrap();
        assert_eq!(mode(&disk), PRIVATE);
        // One that an earlier run of this number left.
        empty_for_its_owner(&disk).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), 0);
    }

    #[test]
    fn ports_are_pairs() {
        assert_eq!(
            forward("8080:80"),
            Ok(Forward {
                host: 8080,
                guest: 80
            })
        );
        for bad in ["80", "80:", ":80", "0:80", "80:70000", "a:b"] {
            assert!(forward(bad).is_err(), "{bad}");
        }
    }
}
