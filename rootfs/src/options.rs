//! What an importer may choose.

use crate::bounds::Bounds;

/// Device nodes of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Devices {
    /// Refused: a container's `/dev` is made by the engine from its revision.
    #[default]
    Refuse,
    /// Kept as they are. They do nothing inside a user namespace.
    Keep,
}

/// Setuid and setgid bits of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SetId {
    /// Kept and noted: they act inside the container's user namespace only, and `su` or `ping` want them.
    #[default]
    Keep,
    /// Taken off and noted.
    Strip,
}

/// Owners of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owners {
    /// As the image has them, up to 65535.
    #[default]
    Keep,
    /// All 0:0: for a directory that an ordinary user unpacked.
    Root,
}

/// How entries are judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Device nodes.
    pub devices: Devices,
    /// Setuid and setgid bits.
    pub set_id: SetId,
    /// Owners.
    pub owners: Owners,
}

/// Choices for one import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Architecture of the board: OCI's word or the kernel's (`amd64` or `x86_64`). `None` takes what there is.
    pub architecture: Option<String>,
    /// Reference name (tag) to take from a source that has several images.
    pub reference: Option<String>,
    /// What to run instead of the image's entrypoint and command.
    pub command: Option<Vec<String>>,
    /// How entries are judged.
    pub policy: Policy,
    /// Limits.
    pub bounds: Bounds,
}

/// The name that OCI (Go's GOARCH) has for an architecture; unknown names pass as they are.
#[must_use]
pub fn oci_architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armv7" | "armv7l" | "armhf" => "arm",
        "riscv64gc" => "riscv64",
        "mipsel" => "mipsle",
        "mips64el" => "mips64le",
        other => other,
    }
}
