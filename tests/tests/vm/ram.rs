//! A device without a disk: kernel and initramfs alone. What runs is judged as from a disk; what needs no reboot is tried and
//! kept; what does is refused, and a reboot begins anew.

use crate::{built_trials, built_trials_for};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::qemu::VmConfig;
use kedge_image_build::{debian, files, process};
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::product::BOARD;
use kedge_tests::trials::{Project, committed, pid, running};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// What `kedge build --output ram` says, and where it has put things.
fn build(project: &Project) -> Result<(Value, PathBuf)> {
    let platform = project.platform().display().to_string();
    let words = ["build", "--output", "ram", "--platform", &platform];
    let built = project.kedge.ask(&words)?;
    let path = built.pointer("/ram/path").and_then(Value::as_str);
    let path = project.kedge.folder().join(path.context("no path")?);
    Ok((built, path))
}

fn machine(board: &str, ram: &Path, folder: &Path) -> Result<VmConfig> {
    Ok(VmConfig::without_disk(boards::find(board)?, ram, folder))
}

#[test]
fn vm_a_device_that_runs_from_memory() -> Result<()> {
    runs_from_memory(BOARD)
}

/// The same on any board: QEMU is its loader, whatever starts it from a disk.
pub(crate) fn runs_from_memory(board: &str) -> Result<()> {
    let (project, _disk) = built_trials_for(board)?;
    let (built, ram) = build(&project)?;
    let folder = tempfile::tempdir()?;
    let mut guest = Guest::with(machine(board, &ram, folder.path())?)?;
    let status = guest.wait_for_control(BOOT)?;
    let first = text(&built, "revision").to_owned();
    let mut checks = Checks::default();
    checks.run("it runs, and says from where", &mut guest, |guest| {
        ensure!(status.get("from-memory") == Some(&true.into()), "{status}");
        ensure!(text(&status, "phase") == "running", "{status}");
        ensure!(committed(guest)? == first, "{status}");
        for name in ["app", "keeper", "base", "data"] {
            guest.wait_for_state(name, "running", SOON)?;
        }
        guest.expect(", from memory, watchdog, PID 1 started", SOON)?;
        Ok(())
    });
    checks.run("a container is exchanged and kept", &mut guest, |guest| {
        let keeper = running(guest, "keeper")?;
        project.app("started", &["sleep", "another"], "")?;
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        ensure!(committed(guest)? != first, "it is not committed");
        ensure!(pid(guest, "keeper")? == keeper && guest.boots() == 1);
        Ok(())
    });
    checks.run("what takes a reboot is refused", &mut guest, |guest| {
        let before = committed(guest)?;
        project.kernel_arguments("quiet loglevel=3")?;
        let pushed = project.push(guest, &[])?;
        let said = pushed.said.to_string();
        ensure!(
            !pushed.committed && said.contains("runs from memory"),
            "{said}"
        );
        ensure!(committed(guest)? == before && guest.boots() == 1);
        Ok(())
    });
    checks.run("a reboot begins anew", &mut guest, |guest| {
        guest.post("/v1/reboot")?;
        guest.wait_for_boot(2, BOOT)?;
        guest.wait("the first revision", BOOT, |guest| {
            let status = guest.status()?;
            let is_new = status.get("uptime-ms").and_then(Value::as_u64);
            Ok(is_new.filter(|_| committed(guest).is_ok_and(|id| id == first)))
        })?;
        guest.wait_for_state("app", "running", SOON).map(drop)
    });
    checks.finish()
}

/// Bytes of the revision's own archive, behind which the disk stands.
fn own_size(built: &Value) -> Result<usize> {
    let objects = built.get("objects").and_then(Value::as_object);
    let own = objects.into_iter().flatten().find_map(|(_, object)| {
        let is_own = object.get("kind")?.as_str()? == "initramfs";
        object.get("size")?.as_u64().filter(|_| is_own)
    });
    Ok(usize::try_from(own.context("no initramfs")?)?)
}

/// The initramfs with another disk behind the revision's own archive: one byte of the signed document differs.
fn forge(built: &Value, ram: &Path) -> Result<()> {
    let own = own_size(built)?;
    let path = ram.join("initramfs");
    let mut initramfs = files::read(&path)?;
    let (packed, unpacked) = (ram.join("behind.zst"), ram.join("behind"));
    files::write(&packed, initramfs.split_off(own))?;
    process::run(Command::new("zstd").args(["-q", "-d"]).arg(&packed))?;
    let mut bytes = files::read(&unpacked)?;
    let wanted = b"\"product\":\"trials\"";
    let at = bytes.windows(wanted.len()).position(|part| part == wanted);
    let end = at.context("no document")? + wanted.len() - 2;
    *bytes.get_mut(end).context("no byte")? = b'z';
    files::write(&unpacked, bytes)?;
    process::run(Command::new("zstd").args(["-q", "-f"]).arg(&unpacked))?;
    initramfs.extend(files::read(&packed)?);
    files::write(&path, initramfs)
}

#[test]
fn vm_what_came_into_memory_is_judged() -> Result<()> {
    debian::require(&["zstd"], "change what is in an initramfs")?;
    let (project, _disk) = built_trials()?;
    let (built, ram) = build(&project)?;
    let folder = tempfile::tempdir()?;
    let path = ram.join("initramfs");
    let whole = files::read(&path)?;
    // A transfer that broke off in the last quarter of the disk.
    let end = whole.len() - (whole.len() - own_size(&built)?) / 4;
    files::write(&path, &whole[..end])?;
    let mut guest = Guest::with(machine(BOARD, &ram, folder.path())?)?;
    let mut checks = Checks::default();
    checks.run("a part of an initramfs is told", &mut guest, |guest| {
        guest.expect("did not come into memory as a whole", BOOT)?;
        let status = guest.wait_for_control(BOOT)?;
        let phase = text(&status, "phase");
        ensure!(phase.starts_with("repair; "), "{status}");
        Ok(())
    });
    checks.finish()?;
    guest.cut_power()?;
    files::write(&path, whole)?;

    forge(&built, &ram)?;
    let mut guest = Guest::with(machine(BOARD, &ram, folder.path())?)?;
    let mut checks = Checks::default();
    checks.run("a changed revision is not run", &mut guest, |guest| {
        let status = guest.wait_for_control(BOOT)?;
        let phase = text(&status, "phase");
        ensure!(phase.starts_with("repair; revision: "), "{status}");
        ensure!(status.get("revision").is_none(), "{status}");
        Ok(())
    });
    checks.finish()
}
