//! What turns a project into disk images: host tools, kernels, the device binary and the images themselves.
//!
//! It runs on the developer's machine and nowhere else. It installs nothing but what [`debian::require`] names,
//! and keeps everything it makes below the [`cache`]. It holds no format of its own: those are in
//! `kedge-revision` (documents) and `kedge-rootfs` (layers and initramfs).

pub mod bmap;
pub mod bundle;
pub mod cache;
pub mod compose;
pub mod debian;
pub mod diff;
pub mod exec;
pub mod files;
pub mod firmware;
pub mod flash;
pub mod http;
pub mod hub;
pub mod image;
pub mod import;
pub mod kernel;
pub mod keys;
pub mod layers;
pub mod output;
pub mod parameters;
pub mod payload;
pub mod platform;
pub mod process;
pub mod progress;
pub mod project;
pub mod push;
pub mod python;
pub mod qemu;
pub mod registry;
pub mod sample;
pub mod sbom;
pub mod secure_boot;
pub mod terminal;
pub mod toolchain;
pub mod tools;
pub mod verbs;
