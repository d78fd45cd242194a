//! What the verbs share that make a project's revision: `build`, `bundle`, `push`.

use super::{PassphraseArguments, Scene};
use crate::compose::{self, Composition, Passphrases};
use crate::keys::Passphrase;
use crate::payload::Payload;
use crate::platform::{self, KernelSource, Platform};
use crate::project::{Project, lock};
use crate::{image, parameters, progress};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use kedge_board_support::boards::Board;
use kedge_revision::configuration::Sticks;
use kedge_revision::revision::ObjectKind;
use kedge_revision::{ControlRole, Mode, Root};
use std::path::PathBuf;

/// From what a revision is made.
#[derive(Debug, Args)]
pub(super) struct Composing {
    /// The platform folder: kernel, modules, device binary. Otherwise the one in the cache.
    #[arg(long, value_name = "DIR", conflicts_with = "kernel")]
    platform: Option<PathBuf>,
    /// Which platform of the cache: Debian's kernel or our own, smaller one; our own if it is there.
    #[arg(long, value_enum)]
    kernel: Option<KernelArgument>,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    #[command(flatten)]
    secure_boot: SecureBootArguments,
}

/// Where the passphrase of the key for Secure Boot comes from. Without any of these it is that of the release key's file, or asked for.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct SecureBootArguments {
    /// Take the passphrase of the key for Secure Boot from the first line of a file.
    #[arg(long, value_name = "FILE")]
    secure_boot_passphrase_file: Option<PathBuf>,
    /// Take the passphrase of the key for Secure Boot from the first line of an open file descriptor.
    #[arg(long, value_name = "N")]
    secure_boot_passphrase_fd: Option<u32>,
}

impl SecureBootArguments {
    /// The source, if there is one; it is read now, and once.
    fn source(&self) -> Result<Option<Passphrase>> {
        let file = self.secure_boot_passphrase_file.clone();
        let descriptor = self.secure_boot_passphrase_fd;
        let source = file
            .map(Passphrase::File)
            .or(descriptor.map(Passphrase::Descriptor));
        source.map(Passphrase::read_once).transpose()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KernelArgument {
    Debian,
    Own,
}

/// A project's revision, and what it was made from.
#[derive(Debug)]
pub(super) struct Composed {
    pub(super) project: Project,
    pub(super) board: Board,
    pub(super) composition: Composition,
    /// Whether the kernel is our own, for which there are tighter budgets.
    pub(super) own_kernel: bool,
}

impl Composing {
    /// Makes the revision, judges it as a device would, and holds the device binary to the board's budget.
    pub(super) fn compose(&self, scene: &Scene) -> Result<Composed> {
        let project = scene.project()?;
        let board = project.board()?;
        let platform = self.platform(&board)?;
        let passphrases = Passphrases {
            release: self.passphrase.source()?,
            secure_boot: self.secure_boot.source()?,
        };
        let composition = compose::compose(&project, &platform, &passphrases)?;
        let own_kernel = Platform::of(&platform, &board)?.has_own_kernel();
        budgets(&composition, &board, own_kernel)?;
        Ok(Composed {
            project,
            board,
            composition,
            own_kernel,
        })
    }

    fn platform(&self, board: &Board) -> Result<PathBuf> {
        if let Some(folder) = &self.platform {
            return Ok(folder.clone());
        }
        let board = board.name.as_str();
        match self.kernel {
            Some(KernelArgument::Debian) => platform::folder(board, KernelSource::Debian),
            Some(KernelArgument::Own) => platform::folder(board, KernelSource::Own),
            None => {
                let own = platform::folder(board, KernelSource::Own)?;
                if own.join("platform.json").is_file() {
                    return Ok(own);
                }
                platform::folder(board, KernelSource::Debian)
            }
        }
    }
}

/// Of a production product: nothing can bring its devices another revision.
pub(super) const ALONE: &str = "no hub and sticks = \"ignore\": devices can be changed only by flashing them again\nhelp: `kedge key trust-hub`, or sticks = \"accept\" in [configuration] of kedge.toml";

/// What may be a mistake in what is about to become images. A hub of which the trust root knows no key brings nothing, and
/// one that kedge.toml does not name may stand in a provisioning: the root decides.
pub(super) fn warnings(root: &Root, sticks: Sticks, roles: &[ControlRole]) -> Vec<&'static str> {
    // Containers with these may try revisions by themselves (`docs/control-socket.md`).
    let own = |role: &ControlRole| matches!(role, ControlRole::Operate | ControlRole::Exec);
    let alone = root.mode == Mode::Production
        && root.roles.hub.keys.is_empty()
        && sticks == Sticks::Ignore
        && !roles.iter().any(own);
    alone.then_some(ALONE).into_iter().collect()
}

fn budgets(composition: &Composition, board: &Board, own_kernel: bool) -> Result<()> {
    let most = board.budgets.device_binary;
    image::budget("the device binary", composition.device_binary, most)?;
    let networks = &composition.verified.content()?.configuration.networks;
    let boot = board.budgets.boot_of(own_kernel, !networks.is_empty());
    for object in composition.kinds.values() {
        match object.kind {
            ObjectKind::Kernel => image::budget("the kernel", object.size, boot.kernel)?,
            ObjectKind::Initramfs => image::budget("the initramfs", object.size, boot.initramfs)?,
            ObjectKind::BootFile | ObjectKind::Statement | ObjectKind::Layer => {}
        }
    }
    Ok(())
}

/// Values for one device.
#[derive(Debug, Args)]
pub(super) struct ParametersArguments {
    /// Values for the device's parameters: a table `name = "value"`, in TOML or JSON. They are checked against what
    /// the revision declares, and never shown.
    #[arg(long, value_name = "FILE")]
    parameters: Option<PathBuf>,
    /// Orders the values given to one device, the higher the newer; the time in seconds if absent.
    #[arg(long, value_name = "N", requires = "parameters")]
    parameters_counter: Option<u64>,
}

impl ParametersArguments {
    /// Lets the values travel with a payload.
    pub(super) fn give_to(&self, payload: &mut Payload) -> Result<()> {
        let Some(path) = &self.parameters else {
            return Ok(());
        };
        let counter = match self.parameters_counter {
            Some(0) => bail!("0 is the counter of values that nobody gave; the first is 1"),
            Some(counter) => counter,
            None => lock::now()?.unix(),
        };
        let parameters = parameters::read(path, counter)?;
        payload.set_parameters(&parameters)?;
        let declared = payload.content()?.parameters;
        let open: Vec<&str> = declared
            .iter()
            .filter(|(name, declared)| {
                declared.default.is_none() && !parameters.values.contains_key(*name)
            })
            .map(|(name, _)| name.as_str())
            .collect();
        if !open.is_empty() {
            progress::say(format_args!("without a value: {}", open.join(", ")));
        }
        Ok(())
    }
}
