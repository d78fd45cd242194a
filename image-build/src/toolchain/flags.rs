//! What the device's programs are compiled with beside their profile in `Cargo.toml`, and why.

/// `relocation-model=static`: PID 1 is alone in its address space with the kernel, and position independence
/// costs about 10 % in relocations that would be written, and so made private memory, at every exec.
/// `link-self-contained=no`: crt files and the C library are Zig's, not Rust's.
/// `force-unwind-tables=no`: nothing unwinds, so the tables are 12 kB that nobody reads.
/// `curve25519_dalek_backend`: without code for AVX2, 13 kB; a device verifies a few signatures a boot.
/// [`OUTLINER`]: what several functions have in common becomes one of its own, 20 kB.
/// `trap-unreachable=no`: no trap instruction behind each call that never returns.
/// `panic=immediate-abort`: a panic is a trap where it happens, whose address the kernel's log keeps (and ramoops, when
/// it is PID 1's); a build without `strip` tells the function. Its text is lost, which went to standard error alone; 69 kB.
pub(super) const FLAGS: [&str; 9] = [
    "-Ctarget-feature=+crt-static",
    "-Clink-self-contained=no",
    "-Crelocation-model=static",
    "-Cforce-unwind-tables=no",
    "--cfg=curve25519_dalek_backend=\"serial\"",
    OUTLINER,
    "-Ztrap-unreachable=no",
    "-Zunstable-options",
    "-Cpanic=immediate-abort",
];
/// LLVM has it for x86, ARM and RISC-V, not for MIPS.
pub(super) const OUTLINER: &str = "-Cllvm-args=--enable-machine-outliner=always";
/// What a function calls last it jumps to, and the place behind a branch is filled from where it leads: LLVM leaves both off on MIPS.
pub(super) const MIPS_FLAGS: [&str; 2] = [
    "-Cllvm-args=-mips-tail-calls=1",
    "-Cllvm-args=-disable-mips-df-succbb-search=0",
];
