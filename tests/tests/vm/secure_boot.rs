//! Secure Boot on the board `pc-x86-64`: OVMF with one certificate in it, an image that its owner has signed, and everything
//! that somebody else could put in its place.

use crate::uboot::{Case, SOON, armed, judge};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_board_support::record::{Loader, Slot};
use kedge_board_support::statement;
use kedge_image_build::files;
use kedge_image_build::keys::Passphrase;
use kedge_image_build::qemu::VmConfig;
use kedge_image_build::secure_boot::{Signer, authenticode, keys, statement as program};
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::{self, Project};
use serde_json::Value;
use std::path::{Path, PathBuf};

const BOARD: &str = "pc-x86-64";
const PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";
const FOLDER: &str = "keys/secure-boot";
const TABLE: &str = r#"
[secure-boot]
key = "keys/secure-boot/db.key"
certificate = "keys/secure-boot/db.pem"
"#;

/// A project that signs, and the disk of its device.
struct Owner {
    project: Project,
    disk: Disk,
}

impl Owner {
    fn new() -> Result<Self> {
        let (project, _) = trials::project_on(env!("CARGO_BIN_EXE_kedge"), BOARD)?;
        let made = project
            .kedge
            .ask(&["key", "secure-boot", "--no-passphrase"])?;
        let role = made.pointer("/certificates/2/role");
        ensure!(role == Some(&Value::from("db")), "{made}");
        let manifest = project.kedge.folder().join("kedge.toml");
        files::write(&manifest, files::read_text(&manifest)? + TABLE)?;
        let platform = project.platform().display().to_string();
        let built = project.kedge.ask(&["build", "--platform", &platform])?;
        let image = built.pointer("/image/path").and_then(Value::as_str);
        let image = project
            .kedge
            .folder()
            .join(image.context("no image was made")?);
        let disk = Disk::copy_of(&image)?;
        Ok(Self { project, disk })
    }

    fn start(&self) -> Result<Guest> {
        let folder = self.disk.folder().join("vm");
        let mut config = VmConfig::new(boards::find(BOARD)?, self.disk.path(), &folder);
        config.secure_boot = Some(self.path("db.pem"));
        Guest::with(config)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.project.kedge.folder().join(FOLDER).join(name)
    }

    fn signer(&self) -> Result<Signer> {
        signer(&self.project.kedge.folder().join(FOLDER))
    }

    /// A file of slot a.
    fn file(&self, name: &str) -> Result<Vec<u8>> {
        self.disk.read_from_fat("slot-a", name)
    }
}

fn signer(folder: &Path) -> Result<Signer> {
    let path = |suffix: &str| folder.join(format!("db.{suffix}"));
    Signer::open(&path("key"), &path("pem"), &Passphrase::Never)
}

#[test]
fn vm_secure_boot_starts_what_its_owner_signed_and_nothing_else() -> Result<()> {
    let owner = Owner::new()?;
    let mut guest = owner.start()?;
    let mut checks = Checks::default();
    checks.run("boots", &mut guest, |guest| {
        guest.wait_for_state("app", "running", BOOT)?;
        guest.expect("secureboot: Secure boot enabled", SOON)?;
        // Our own kernel has no modules, and does not lock itself down.
        if owner.project.has_module("ext4")? {
            guest.expect("Kernel is locked down", SOON)?;
        }
        Ok(())
    });
    checks.run("a signed update is committed", &mut guest, |guest| {
        owner.project.kernel_arguments("tests.kedge=1")?;
        let pushed = owner.project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        let status = guest.status()?;
        ensure!(text(&status, "slot") == "b", "{status}");
        Ok(())
    });
    checks.run("one that is not signed is refused", &mut guest, |guest| {
        let status = guest.status()?;
        ensure!(
            status.get("secure-boot") == Some(&Value::Bool(true)),
            "{status}"
        );
        owner.project.edit(TABLE, "")?;
        let socket = guest.control_socket().display().to_string();
        let platform = owner.project.platform().display().to_string();
        let words = ["push", "--socket", &socket, "--platform", &platform];
        let (said, _) = owner.project.kedge.refuse(&words)?;
        ensure!(said.contains("no statement for Secure Boot"), "{said}");
        guest.wait_for_state("app", "running", BOOT).map(drop)
    });
    checks.finish()
}

/// What somebody puts into slot b, and what the loader says of it.
struct Attack {
    name: &'static str,
    says: &'static [&'static str],
    /// What they hold; without a byte: it is taken away.
    files: Vec<(&'static str, Vec<u8>)>,
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes
}

/// All of them, over files that are the owner's.
fn attacks(owner: &Owner, stranger: &Signer) -> Result<Vec<Attack>> {
    let [kernel, initramfs, line] = [
        owner.file("kernel")?,
        owner.file("initramfs")?,
        owner.file("cmdline.txt")?,
    ];
    let shell = b"init=/bin/sh\n".to_vec();
    let unsigned = program::make(&kernel, &initramfs, &shell)?;
    let own = |kernel: &[u8]| {
        authenticode::sign(program::make(kernel, &initramfs, &line)?, &owner.signer()?)
    };
    let none = b"MZ, and then nothing".to_vec();
    Ok(vec![
        Attack {
            name: "other arguments",
            says: &["slot b cannot be started: its cmdline.txt is not the one"],
            files: vec![("cmdline.txt", shell.clone())],
        },
        Attack {
            name: "another initramfs",
            says: &["slot b cannot be started: its initramfs is not the one"],
            files: vec![
                ("cmdline.txt", line.clone()),
                ("initramfs", flipped(&initramfs)),
            ],
        },
        Attack {
            name: "another kernel",
            says: &["slot b cannot be started: its kernel is not the one"],
            files: vec![
                ("initramfs", initramfs.clone()),
                ("kernel", flipped(&kernel)),
            ],
        },
        Attack {
            name: "a statement of the owner's for another slot",
            says: &["slot b cannot be started: its kernel is not the one"],
            files: vec![("kernel", kernel), ("statement.efi", own(&none)?)],
        },
        Attack {
            name: "a kernel that is none, though the owner says that it is the one",
            says: &["slot b cannot be started: its kernel is refused: it is no program"],
            files: vec![("kernel", none)],
        },
        Attack {
            name: "the owner's loader as a statement",
            says: &["slot b cannot be started: statement.efi has"],
            files: vec![("statement.efi", owner.disk.read_from_fat("boot", PROGRAM)?)],
        },
        Attack {
            name: "no statement",
            says: &["slot b cannot be started: it has no statement.efi, and Secure Boot is on"],
            files: vec![("statement.efi", Vec::new())],
        },
        Attack {
            name: "a statement that nobody signed",
            says: &["slot b cannot be started: its statement.efi is refused"],
            files: vec![
                ("kernel", owner.file("kernel")?),
                ("cmdline.txt", shell),
                ("statement.efi", unsigned.clone()),
            ],
        },
        Attack {
            name: "a statement that a stranger signed",
            says: &["slot b cannot be started: its statement.efi is refused"],
            files: vec![("statement.efi", authenticode::sign(unsigned, stranger)?)],
        },
    ])
}

#[test]
fn vm_secure_boot_refuses_what_somebody_else_put_there() -> Result<()> {
    let owner = Owner::new()?;
    let strangers = tempfile::tempdir()?;
    keys::make(strangers.path(), "stranger", None)?;
    let stranger = signer(strangers.path())?;
    let disk = &owner.disk;
    // Slot b is slot a, to begin with.
    disk.fill_slot_b("")?;
    let mut guest: Option<Guest> = None;
    let mut checks = Checks::default();
    for attack in attacks(&owner, &stranger)? {
        // Switched on anew each time, as in [`denied`]: a reset in the firmware's hands can leave OVMF silent.
        if let Some(guest) = &mut guest {
            guest.cut_power()?;
        }
        for (name, bytes) in &attack.files {
            if bytes.is_empty() {
                disk.remove_from_slot(Slot::B, name)?;
            } else {
                disk.write_to_slot(Slot::B, name, bytes)?;
            }
        }
        disk.set_loader(&armed(2))?;
        let running = guest.insert(owner.start()?);
        checks.run(attack.name, running, |guest| {
            let case = Case {
                says: attack.says,
                slot: Slot::A,
                record: Some(armed(1)),
            };
            judge(guest, disk, 1, &case)
        });
    }
    let mut guest = guest.context("no machine")?;
    let loader = disk.read_from_fat("boot", PROGRAM)?;
    checks.run("what the owner signed starts there", &mut guest, |guest| {
        guest.cut_power()?;
        for name in ["kernel", "initramfs", "cmdline.txt", statement::FILE] {
            disk.write_to_slot(Slot::B, name, &owner.file(name)?)?;
        }
        disk.set_loader(&Loader::starts(Slot::B))?;
        *guest = owner.start()?;
        guest.wait_for_boot(1, SOON)?;
        ensure!(guest.slot() == Some(Slot::B), "slot {:?}", guest.slot());
        Ok(())
    });
    // Nobody whom the firmware trusts has signed it: it would start with anybody's initramfs.
    checks.run("the kernel alone is not started", &mut guest, |guest| {
        guest.cut_power()?;
        disk.write_to_fat("boot", PROGRAM, &owner.file("kernel")?)?;
        *guest = owner.start()?;
        denied(guest)
    });
    checks.run(
        "a loader that was changed is not started",
        &mut guest,
        |guest| {
            let mut loader = loader.clone();
            let place = loader.windows(5).position(|bytes| bytes == b"oops=");
            let byte = place.and_then(|place| loader.get_mut(place));
            *byte.context("the loader does not hold the board's arguments")? = b'O';
            guest.cut_power()?;
            disk.write_to_fat("boot", PROGRAM, &loader)?;
            *guest = owner.start()?;
            denied(guest)
        },
    );
    checks.finish()
}

#[test]
fn vm_secure_boot_statements_tell_damage_where_it_is_off() -> Result<()> {
    let owner = Owner::new()?;
    let disk = &owner.disk;
    disk.fill_slot_b("")?;
    let initramfs = flipped(&owner.file("initramfs")?);
    for slot in [Slot::A, Slot::B] {
        disk.write_to_slot(slot, "cmdline.txt", &owner.file("cmdline.txt")?)?;
    }
    disk.write_to_slot(Slot::A, "initramfs", &initramfs)?;
    let mut guest = Guest::start_on(BOARD, disk, &[])?;
    let mut checks = Checks::default();
    checks.run("the other slot starts", &mut guest, |guest| {
        let case = Case {
            says: &["slot a cannot be started: its initramfs is not the one"],
            slot: Slot::B,
            record: Some(Loader::born()),
        };
        judge(guest, disk, 1, &case)
    });
    checks.finish()
}

/// A machine that was just switched on, whose firmware refuses what is in the loader's place, and goes on to the network without
/// a look at its copy. (Each begins switched off: a reset while the firmware asks the network can leave OVMF silent.)
fn denied(guest: &mut Guest) -> Result<()> {
    guest.expect("Access Denied", SOON)?;
    guest.expect("Start PXE", SOON)?;
    ensure!(guest.boots() == 0, "something was started");
    Ok(())
}
