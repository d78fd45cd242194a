//! The kernel's events of devices (kobject_uevent(9), Linux `lib/kobject_uevent.c`): `ACTION@DEVPATH`, then `KEY=value`, each
//! with a NUL.

/// Most bytes of an event: the kernel's buffer of 2048 for the keys, and a path before it. Longer ones are cut by whoever
/// receives them, and are none then.
pub const MOST: usize = 8192;

/// What an event says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// `add`, `remove`, `change`, …
    pub action: &'a str,
    /// The device's place in sysfs, without `/sys`.
    pub path: &'a str,
    /// Its subsystem.
    pub subsystem: &'a str,
}

/// Reads an event; none: it is none, as one of libudev's, or of what belongs to no subsystem.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Event<'_>> {
    if bytes.len() >= MOST || bytes.last() != Some(&0) {
        return None;
    }
    let mut words = bytes.split(|byte| *byte == 0);
    let (action, path) = core::str::from_utf8(words.next()?).ok()?.split_once('@')?;
    if action.is_empty()
        || !action.bytes().all(|byte| byte.is_ascii_lowercase())
        || !path.starts_with('/')
    {
        return None;
    }
    let subsystem = words.find_map(|word| word.strip_prefix(b"SUBSYSTEM="))?;
    Some(Event {
        action,
        path,
        subsystem: core::str::from_utf8(subsystem).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_anything_else_is_none() {
        let event = b"add@/devices/usb1/1-1/tty/ttyUSB0\0ACTION=add\0DEVPATH=/devices/usb1/1-1/tty/ttyUSB0\0SUBSYSTEM=tty\0MAJOR=188\0";
        let wanted = Event {
            action: "add",
            path: "/devices/usb1/1-1/tty/ttyUSB0",
            subsystem: "tty",
        };
        assert_eq!(parse(event), Some(wanted));
        let mut long = event.to_vec();
        long.resize(MOST, 0);
        for bad in [
            b"".as_slice(),
            b"\0",
            &event[..event.len() - 1],
            &event[..40],
            b"libudev\0\xfe\xed\xca\xfe\0",
            b"add/devices/x\0SUBSYSTEM=tty\0",
            b"ADD@/devices/x\0SUBSYSTEM=tty\0",
            b"add@devices/x\0SUBSYSTEM=tty\0",
            b"add@/devices/x\0SUBSYSTEMS=tty\0",
            b"add@/devices/\xff\0SUBSYSTEM=tty\0",
            b"add@/devices/x\0SUBSYSTEM=\xff\0",
            &long,
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
