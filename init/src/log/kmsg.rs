//! Records of `/dev/kmsg` (Linux `Documentation/ABI/testing/dev-kmsg`).
//!
//! One read gives one record: `priority,sequence,time in µs,flags[,…];text`, a line end, and then
//! lines that begin with a space and hold a dictionary, which is not kept. Bytes that are not
//! printable are written `\xNN`, a backslash `\x5c`.

use core::fmt;

/// One record of the kernel's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelRecord<'a> {
    /// Level, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Syslog facility; 0 is the kernel, anything else was written by a process.
    pub facility: u32,
    /// The kernel's own sequence number.
    pub sequence: u64,
    /// Microseconds since the boot.
    pub time_us: u64,
    /// The text, still escaped.
    escaped: &'a [u8],
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KmsgError {
    /// No `;` ends the prefix.
    Prefix,
    /// This field of the prefix is no number, or missing.
    Field(&'static str),
}

impl fmt::Display for KmsgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => f.write_str("kernel record without a prefix"),
            Self::Field(name) => write!(f, "kernel record with a bad {name}"),
        }
    }
}

impl core::error::Error for KmsgError {}

impl<'a> KernelRecord<'a> {
    /// Parses one record.
    ///
    /// # Errors
    /// [`KmsgError`] for anything that is not of the documented form.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, KmsgError> {
        let semicolon = bytes
            .iter()
            .position(|byte| *byte == b';')
            .ok_or(KmsgError::Prefix)?;
        let (prefix, rest) = bytes.split_at_checked(semicolon).ok_or(KmsgError::Prefix)?;
        let mut fields = prefix.split(|byte| *byte == b',');
        let mut number = |name| {
            fields
                .next()
                .and_then(decimal)
                .ok_or(KmsgError::Field(name))
        };
        let priority =
            u32::try_from(number("priority")?).map_err(|_| KmsgError::Field("priority"))?;
        let sequence = number("sequence")?;
        let time_us = number("time")?;
        let text = rest.strip_prefix(b";").unwrap_or(rest);
        let escaped = text.split(|byte| *byte == b'\n').next().unwrap_or(text);
        Ok(Self {
            // Three bits fit.
            level: u8::try_from(priority & 7).unwrap_or(7),
            facility: priority >> 3,
            sequence,
            time_us,
            escaped,
        })
    }

    /// The text without escapes.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.escaped.len());
        let mut rest = self.escaped;
        while let [first, after @ ..] = rest {
            rest = after;
            match rest {
                [b'x', high, low, after @ ..] if *first == b'\\' => {
                    if let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) {
                        text.push(high << 4 | low);
                        rest = after;
                        continue;
                    }
                }
                _ => {}
            }
            text.push(*first);
        }
        text
    }
}

/// An unsigned decimal number of at most 20 digits.
fn decimal(digits: &[u8]) -> Option<u64> {
    core::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documentations_examples() {
        let record = KernelRecord::parse(
            b"7,160,424069,-;pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
        )
        .unwrap();
        assert_eq!((record.level, record.facility), (7, 0));
        assert_eq!((record.sequence, record.time_us), (160, 424_069));
        assert_eq!(
            record.text(),
            b"pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)"
        );
        let record = KernelRecord::parse(b"6,339,5140900,-;NET: Registered protocol family 10\n");
        assert_eq!(record.unwrap().level, 6);
        let record =
            KernelRecord::parse(b"30,340,5690716,-;udevd[80]: starting version 181\n").unwrap();
        assert_eq!((record.level, record.facility), (6, 3));
    }

    #[test]
    fn escapes_and_further_fields() {
        let record = KernelRecord::parse(b"4,1,2,c,caller=T1;a\\x5cb\\x00\\xzz\\x4").unwrap();
        assert_eq!(record.text(), b"a\\b\0\\xzz\\x4");
        assert_eq!(KernelRecord::parse(b"4,1,2;").unwrap().text(), b"");
    }

    #[test]
    fn what_is_no_record() {
        assert_eq!(KernelRecord::parse(b""), Err(KmsgError::Prefix));
        assert_eq!(KernelRecord::parse(b"6,1,2"), Err(KmsgError::Prefix));
        assert_eq!(
            KernelRecord::parse(b"-6,1,2,-;x"),
            Err(KmsgError::Field("priority"))
        );
        assert_eq!(KernelRecord::parse(b"6,1;x"), Err(KmsgError::Field("time")));
        assert_eq!(
            KernelRecord::parse(b"6,99999999999999999999999,1;x"),
            Err(KmsgError::Field("sequence"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(record) = KernelRecord::parse(&bytes) {
                prop_assert!(record.text().len() <= bytes.len());
            }
        }
    }
}
