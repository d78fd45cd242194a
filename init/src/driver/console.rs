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

/// The system console. Until it is opened it keeps its lines: a serial line takes an interrupt for
/// every few bytes, and the first containers do not wait for that.
#[derive(Debug)]
pub(crate) enum Console {
    Closed(Vec<String>),
    Open(OwnedFd),
    /// This machine has none.
    Absent,
}

impl Console {
    /// Opens it and writes what has waited.
    pub(crate) fn open(&mut self) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(CWD, "/dev/console", flags, Mode::empty());
        let opened = opened.map_or(Self::Absent, Self::Open);
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
            Self::Open(console) => {
                let line = format!("kedge: {text}\r\n");
                write(console, line.as_bytes()).ok();
            }
            Self::Absent => {}
        }
    }
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
