//! A bundle that is applied: by a container on the device through `ctl`, and over the port by `kedge ctl`.

use crate::built_trials;
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_image_build::payload::Payload;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::{JUDGED, Project, committed, pid, running};
use std::path::Path;

/// Waits until the revision in a bundle is committed.
fn holds(guest: &Guest, bundle: &Path) -> Result<()> {
    let id = Payload::open(bundle)?.id().to_string();
    guest.wait("the bundle's revision is committed", JUDGED, |guest| {
        Ok((committed(guest)? == id).then_some(()))
    })
}

/// A container `updater` with the device's own program as `ctl`, that may operate the device and has the folder `/in`.
fn updater(project: &Project) -> Result<()> {
    let source = project.kedge.folder().join("ctl-files");
    for name in ["dev", "proc", "sys", "tmp", "etc", "run", "in"] {
        files::make_folder(&source.join(name))?;
    }
    let program = files::read(&project.platform().join("init"))?;
    files::write_executable(&source.join("ctl"), program)?;
    let layer = project.layer_of(&source)?;
    // It may come before the device's interface does: then it is started again.
    let text = format!(
        "layers = [\"{layer}\"]\ngroup = \"app\"\ngoal = \"finished\"\nroles = [\"operate\"]\n\
         [process]\narguments = [\"/ctl\", \"--socket\", \"/dev/kedge/control\", \"apply\", \"/in/update.kedge\"]\n\
         [restart]\npolicy = \"on-failure\"\ndelay = \"1s\"\n\
         [volumes.in]\npath = \"/in\"\nlifetime = \"permanent\"\n"
    );
    files::write(
        &project.kedge.folder().join("containers/updater.toml"),
        text,
    )
}

#[test]
fn vm_a_bundle_is_applied() -> Result<()> {
    let (project, _) = built_trials()?;
    updater(&project)?;
    let disk = project.build()?;
    project.app("started", &["sleep", "from a bundle"], "")?;
    let bundle = project.bundle("update.kedge")?;
    disk.debugfs("mkdir /volumes/updater\nmkdir /volumes/updater/in\n")?;
    disk.write("/volumes/updater/in/update.kedge", &files::read(&bundle)?)?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("by a container on the device", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.wait_for_log("updater", "change: restart", BOOT)?;
        holds(guest, &bundle)?;
        guest.wait_for_state("app", "running", JUDGED)?;
        ensure!(guest.boots() == 1, "the device was restarted");
        Ok(())
    });
    checks.run("over the port", &mut guest, |guest| {
        let keeper = running(guest, "keeper")?;
        project.app("started", &["sleep", "from another"], "")?;
        let bundle = project.bundle("another.kedge")?;
        let socket = guest.control_socket().display().to_string();
        let path = bundle.display().to_string();
        let said = project
            .kedge
            .ask(&["ctl", "--socket", &socket, "apply", &path])?;
        ensure!(text(&said, "change") == "restart", "{said}");
        ensure!(text(&said, "verdict") == "begun", "{said}");
        holds(guest, &bundle)?;
        ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
        Ok(())
    });
    checks.run("the same again changes nothing", &mut guest, |guest| {
        let socket = guest.control_socket().display().to_string();
        let path = project.kedge.folder().join("another.kedge");
        let path = path.to_str().context("a path that is no text")?;
        let said = project
            .kedge
            .ask(&["ctl", "--socket", &socket, "apply", path])?;
        ensure!(text(&said, "verdict") == "nothing", "{said}");
        Ok(())
    });
    checks.finish()
}
