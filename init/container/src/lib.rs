//! The container engine: from a definition to a confined process, and nothing in between.
//!
//! [`Plan`] decides (pure), [`Engine`] does. A start costs one `clone3`, a handful of mounts and an
//! exec; there is no daemon, no shim, no process that watches another, no second exec of ourselves.
//!
//! What it does not do: it keeps no list of containers, restarts nothing, reads no output, waits for
//! nobody. It reads no document and verifies nothing: layers are mounted, by then judged, objects.
//! Its caller holds the descriptors of what it starts, in a reactor.
//!
//! | module | does |
//! |---|---|
//! | [`plan`] | decides: ids, mounts, limits, arguments, capabilities, filter |
//! | `device` | devices that a container asked for: nodes in a `/dev` of its own, and who may open them |
//! | `engine` | what all containers share: device nodes, directories, the parent cgroup |
//! | `layers` | mounts objects |
//! | [`quota`] | what volumes and roots may take on disk |
//! | `spawn`, `mounts`, `handshake` | the parent's side of a start |
//! | `places` | what a read-only root lacks for mounts, and a layer that has it |
//! | `child`, `interface`, `become_program` | the child's side |
//! | `exec`, `probe` | commands and probes in a running container |
//! | `seccomp`, `landlock` | the system call filter, and the fence behind it |
//! | `stage` | what failed, told over the report socket |

mod become_program;
mod cgroup;
mod child;
mod device;
mod engine;
mod exec;
mod handshake;
mod interface;
mod landlock;
mod layers;
mod mounts;
mod places;
pub mod plan;
mod probe;
pub mod quota;
mod seccomp;
mod spawn;
mod stage;

pub use device::{DeviceNode, Unchanged};
pub use engine::{Config, Engine};
pub use exec::{Command, Input};
pub use interface::INTERFACE;
pub use layers::{attach_layer, detach_layer};
pub use plan::{Context, Plan, PlanError};
pub use probe::{Outcome, Probe};
pub use spawn::Spawned;
pub use stage::{Report, SpawnError, Stage};
