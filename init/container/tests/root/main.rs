//! Containers on this machine's kernel. Needs root, user namespaces, overlayfs and idmapped mounts
//! (Linux 6.7 or newer).

mod bench;
mod confinement;
mod files;
mod running;
