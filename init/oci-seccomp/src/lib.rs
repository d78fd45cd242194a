//! The compiler from an OCI configuration's `linux.seccomp` (runtime-spec, `config-linux.md`) to the
//! classic BPF that Linux takes as a filter of system calls. It takes data and gives data: loading is
//! [`kedge_sys::seccomp`]'s, and what goes to a listener is the caller's.
//!
//! What rules of one call mean together is told in `rules.rs`, with what `runc`, `crun` and `libseccomp`
//! do. Beyond that:
//!
//! - **Names** of calls that this architecture lacks are left out, since profiles list those of all. What is
//!   no call of any architecture is left out, too, and told in [`Compiled::unknown`].
//! - **Architectures.** A filter judges the calls of the architecture that this is compiled for; it always
//!   counts as listed, as with `seccomp_init(3)`. Calls of another one end the process if it is not
//!   listed (`libseccomp`'s `SCMP_FLTATR_ACT_BADARCH` is a kill by default, too, though of the thread
//!   alone). If it is listed, `libseccomp` judges them by a table of that architecture; there is none here,
//!   so they have the default answer if that denies (errno, trap, kill), and end the process if it does
//!   not. Numbers of x32, which on x86_64 have bit 30, are calls of `SCMP_ARCH_X32`. So no rule can be
//!   evaded by the numbers of another ABI. [`Compiled::unjudged`] tells what was listed in vain.
//! - **−1** is the number of a call that a tracer has cancelled (`seccomp(2)`): it has the default answer.
//! - **Newer calls.** Where the default is an error number, a call is answered with `ENOSYS` that is
//!   newer than every call that the configuration names and than Linux 5.0, so that programs use the call
//!   that they used before; `runc` does so (`libcontainer/seccomp/patchbpf`), though also for kills and
//!   for older calls, which surprises whoever writes a short profile. A default of kill kills.
//!
//! Everything is bounded ([`MAX_RULES`], [`MAX_INSTRUCTIONS`]), and the same input gives the same code.

mod architecture;
mod calls;
mod code;
mod error;
mod filter;
mod rules;

use std::path::PathBuf;

use kedge_sys::seccomp::{Options, SockFilter};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompFilterFlag};

pub use error::Error;
pub use kedge_sys::seccomp::MAX_INSTRUCTIONS;

use architecture::{NATIVE, Seen, Target, seen};

/// The most rules, counted once for each name and condition. Docker's default profile has about 400.
pub const MAX_RULES: usize = 16_384;
/// The highest error number that Linux takes (`MAX_ERRNO`).
pub const MAX_ERRNO: u32 = 4095;
/// The highest message to a tracer: answers have 16 bits for it.
pub const MAX_MESSAGE: u32 = 0xffff;

/// What a configuration became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The filter: from 1 to [`MAX_INSTRUCTIONS`] instructions, for
    /// [`load`](kedge_sys::seccomp::load) or, with [`needs_listener`](Self::needs_listener),
    /// [`load_with_listener`](kedge_sys::seccomp::load_with_listener).
    pub code: Vec<SockFilter>,
    /// The configuration's flags. It has no word for `killable_wait` here, which is left to the caller.
    pub options: Options,
    /// Whether calls are told to a listener. Once the filter is loaded, the process that did so waits for
    /// ever if it makes such a call before the listener is with somebody who answers: it should not be
    /// the one that hands it on (another may take it by `pidfd_getfd(2)`, or share its descriptors).
    pub needs_listener: bool,
    /// The socket that the listener is to be sent to; it is there if it is needed.
    pub listener_path: Option<PathBuf>,
    /// What is to be sent with it.
    pub listener_metadata: Option<String>,
    /// Names that are those of no call, in the order of their bytes.
    pub unknown: Vec<String>,
    /// Architectures that are listed and of which there is no table here, in their order: their calls are not judged,
    /// but denied.
    pub unjudged: Vec<Arch>,
}

/// Compiles a configuration for the architecture that this is compiled for.
///
/// # Errors
/// Each variant of [`Error`].
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Compiled, Error> {
    compile_for(seccomp, &NATIVE)
}

fn compile_for(seccomp: &LinuxSeccomp, target: &Target) -> Result<Compiled, Error> {
    let listed = seccomp.architectures().as_deref().unwrap_or_default();
    let rules = rules::read(seccomp, target)?;
    let code = filter::build(&rules, listed, target)?;
    let needs_listener = code::can_answer(&code, rules::NOTIFY);
    let path = seccomp.listener_path().clone();
    let path = path.filter(|path| !path.as_os_str().is_empty());
    if needs_listener && path.is_none() {
        return Err(Error::NoListener);
    }
    let metadata = seccomp.listener_metadata().clone();
    let metadata = metadata.filter(|metadata| !metadata.is_empty());
    if metadata.is_some() && path.is_none() {
        return Err(Error::NoListenerForMetadata);
    }
    Ok(Compiled {
        code,
        options: options(seccomp),
        needs_listener,
        listener_path: path,
        listener_metadata: metadata,
        unknown: rules.unknown,
        unjudged: unjudged(listed, target),
    })
}

/// The flags of the configuration.
fn options(seccomp: &LinuxSeccomp) -> Options {
    let mut options = Options::default();
    for flag in seccomp.flags().iter().flatten() {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => options.log = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => options.allow_speculation = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => options.all_threads = true,
        }
    }
    options
}

/// What of the listed architectures has no table here.
fn unjudged(listed: &[Arch], target: &Target) -> Vec<Arch> {
    let mut unjudged: Vec<Arch> = Vec::new();
    for arch in listed {
        if seen(*arch, target) != Seen::Native && !unjudged.contains(arch) {
            unjudged.push(*arch);
        }
    }
    unjudged
}

#[cfg(test)]
mod tests;
