//! Modules of the initramfs, for the program as `/init` of a machine: loaded as the device's own PID 1 loads them.

use kedge_sys::module;
use kedge_sys::rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

/// Loads what `/modules/list` names, with their parameters from the kernel's arguments. Without a list the kernel has
/// everything built in.
pub(crate) fn load() -> io::Result<()> {
    let directory = Path::new("/modules");
    let Ok(list) = fs::read_to_string(directory.join("list")) else {
        return Ok(());
    };
    fs::create_dir_all("/proc")?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    let line = fs::read_to_string("/proc/cmdline")?;
    for file in list.lines() {
        let image = fs::read(directory.join(file))?;
        let prefix = format!("{}.", file.trim_end_matches(".ko"));
        let words = line.split_ascii_whitespace();
        let parameters: Vec<_> = words
            .filter_map(|word| word.strip_prefix(prefix.as_str()))
            .collect();
        let parameters = CString::new(parameters.join(" "))?;
        // One that is for a device which this machine lacks may be refused.
        if let Err(error) = module::load_image(&image, &parameters) {
            crate::say(&format!("{file}: {error}"));
        }
    }
    Ok(())
}
