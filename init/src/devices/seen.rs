//! What a look has said so far, line by line.
//!
//! | line | says |
//! |---|---|
//! | of nine fields | a device is there: [`Found::line`] |
//! | [`LISTED`] | that were all |
//! | `=PLACE` and a number, with a tab between them | the serial number of the device at this place |
//! | [`END`] | those, too |
//!
//! Serial numbers come last, as reading one waits for the device. A look that is given up meanwhile has said the rest.

use super::{Found, Given, MOST_FOUND, UNREAD};

/// All devices are said.
pub const LISTED: &str = "-";
/// All is said.
pub const END: &str = ".";
/// What a line with a serial number begins with.
pub const SERIAL: char = '=';
/// Most bytes of a line: what is longer is cut, and none then.
const MOST_LINE: usize = 4096;
/// Most places that may be left while it is looked.
const MOST_GONE: usize = 256;

/// What a look has said so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// What is there, by place.
    pub found: Vec<Found>,
    /// Nothing else is there.
    pub listed: bool,
    /// No serial number is unread.
    pub whole: bool,
    /// The begin of a line.
    rest: Vec<u8>,
    /// What has left since the look began, which may have been looked at before.
    gone: Vec<String>,
}

impl Seen {
    /// Takes what is said next, in pieces of whatever size.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                if self.rest.len() < MOST_LINE {
                    self.rest.push(*byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.rest);
            // A line of other bytes is none of ours.
            if let Ok(line) = core::str::from_utf8(&line) {
                self.line(line);
            }
        }
    }

    fn line(&mut self, line: &str) {
        match line {
            LISTED => self.listed = true,
            END => self.whole = self.listed,
            _ => match line.strip_prefix(SERIAL) {
                Some(line) => {
                    let (place, serial) = line.split_once('\t').unwrap_or_default();
                    let mut found = self.found.iter_mut();
                    if let Some(one) = found.find(|one| one.path == place) {
                        serial.clone_into(&mut one.serial);
                    }
                }
                None => {
                    if let Some(one) = Found::parse(line) {
                        self.add(one);
                    }
                }
            },
        }
    }

    fn add(&mut self, one: Found) {
        if !self.gone.iter().any(|place| one.is_below(place)) {
            insert(&mut self.found, one);
        }
    }

    /// Something has left: what has been said of it, and is yet to be, counts no more. False: too much has left meanwhile.
    pub fn remove(&mut self, place: &str) -> bool {
        self.found.retain(|one| !one.is_below(place));
        self.gone.push(place.to_owned());
        self.gone.len() < MOST_GONE
    }

    /// What counts for a container that has these: where the look came to no end, what it did not come to is as it was.
    #[must_use]
    pub fn known(&self, has: &[Given]) -> Vec<Found> {
        let mut known = self.found.clone();
        for had in has.iter().map(|given| &given.found) {
            match known.iter_mut().find(|one| one.is(had)) {
                Some(one) if one.serial == UNREAD => one.serial.clone_from(&had.serial),
                Some(_) => {}
                None if self.listed => {}
                None => insert(&mut known, had.clone()),
            }
        }
        known
    }
}

/// Puts a device where it belongs by its place, once.
fn insert(found: &mut Vec<Found>, one: Found) {
    let at = found.partition_point(|other| other.path < one.path);
    let count = found.len();
    match found.get_mut(at) {
        Some(same) if same.path == one.path => *same = one,
        Some(_) | None if count < MOST_FOUND => found.insert(at, one),
        Some(_) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u32, serial: &str) -> String {
        format!("/devices/{number}\ttty\tttyUSB{number}\t188\t{number}\t0403\t6001\t{serial}\t0\n")
    }

    fn seen(said: &str) -> Seen {
        let mut seen = Seen::default();
        seen.take(said.as_bytes());
        seen
    }

    fn serials(found: &[Found]) -> Vec<(u32, &str)> {
        let found = found.iter();
        found
            .map(|one| (one.number.1, one.serial.as_str()))
            .collect()
    }

    #[test]
    fn lines_come_in_any_order_and_in_pieces() {
        let said = [
            &line(2, UNREAD),
            "\n",
            &line(1, ""),
            "nonsense\n",
            "-\n",
            "=/devices/2\tA 1\n",
            "=/devices/7\tB\n",
            ".\n",
        ]
        .concat();
        for size in [1, 7, 4096] {
            let mut seen = Seen::default();
            for piece in said.as_bytes().chunks(size) {
                assert!(!seen.whole);
                seen.take(piece);
            }
            assert!(seen.listed && seen.whole);
            assert_eq!(serials(&seen.found), [(1, ""), (2, "A 1")]);
        }
        // An end without the list before it is none; what is said twice is there once, as it was said last.
        assert!(!seen(".\n").whole);
        let twice = seen(&[line(1, "A"), line(1, "B")].concat());
        assert_eq!(serials(&twice.found), [(1, "B")]);
        // A line that goes on for ever takes no memory, and the next one counts.
        let mut long = Seen::default();
        long.take(&vec![b'x'; MOST_LINE * 3]);
        assert_eq!(long.rest.len(), MOST_LINE);
        long.take(b"\n");
        long.take(line(1, "").as_bytes());
        assert_eq!(long.found.len(), 1);
        let many: String = (0..1100).map(|number| line(number, "")).collect();
        assert_eq!(seen(&many).found.len(), MOST_FOUND);
    }

    #[test]
    fn what_leaves_while_it_is_looked_is_not_found() {
        let mut seen = seen(&[line(1, ""), line(2, "")].concat());
        assert!(seen.remove("/devices/1"));
        seen.take([line(1, ""), line(3, "")].concat().as_bytes());
        assert_eq!(serials(&seen.found), [(2, ""), (3, "")]);
        // What hangs on it is another one, and one that only begins alike.
        assert!(seen.remove("/devices/2/x") && seen.remove("/devices/"));
        assert_eq!(seen.found.len(), 2);
        let left = (0..MOST_GONE).filter(|number| seen.remove(&format!("/{number}")));
        assert_eq!(left.count(), MOST_GONE - 4);
    }

    #[test]
    fn of_a_look_without_an_end_the_rest_is_as_it_was() {
        let has: Vec<Given> = [(1, "A"), (2, "B"), (3, "C")]
            .into_iter()
            .map(|(number, serial)| Given {
                rule: 0,
                name: String::new(),
                found: Found::parse(line(number, serial).trim_end()).unwrap(),
            })
            .collect();
        let said = [line(2, UNREAD), line(3, "D"), line(4, UNREAD)].concat();
        let begun = seen(&said).known(&has);
        assert_eq!(serials(&begun), [(1, "A"), (2, "B"), (3, "D"), (4, UNREAD)]);
        let listed = seen(&(said.clone() + "-\n")).known(&has);
        assert_eq!(serials(&listed), [(2, "B"), (3, "D"), (4, UNREAD)]);
        // Another device at the same place has a number of its own.
        let other = line(1, UNREAD).replace("\t188\t", "\t189\t");
        assert_eq!(serials(&seen(&(other + "-\n")).known(&has)), [(1, UNREAD)]);
    }
}
