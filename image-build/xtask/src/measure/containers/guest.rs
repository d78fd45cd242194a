//! The same starts in QEMU, on the kernel of a device, with every instruction counted: one is one nanosecond of the guest's
//! clock, so that neither this machine's kernel nor what else it does is in the figures.
//!
//! The machine has no disk. Its initramfs holds the programs, crun's libraries among them, and a script that copies them
//! into a file system in memory, since the root of an initramfs cannot be left by `pivot_root(2)`. Here crun makes a control
//! group a container, too, with the program for devices that `config.json` asks for.

use super::{Built, bundles};
use crate::project;
use anyhow::{Context, Result, bail, ensure};
use kedge_image_build::image::ram;
use kedge_image_build::platform::Platform;
use kedge_image_build::qemu::{Clock, Event, Vm, VmConfig};
use kedge_image_build::{files, process, progress};
use kedge_rootfs::Initramfs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Instructions are counted, and crun makes many.
const PATIENCE: Duration = Duration::from_mins(30);
/// Before each line of a result, on a console that the kernel writes to as well.
const MARK: &str = "measured: ";
/// What the script says when it is through, and when it is not.
const END: &str = "all";
const FAILED: &str = "failed";
/// Few: the same instructions take the same time.
const ROUNDS: &str = "2";
const COUNT: &str = "10";

/// The lines of `starts`.
///
/// # Errors
/// A program is missing, or the machine does not come to the end.
pub(super) fn starts(built: &Built, platform: &Path, folder: &Path) -> Result<String> {
    let ram = folder.join("ram");
    files::make_folder(&ram)?;
    let board = project::board(platform)?;
    let kernel = platform.join(Platform::load(platform)?.kernel);
    std::fs::copy(&kernel, ram.join(ram::KERNEL)).context("cannot copy the kernel")?;
    let archive = progress::step("packing what is started", || archive(built, folder))?;
    files::write(&ram.join(ram::INITRAMFS), archive)?;
    let arguments = format!("{} quiet rdinit=/init", board.arguments());
    files::write(&ram.join(ram::ARGUMENTS), arguments)?;
    let mut config = VmConfig::without_disk(board, &ram, &folder.join("vm"));
    config.clock = Clock::Instructions;
    progress::step("starting containers in turns, in QEMU", || results(config))
}

fn results(config: VmConfig) -> Result<String> {
    let vm = Vm::start(config)?;
    let until = Instant::now() + PATIENCE;
    let (mut results, mut console) = (String::new(), Vec::new());
    loop {
        match vm.next(until) {
            Some(Event::Line(line)) => match line.trim_end().split_once(MARK) {
                Some((_, END)) => return Ok(results),
                Some((_, FAILED)) => bail!("the starts failed; {}", last(console)),
                Some((_, result)) => {
                    results.push_str(result);
                    results.push('\n');
                }
                None => console.push(line),
            },
            Some(Event::Booted(_)) => {}
            Some(other @ (Event::Reset(_) | Event::Ended(_))) => bail!(
                "the machine did not come to the end ({other:?}); {}",
                last(console)
            ),
            None => bail!("the machine was not done in {} s", PATIENCE.as_secs()),
        }
    }
}

fn last(mut console: Vec<String>) -> String {
    let end = console.len().saturating_sub(20);
    format!("it last said:\n{}", console.split_off(end).join("\n"))
}

/// All that the machine has.
fn archive(built: &Built, folder: &Path) -> Result<Vec<u8>> {
    let mut archive = Initramfs::new();
    let mut add = |place: &str, path: &Path| -> Result<()> {
        let content = files::read(path)?;
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        let mode = u16::try_from(mode).context("a mode has nine bits")?;
        let place = place.trim_start_matches('/');
        for (end, _) in place.match_indices('/') {
            archive.directory(place.get(..end).unwrap_or_default(), 0o755)?;
        }
        Ok(archive.file(place, mode, content)?)
    };
    add("bin/busybox", Path::new("/bin/busybox"))?;
    add("bin/starts", &built.starts)?;
    add("bin/kedge-oci", &built.oci)?;
    let crun = process::find("crun").context("crun is not there")?;
    add("bin/crun", &crun)?;
    for library in libraries(&crun)? {
        add(&library.display().to_string(), &library)?;
    }
    let here = folder.join("measured");
    bundles(&here, Path::new("/measured/rootfs"), &built.oci)?;
    for name in ["config.json", "sleeper/config.json"] {
        add(&format!("measured/{name}"), &here.join(name))?;
    }
    let script = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        files::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    add("init", &script("init", INIT)?)?;
    let run = format!(
        "{RUN}(starts /measured/rootfs /measured {ROUNDS} {COUNT} kedge-oci=/bin/kedge-oci \
         'crun=crun --cgroup-manager=cgroupfs' && echo '{END}' || echo '{FAILED}') | \
         while read -r line; do echo \"{MARK}$line\"; done\nsleep 1000\n"
    );
    add("run", &script("run", &run)?)?;
    Ok(archive.compressed()?)
}

/// Makes of the archive a root that can be left.
const INIT: &str = "#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir /new
$bb mount -t tmpfs -o mode=755 root /new
for name in /*; do
    case $name in
        /new|/dev|/root|/init) ;;
        *) $bb cp -a $name /new/ ;;
    esac
done
$bb mkdir /new/dev
$bb mount -t devtmpfs dev /new/dev
exec $bb switch_root -c /dev/console /new /run
";

const RUN: &str = "#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir /proc /sys /tmp /etc /commands
$bb mv /run /started
$bb mkdir /run
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t cgroup2 none /sys/fs/cgroup
$bb mount -t tmpfs none /tmp
$bb --install -s /commands
export PATH=/bin:/commands
cd /measured
mkdir -p rootfs/bin rootfs/dev rootfs/proc rootfs/sys
cp /bin/busybox rootfs/bin/
ln -s busybox rootfs/bin/true
ln -s busybox rootfs/bin/sleep
cd /
";

/// What the dynamic linker would load for a program, itself among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = process::text(Command::new("ldd").arg(program))?;
    let libraries = paths(&text);
    ensure!(!libraries.is_empty(), "ldd names no library: {text}");
    Ok(libraries)
}

fn paths(text: &str) -> Vec<PathBuf> {
    let word = |line: &str| {
        let line = line.rsplit(" => ").next()?;
        let path = line.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibyajl.so.2 => /lib/x86_64-linux-gnu/libyajl.so.2 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libyajl.so.2",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(paths(text), expected.map(PathBuf::from));
    }
}
