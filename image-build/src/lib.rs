//! What turns a project into disk images: host tools, kernels, the device binary and the images themselves.
//!
//! It runs on the developer's machine and nowhere else. It installs nothing but what [`debian::require`] names,
//! and keeps everything it makes below the [`cache`]. It holds no format of its own: those are in
//! `kedge-revision` (documents) and `kedge-rootfs` (layers and initramfs).

pub mod cache;
pub mod debian;
pub mod files;
pub mod kernel;
pub mod platform;
pub mod process;
pub mod progress;
pub mod toolchain;
pub mod tools;
