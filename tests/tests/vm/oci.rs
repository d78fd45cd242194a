//! `kedge-oci` on a device's kernel, where version 2 of the control groups has every controller: limits are written, changed,
//! and kept. The machine that runs the tests may have version 1, where there are none to be changed.
//!
//! A swap, which no device has, is here on our own kernel, which can have one in memory: that what `memory.swap.max` lets be is
//! used, and that a container without it is killed where it would have been.
//!
//! The machine has no disk: an initramfs with the command, busybox and a script, of which each line of a result has a mark.

use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards;
use kedge_image_build::image::ram;
use kedge_image_build::platform::Platform;
use kedge_image_build::qemu::{Event, Vm, VmConfig};
use kedge_image_build::{debian, files, toolchain};
use kedge_rootfs::Initramfs;
use kedge_tests::product::{self, BOARD};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);
/// Before each line of a result, on a console that the kernel writes to as well.
const MARK: &str = "seen: ";

/// Makes of the archive a root that can be left by `pivot_root(2)`.
const INIT: &str = "#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir /new
$bb mount -t tmpfs -o mode=755 root /new
$bb cp -a /bin /one /script /new/
$bb mkdir /new/dev /new/proc /new/sys /new/run /new/tmp
$bb mount -t devtmpfs dev /new/dev
exec $bb switch_root -c /dev/console /new /script
";

/// In the container six processes are started, which is more than one of its limits lets be.
const SCRIPT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t cgroup2 none /sys/fs/cgroup
for name in sh sleep cat grep mkdir dd rm mkswap swapon; do $bb ln -s busybox /bin/$name; done
export PATH=/bin
mkdir -p /one/rootfs/bin /one/rootfs/proc
$bb cp -a /bin/busybox /bin/sh /bin/sleep /bin/dd /bin/rm /one/rootfs/bin/
cd /one
say() { echo "seen: $*"; }
see() {
    for file in memory.max memory.low pids.max cpu.max cpu.weight memory.oom.group; do
        say $1 $file $(cat /sys/fs/cgroup/oci/one/$file)
    done
    kedge-oci exec one sh -c 'for n in 1 2 3 4 5 6; do sleep 3 & done; wait' 2>/dev/null && say $1 forks 6 || say $1 forks fewer
}
kedge-oci run --detach one </dev/null >/dev/null 2>/tmp/errors || say failed $(cat /tmp/errors)
see created
kedge-oci update --memory 100000000 --memory-reservation 20000000 --pids-limit 3 --cpu-quota 20000 --cpu-period 100000 --cpu-share 512 one 2>/tmp/errors \
    || say failed $(cat /tmp/errors)
see updated
echo '{"unified": {"memory.oom.group": "1"}, "pids": {"limit": -1}}' | kedge-oci update --resources - one 2>/tmp/errors || say failed $(cat /tmp/errors)
kedge-oci update --cpu-period 200000 one 2>/tmp/errors || say failed $(cat /tmp/errors)
say period cpu.max $(cat /sys/fs/cgroup/oci/one/cpu.max)
kedge-oci update --cpu-quota 30000 one 2>/tmp/errors || say failed $(cat /tmp/errors)
see again
kedge-oci update --memory 4096000000000000000000 one 2>/tmp/errors && say refused nothing
kedge-oci update --memory -7 one 2>/tmp/errors && say refused nothing
see refused
fill() {
    kedge-oci exec one dd if=/dev/zero of=/fill bs=1M count=48 2>/dev/null && say $1 filled yes || say $1 filled no
    say $1 swapped $(cat /sys/fs/cgroup/oci/one/memory.swap.current)
    kedge-oci exec one rm /fill 2>/dev/null
}
if test -e /sys/block/zram0; then
    echo 64M > /sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null && swapon /dev/zram0 || say failed swapon
    kedge-oci update --memory 25165824 --memory-swap 92274688 one 2>/tmp/errors || say failed $(cat /tmp/errors)
    fill swap
    kedge-oci update --memory 25165824 --memory-swap 25165824 one 2>/tmp/errors || say failed $(cat /tmp/errors)
    fill none
fi
kedge-oci delete --force one && say deleted $($bb test -e /sys/fs/cgroup/oci/one && echo not)
say end
sleep 1000
"#;

fn config() -> String {
    let config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "args": ["sh", "-c", "while :; do sleep 1000; done"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        },
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": "/oci/one",
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "resources": {"memory": {"limit": 64 << 20}, "pids": {"limit": 16}},
        },
    });
    config.to_string()
}

/// The machine's folder: kernel, initramfs, arguments.
fn machine(folder: &Path) -> Result<(VmConfig, Platform)> {
    debian::require(&["busybox-static"], "have a shell in the machine")?;
    let board = boards::find(BOARD)?;
    let command = toolchain::build_program(&board, "kedge-oci", "kedge-oci")?;
    let platform = product::platform(BOARD)?;
    let ram = folder.join("ram");
    files::make_folder(&ram)?;
    let made = Platform::load(&platform)?;
    let kernel = platform.join(&made.kernel);
    files::write(&ram.join(ram::KERNEL), files::read(&kernel)?)?;
    let mut archive = Initramfs::new();
    for name in ["bin", "one"] {
        archive.directory(name, 0o755)?;
    }
    archive.file(
        "bin/busybox",
        0o755,
        files::read(Path::new("/bin/busybox"))?,
    )?;
    archive.file("bin/kedge-oci", 0o755, files::read(&command)?)?;
    archive.file("init", 0o755, INIT.into())?;
    archive.file("script", 0o755, SCRIPT.into())?;
    archive.file("one/config.json", 0o644, config().into_bytes())?;
    files::write(&ram.join(ram::INITRAMFS), archive.compressed()?)?;
    let arguments = format!("{} quiet rdinit=/init", board.arguments());
    files::write(&ram.join(ram::ARGUMENTS), arguments)?;
    let config = VmConfig::without_disk(board, &ram, &folder.join("vm"));
    Ok((config, made))
}

/// What was seen, by its first words.
fn seen(config: VmConfig) -> Result<BTreeMap<String, String>> {
    let vm = Vm::start(config)?;
    let until = Instant::now() + PATIENCE;
    let (mut seen, mut console) = (BTreeMap::new(), Vec::new());
    loop {
        match vm.next(until) {
            Some(Event::Line(line)) => match line.trim_end().split_once(MARK) {
                Some((_, "end")) => return Ok(seen),
                Some((_, fact)) => {
                    let (name, value) = fact.split_once(' ').unwrap_or((fact, ""));
                    let (file, value) = value.split_once(' ').unwrap_or((value, ""));
                    seen.insert(format!("{name} {file}"), value.to_owned());
                }
                None => console.push(line),
            },
            Some(Event::Booted(_)) => {}
            other => bail!("it did not come to the end ({other:?}): {seen:?}\n{console:?}"),
        }
    }
}

/// 48 MiB in 24 of memory: with a swap they fit, without one who fills them is killed.
fn swap(seen: &BTreeMap<String, String>) -> Result<()> {
    let of = |name: &str| seen.get(name).map_or("nothing", String::as_str);
    let filled = (of("swap filled"), of("none filled"));
    ensure!(filled == ("yes", "no"), "{filled:?}: {seen:?}");
    let swapped: u64 = of("swap swapped").parse().context("nothing was swapped")?;
    ensure!(swapped >= 16 << 20, "{swapped} bytes are in the swap");
    Ok(())
}

#[test]
fn vm_limits_of_an_oci_container_are_changed() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the machine")?;
    let (config, platform) = machine(folder.path())?;
    let mut seen = seen(config)?;
    let updated = [
        // In whole pages.
        ("memory.max", "99999744"),
        ("memory.low", "19996672"),
        ("pids.max", "3"),
        ("cpu.max", "20000 100000"),
        ("memory.oom.group", "0"),
        // The shell, and two more.
        ("forks", "fewer"),
    ];
    let again = [
        ("memory.max", "99999744"),
        ("pids.max", "max"),
        ("memory.oom.group", "1"),
        // The quota was changed after the period, and neither changes the other.
        ("cpu.max", "30000 200000"),
        ("forks", "6"),
    ];
    let created = [
        ("memory.max", "67108864"),
        ("memory.low", "0"),
        ("pids.max", "16"),
        // Only those controllers are handed on that a document limits.
        ("cpu.max", ""),
        ("forks", "6"),
    ];
    let all = [
        ("created", &created[..]),
        ("updated", &updated),
        ("period", &[("cpu.max", "20000 200000")]),
        ("again", &again),
        ("refused", &again),
    ];
    for (when, expected) in all {
        for (file, value) in expected {
            let name = format!("{when} {file}");
            let found = seen.remove(&name);
            ensure!(
                found.as_deref() == Some(*value),
                "{name} is {found:?}, not {value}: {seen:?}"
            );
        }
    }
    // Half the usual shares are less than the usual weight.
    let weight: u32 = seen
        .remove("updated cpu.weight")
        .context("no weight")?
        .parse()?;
    ensure!((1..100).contains(&weight), "a weight of {weight}");
    ensure!(seen.contains_key("deleted "), "{seen:?}");
    // Debian's has it as a module, which the initramfs of this machine lacks.
    if platform.has_own_kernel() {
        swap(&seen)?;
    }
    let is_wrong =
        |name: &&String| name.starts_with("failed") || name.starts_with("refused nothing");
    ensure!(!seen.keys().any(|name| is_wrong(&name)), "{seen:?}");
    Ok(())
}
