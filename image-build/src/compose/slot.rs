//! What a slot holds: kernel, initramfs, device trees, pieces of firmware, and their arguments.

use super::{Objects, Parted};
use crate::platform::Platform;
use crate::project::{Project, TrustRoot};
use crate::sbom::Parts;
use crate::secure_boot::{self, authenticode};
use crate::{files, kernel};
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards::{self, Backend, Board};
use kedge_board_support::loading::program::Program;
use kedge_revision::revision::{Boot, ObjectKind};
use kedge_rootfs::Initramfs;
use std::collections::BTreeMap;
use std::path::Path;

/// Kernel, initramfs and all else that a slot holds as objects.
pub(super) fn boot(
    project: &Project,
    platform: &Parted<'_>,
    root: &TrustRoot,
    signer: Option<&secure_boot::Signer>,
    store: &mut Objects<'_>,
) -> Result<(Boot, u64)> {
    let mut others = BTreeMap::new();
    for (name, path) in platform.slot_files()? {
        let id = store.add(&files::read(&path)?, ObjectKind::BootFile)?;
        others.insert(name, id);
    }
    let Parted {
        folder, platform, ..
    } = platform;
    let image = files::read(&folder.join(&platform.kernel))?;
    if signer.is_some()
        && let Err(why) = Program::parse(&image)
    {
        bail!("the loader cannot start the kernel under Secure Boot: {why}");
    }
    let kernel = store.add(&image, ObjectKind::Kernel)?;
    let init = files::read(&folder.join(&platform.init))?;
    let device_binary = u64::try_from(init.len()).context("the device binary is too large")?;
    let product = project
        .product()
        .encode()
        .context("cannot encode the product's identity")?;
    let has_pools = !project.manifest().configuration.networks.is_empty();
    let modules = modules(platform, folder, signer.is_some(), has_pools)?;
    let identity = [
        ("product.json", product),
        ("root.json", root.document.clone()),
        ("root.sig", root.signatures.clone()),
    ];
    let archive = initramfs(init, identity, modules)?;
    let initramfs = store.add(&archive, ObjectKind::Initramfs)?;
    Parts {
        initramfs,
        kernel_version: platform.kernel_version.clone(),
        crates: platform.crates.clone(),
    }
    .write(project)?;
    let arguments = arguments(
        &boards::find(&platform.board)?,
        &project.manifest().boot.arguments,
    )?;
    let statement = signer.map(|signer| {
        let line = format!("{arguments}\n");
        let made = secure_boot::statement::make(&image, &archive, line.as_bytes())?;
        store.add(&authenticode::sign(made, signer)?, ObjectKind::Statement)
    });
    Ok((
        Boot {
            kernel,
            initramfs,
            files: others,
            statement: statement.transpose()?,
            arguments,
        },
        device_binary,
    ))
}

/// The most that loaders add to the arguments, bytes: the disk, the slot, what is to be said of it.
const LOADERS_MOST: usize = 128;

/// The kernel arguments of a slot: the revision's own, behind those of the board where no loader brings these.
///
/// # Errors
/// A loader would change them, or a kernel cut them: a device would find out.
pub(super) fn arguments(board: &Board, own: &str) -> Result<String> {
    let backend = board.boot.backend;
    ensure!(
        backend != Backend::UBoot || !own.contains('\\'),
        "boot.arguments has a backslash, which U-Boot's `env import` takes for its own"
    );
    let of_board = board.arguments();
    let most = board.architecture.command_line_size();
    let room = most.saturating_sub(of_board.len().saturating_add(LOADERS_MOST));
    ensure!(
        own.len() <= room,
        "boot.arguments has {} bytes, and may have {room}: of {most} that the kernel takes, the board {} has {}, and its loader \
         may need {LOADERS_MOST}",
        own.len(),
        board.name,
        of_board.len()
    );
    Ok(match backend {
        Backend::Direct | Backend::UBoot | Backend::Uefi => own.to_owned(),
        // The firmware hands `cmdline.txt` over as it is.
        Backend::Tryboot => format!("{of_board} {own}").trim_end().to_owned(),
    })
}

/// The platform's modules in load order: name and contents; `signed` for a kernel that Secure Boot locks down. Those for networks
/// of containers' own are there for revisions that have some: others would only carry them.
fn modules(
    platform: &Platform,
    folder: &Path,
    signed: bool,
    has_pools: bool,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut modules = Vec::new();
    if has_pools && !platform.has_own_kernel() && platform.pool_modules.is_empty() {
        bail!(
            "configuration.networks: the platform of {0} is older than that and lacks its modules\nhelp: make it anew, in the clone of Kedge: cargo xtask image {0}",
            platform.board
        );
    }
    let pools = platform.pool_modules.iter().filter(|_| has_pools);
    for name in platform.modules.iter().chain(pools) {
        let file = Path::new(name)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let module = files::read(&folder.join(name))?;
        // Such a kernel loads no others, and the device would be the first to find out.
        if signed && !kernel::is_signed(&module) {
            bail!(
                "the module {file} has no signature, which a kernel under Secure Boot asks for\nhelp: make the platform anew, in the clone of Kedge: cargo xtask image {}",
                platform.board
            );
        }
        let module = if signed {
            module
        } else {
            kernel::without_signature(module)
        };
        modules.push((file, module));
    }
    Ok(modules)
}

/// Bytes of a platform's initramfs before a product's identity and trust root are in it, which add two kilobytes or three.
///
/// # Errors
/// A file of the platform cannot be read.
pub fn bare_initramfs(folder: &Path) -> Result<u64> {
    let platform = Platform::load(folder)?;
    let init = files::read(&folder.join(&platform.init))?;
    let modules = modules(&platform, folder, false, false)?;
    let archive = initramfs(init, [], modules)?;
    u64::try_from(archive.len()).context("the initramfs is too large")
}

/// The archive that the kernel unpacks: the device binary, who the device is and whom it trusts, and modules in load order.
fn initramfs<'a>(
    init: Vec<u8>,
    identity: impl IntoIterator<Item = (&'a str, Vec<u8>)>,
    modules: Vec<(String, Vec<u8>)>,
) -> Result<Vec<u8>> {
    let mut archive = Initramfs::new();
    for folder in ["dev", "proc", "sys"] {
        archive.directory(folder, 0o755)?;
    }
    // The kernel opens it as standard output of /init before devtmpfs is mounted.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, init)?;
    for (name, bytes) in identity {
        archive.file(&format!("etc/kedge/{name}"), 0o644, bytes)?;
    }
    if !modules.is_empty() {
        let list: String = modules
            .iter()
            .map(|(name, _)| format!("{name}\n"))
            .collect();
        archive.file("modules/list", 0o644, list.into_bytes())?;
    }
    for (name, bytes) in modules {
        archive.file(&format!("modules/{name}"), 0o644, bytes)?;
    }
    Ok(archive.compressed()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::boards::Architecture;

    #[test]
    fn where_no_loader_says_the_boards_arguments_the_slot_does() {
        let mut board = boards::find("qemu-arm64").unwrap();
        assert_eq!(arguments(&board, "quiet").unwrap(), "quiet");
        board.boot.backend = Backend::Tryboot;
        board.boot.arguments = "console=ttyS1 panic=1".to_owned();
        assert_eq!(
            arguments(&board, "quiet").unwrap(),
            "console=ttyS1 panic=1 gpt quiet"
        );
        assert_eq!(arguments(&board, "").unwrap(), "console=ttyS1 panic=1 gpt");
        board.led = Some("ACT".to_owned());
        let line = "console=ttyS1 panic=1 gpt kedge.led=ACT quiet";
        assert_eq!(arguments(&board, "quiet").unwrap(), line);
    }

    #[test]
    fn what_a_loader_would_change_or_a_kernel_cut_is_refused() {
        let of = |name: &str| boards::find(name).unwrap();
        let said = arguments(&of("qemu-armv7"), "a=\\b")
            .unwrap_err()
            .to_string();
        assert!(said.contains("backslash"), "{said}");
        arguments(&of("pc-x86-64"), "a=\\b").unwrap();
        // As many as a revision may have.
        let many = "x".repeat(1024);
        for board in boards::all().unwrap() {
            let room = 1024 - board.arguments().len() - LOADERS_MOST;
            let narrow = matches!(
                board.architecture,
                Architecture::Armv7 | Architecture::Riscv64
            );
            assert!(arguments(&board, &many[..room]).is_ok(), "{}", board.name);
            let more = arguments(&board, &many[..=room]);
            assert_eq!(more.is_err(), narrow, "{}", board.name);
            if let Err(said) = more {
                assert!(
                    said.to_string().contains(&format!("may have {room}:")),
                    "{said}"
                );
            }
        }
    }
}
