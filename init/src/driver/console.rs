//! The console, and the port over which a virtual machine's host speaks to PID 1.
//!
//! Both are opened without waiting: a serial line whose other side has stopped loses text, and
//! never stops PID 1.

use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use kedge_sys::rustix::io::write;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Name of the port, as the host gave it (virtio-serial, `/sys/class/virtio-ports/*/name`).
const PORT: &str = "kedge.control";

/// The kernel's consoles by name.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// The terminal that the screen shows.
const SCREEN: &str = "tty0";

/// The system console. Until it is opened it keeps its lines: a serial line takes an interrupt for
/// every few bytes, and the first containers do not wait for that.
#[derive(Debug)]
pub(crate) enum Console {
    Closed(Vec<String>),
    /// The console that the kernel prefers, and the screen, if it is one beside it; none of both where a machine has none.
    Open([Option<OwnedFd>; 2]),
}

impl Console {
    /// Opens it and writes what has waited.
    pub(crate) fn open(&mut self) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = |path| openat(CWD, path, flags, Mode::empty()).ok();
        let active = std::fs::read_to_string(ACTIVE).unwrap_or_default();
        let screen = has_a_screen_beside(&active).then(|| opened("/dev/tty0"));
        let opened = Self::Open([opened("/dev/console"), screen.flatten()]);
        if let Self::Closed(lines) = std::mem::replace(self, opened) {
            for line in lines {
                self.line(&line);
            }
        }
    }

    /// Writes a line, as far as there is room for it.
    pub(crate) fn line(&mut self, text: &str) {
        match self {
            Self::Closed(lines) => lines.push(text.to_owned()),
            Self::Open(consoles) => {
                let line = format!("kedge: {text}\r\n");
                for console in consoles.iter().flatten() {
                    write(console, line.as_bytes()).ok();
                }
            }
        }
    }
}

/// Whether the kernel writes to a screen that is not what it calls the console, which is the last of these
/// (Linux `Documentation/ABI/testing/sysfs-tty`, "active"): whoever stands before a PC looks at the screen.
fn has_a_screen_beside(active: &str) -> bool {
    let mut names = active.split_ascii_whitespace();
    names.next_back().is_some_and(|last| last != SCREEN) && names.any(|name| name == SCREEN)
}

/// Opens the control port, if this machine has one.
pub(crate) fn control_port() -> Option<OwnedFd> {
    let class = Path::new("/sys/class/virtio-ports");
    for entry in std::fs::read_dir(class).ok()?.flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let device = Path::new("/dev").join(entry.file_name());
            return openat(CWD, &device, flags, Mode::empty()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_beside_the_console_is_written_to() {
        assert!(has_a_screen_beside("tty0 ttyS0\n"));
        assert!(has_a_screen_beside("ttyS1 tty0 ttyS0\n"));
        for active in ["ttyS0\n", "tty0\n", "ttyS0 tty0\n", ""] {
            assert!(!has_a_screen_beside(active), "{active:?}");
        }
    }
}
