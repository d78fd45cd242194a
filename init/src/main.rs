//! The device binary: which of its names it was called by decides what it is.

use std::process::ExitCode;

/// PID 1 and its helpers allocate little, of many sizes, and live for years: what counts is the number of pages.
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    kedge_init::run()
}
