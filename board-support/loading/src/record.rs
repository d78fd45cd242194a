//! The loader record: a U-Boot environment blob, so that an unmodified U-Boot reads and writes it from a script.
//!
//! 4096 bytes: CRC-32 (u32 LE) of the 4092 bytes that follow; then `key=value` texts, each ended by a NUL; then
//! zeros. It is what `env export -c -s 1000 ADDRESS KEYS` writes. Keys, all others are refused:
//!
//! | key | value |
//! |---|---|
//! | `slot_ok` | `a` or `b`: the slot that starts when nothing is tried; always there |
//! | `slot_try` | `a` or `b`: the slot on trial; absent or empty when none is |
//! | `try_left` | one digit: starts that the trial still has; the loader takes one off before it starts the slot |
//!
//! Underscores, because U-Boot cannot expand hyphens; one digit, because its `setexpr` prints hexadecimal.
//! The two copies are equal but between the two writes of an update. The first valid one counts, and it is written last:
//! whoever writes, a boot script too, begins with the copy that it has not read, so that no two cuts lose both.
//!
//! Source: U-Boot `cmd/nvedit.c` (`do_env_export`), `include/env_internal.h` (`env_t`).

use crate::{COPY, Damage, Slot, crc32};
use core::fmt;

/// What a loader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Loader {
    /// The default slot.
    pub default: Slot,
    /// The slot on trial.
    pub trial: Option<Armed>,
}

/// A trial as the loader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Armed {
    /// The slot to try.
    pub slot: Slot,
    /// Starts left, 0 to 9; at 0 the default starts.
    pub left: u8,
}

impl Loader {
    /// The record that an image is born with.
    #[must_use]
    pub const fn born() -> Self {
        Self {
            default: Slot::A,
            trial: None,
        }
    }

    /// The record that starts `slot`, and tries nothing.
    #[must_use]
    pub const fn starts(slot: Slot) -> Self {
        Self {
            default: slot,
            trial: None,
        }
    }

    /// The same default, with `slot` on trial. More than nine tries are nine: the record has one digit for them.
    #[must_use]
    pub const fn tries(self, slot: Slot, left: u8) -> Self {
        let left = if left > 9 { 9 } else { left };
        Self {
            trial: Some(Armed { slot, left }),
            ..self
        }
    }

    /// What a loader does with this record: the slot to start, and the record to write before starting it.
    #[must_use]
    pub fn boot(self) -> (Slot, Option<Self>) {
        match self.trial {
            Some(Armed {
                slot,
                left: left @ 1..,
            }) => {
                let left = left.saturating_sub(1);
                (
                    slot,
                    Some(Self {
                        trial: Some(Armed { slot, left }),
                        ..self
                    }),
                )
            }
            Some(Armed { left: 0, .. }) | None => (self.default, None),
        }
    }

    /// The bytes of one copy. More than nine tries are written as nine.
    #[must_use]
    pub fn encode(&self) -> [u8; COPY] {
        let left = self
            .trial
            .map(|armed| b'0'.saturating_add(armed.left.min(9)));
        let default = self.default.letter();
        let fields: [&[u8]; 8] = match (&self.trial, &left) {
            (Some(Armed { slot, .. }), Some(left)) => [
                b"slot_ok=",
                default.as_bytes(),
                b"\0slot_try=",
                slot.letter().as_bytes(),
                b"\0try_left=",
                core::slice::from_ref(left),
                b"\0",
                b"",
            ],
            (_, _) => [
                b"slot_ok=",
                default.as_bytes(),
                b"\0",
                b"",
                b"",
                b"",
                b"",
                b"",
            ],
        };
        let mut copy = [0_u8; COPY];
        let (checksum, data) = copy.split_at_mut(4);
        for (to, from) in data.iter_mut().zip(fields.iter().copied().flatten()) {
            *to = *from;
        }
        checksum.copy_from_slice(&crc32(data).to_le_bytes());
        copy
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// [`Damage::Short`], [`Damage::Checksum`], or [`Damage::Field`] for a key or value that no loader of ours writes.
    pub fn parse(copy: &[u8]) -> Result<Self, Damage> {
        let short = Damage::Short { length: copy.len() };
        let copy = copy.get(..COPY).ok_or(short)?;
        let (checksum, data) = copy.split_first_chunk::<4>().ok_or(short)?;
        if crc32(data) != u32::from_le_bytes(*checksum) {
            return Err(Damage::Checksum);
        }
        let (mut default, mut slot, mut left) = (None, None, None);
        for entry in data
            .split(|byte| *byte == 0)
            .take_while(|entry| !entry.is_empty())
        {
            let text = core::str::from_utf8(entry).map_err(|_| Damage::Field { field: "key" })?;
            let (key, value) = text.split_once('=').ok_or(Damage::Field { field: "key" })?;
            let (field, place) = match key {
                "slot_ok" => ("slot_ok", &mut default),
                "slot_try" => ("slot_try", &mut slot),
                "try_left" => ("try_left", &mut left),
                _ => return Err(Damage::Field { field: "key" }),
            };
            if place.replace(value).is_some() {
                return Err(Damage::Field { field });
            }
        }
        let default = default
            .and_then(Slot::from_letter)
            .ok_or(Damage::Field { field: "slot_ok" })?;
        let left = match left.unwrap_or_default().as_bytes() {
            [] => 0,
            [digit @ b'0'..=b'9'] => digit.saturating_sub(b'0'),
            _ => return Err(Damage::Field { field: "try_left" }),
        };
        let trial = match slot.unwrap_or_default() {
            "" => None,
            letter => {
                let slot = Slot::from_letter(letter).ok_or(Damage::Field { field: "slot_try" })?;
                Some(Armed { slot, left })
            }
        };
        Ok(Self { default, trial })
    }
}

impl fmt::Display for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "default {}", self.default)?;
        match self.trial {
            Some(Armed { slot, left }) => write!(f, ", trial {slot}, tries left {left}"),
            None => Ok(()),
        }
    }
}

/// The copy that counts: the first if it is valid, else the second.
#[must_use]
pub fn choose(first: &[u8], second: &[u8]) -> Option<Loader> {
    Loader::parse(first).or_else(|_| Loader::parse(second)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn with(text: &[u8]) -> [u8; COPY] {
        let mut copy = [0; COPY];
        copy[4..4 + text.len()].copy_from_slice(text);
        let sum = crc32(&copy[4..]).to_le_bytes();
        copy[..4].copy_from_slice(&sum);
        copy
    }

    fn samples() -> Vec<Loader> {
        let mut all = vec![];
        for default in [Slot::A, Slot::B] {
            all.push(Loader {
                default,
                trial: None,
            });
            for left in [0, 1, 9] {
                all.push(Loader {
                    default,
                    trial: Some(Armed {
                        slot: default.other(),
                        left,
                    }),
                });
            }
        }
        all
    }

    #[test]
    fn records_come_back() {
        for record in samples() {
            assert_eq!(Loader::parse(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn the_bytes_are_those_of_env_export() {
        // `env export -c -s 1000` writes keys in alphabetical order.
        let record = Loader {
            default: Slot::A,
            trial: Some(Armed {
                slot: Slot::B,
                left: 3,
            }),
        };
        assert_eq!(
            record.encode(),
            with(b"slot_ok=a\0slot_try=b\0try_left=3\0")
        );
    }

    #[test]
    fn values_that_a_loader_leaves_behind_are_understood() {
        let none = Loader {
            default: Slot::B,
            trial: None,
        };
        assert_eq!(
            Loader::parse(&with(b"slot_ok=b\0slot_try=\0try_left=\0")),
            Ok(none)
        );
        assert_eq!(Loader::parse(&with(b"slot_ok=b\0try_left=2\0")), Ok(none));
    }

    #[test]
    fn values_that_nobody_writes_are_refused() {
        let bad: [&[u8]; 8] = [
            b"",
            b"slot_ok=c\0",
            b"slot_ok=a\0slot_ok=a\0",
            b"slot_ok=a\0slot_try=c\0",
            b"slot_ok=a\0slot_try=b\0try_left=10\0",
            b"slot_ok=a\0slot_try=b\0try_left=f\0",
            b"slot_ok=a\0bootdelay=2\0",
            b"slot_ok\0",
        ];
        for text in bad {
            assert!(
                matches!(Loader::parse(&with(text)), Err(Damage::Field { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_detected_and_the_other_copy_counts() {
        let (one, two) = (samples()[1], samples()[4]);
        let (good, other) = (one.encode(), two.encode());
        for bit in 0..COPY * 8 {
            let mut flipped = good;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Loader::parse(&flipped), Err(Damage::Checksum), "bit {bit}");
            if bit % 512 == 0 {
                assert_eq!(choose(&flipped, &other), Some(two));
                assert_eq!(choose(&other, &flipped), Some(two));
            }
        }
    }

    #[test]
    fn every_torn_write_leaves_one_record_or_the_other() {
        for old in samples() {
            for new in samples() {
                let (before, after) = (old.encode(), new.encode());
                for cut in 0..=64 {
                    let mut torn = before;
                    torn[..cut].copy_from_slice(&after[..cut]);
                    let read = choose(&torn, &before);
                    assert!(read == Some(old) || read == Some(new), "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn a_loader_counts_down_and_then_starts_the_default() {
        let mut record = Loader {
            default: Slot::A,
            trial: Some(Armed {
                slot: Slot::B,
                left: 2,
            }),
        };
        for left in [1, 0] {
            let (slot, next) = record.boot();
            record = next.unwrap();
            assert_eq!((slot, record.trial.unwrap().left), (Slot::B, left));
        }
        assert_eq!(record.boot(), (Slot::A, None));
    }

    #[test]
    fn an_erased_partition_has_no_record() {
        assert_eq!(choose(&[0; COPY], &[0xff; COPY]), None);
        assert_eq!(Loader::parse(&[0; 17]), Err(Damage::Short { length: 17 }));
    }
}
