//! The test harness: a project in QEMU, its console, its control interface, and faults on its disk.
//!
//! | module | does |
//! |---|---|
//! | [`agent`] | the agent in a process of its own, and PID 1's side of it |
//! | [`releases`] | a hub with a product, its keys and revisions |
//! | [`bridge`] | the control interface of a machine without a port for it |
//! | [`proxy`] | what may happen between the two |
//! | [`product`] | the project that the VM tier boots |
//! | [`kedge`] | the host command |
//! | [`disk`] | copies of its image, and faults on them |
//! | [`guide`] | the commands of a Markdown file |
//! | [`guest`] | a device in QEMU: console, control interface, deadlines |
//! | [`http`] | one exchange |
//! | [`hub`] | a hub in a process of its own |
//! | [`registry`] | a registry of images, an honest one and one that lies |
//! | [`stick`] | images of removable disks |
//! | [`updates`] | a device that takes updates, played |
//! | `tidy` | rules of the house; unit tests of their own |
//!
//! The suites are one binary a tier: `tests/host` (tools of the machine), `tests/root` (namespaces), `tests/vm` (QEMU).
//! What a test needs and does not find fails it, with how to get it; nothing is skipped.

pub mod agent;
pub mod bridge;
pub mod disk;
pub mod fleet;
pub mod guest;
pub mod guide;
pub mod http;
pub mod hub;
pub mod kedge;
pub mod product;
pub mod proxy;
pub mod registry;
pub mod releases;
pub mod stick;
#[cfg(test)]
mod tidy;
pub mod token;
pub mod trials;
pub mod updates;
