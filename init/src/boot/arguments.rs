//! Kernel arguments. They select and never weaken: none turns verification off.

use kedge_board_support::bootenv::{EraseBlock, Layout};
use kedge_board_support::control::{Backend, LoaderSays, UBoot};
use kedge_board_support::led::{ARGUMENT as LED, LedName};
use kedge_board_support::loading::gpt::Guid;
use kedge_board_support::record::Slot;
use kedge_board_support::slot::{DISK, WRITTEN_TO};

/// What the loader says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `kedge.slot=a` or `b`: where kernel and initramfs came from.
    pub slot: Option<char>,
    /// `kedge.written-to=a` or `b`: the slot that this line was written to. It is the slot's word, not a loader's.
    pub written_to: Option<Slot>,
    /// `kedge.disk=GUID`: the disk that the loader came from, or that the slot lies on; none where neither tells.
    pub disk: Option<Guid>,
    /// `kedge.secure-boot=1`: the firmware verifies what it starts, and the loader each slot's files. It makes this device
    /// refuse more, never less.
    pub secure_boot: bool,
    /// `kedge.led=NAME`: the LED of the board that shows the device's state; none, or no name: none does.
    pub led: Option<LedName>,
    /// `kedge.erase-block=BYTES`: the boot record lies on flash; on a disk if the loader does not say.
    pub record: Layout,
    /// Of a trial, and of how the last run ended.
    pub says: LoaderSays,
}

impl Arguments {
    /// Reads `/proc/cmdline`. Of an argument given twice the first counts: the loader puts its own
    /// before those of the slot.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let mut arguments = Self {
            // All loaders say it in the same words.
            says: UBoot.reason(line),
            ..Self::default()
        };
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("kedge.slot", "a")) => arguments.slot = arguments.slot.or(Some('a')),
                Some(("kedge.slot", "b")) => arguments.slot = arguments.slot.or(Some('b')),
                Some((WRITTEN_TO, slot)) => {
                    arguments.written_to = arguments.written_to.or(Slot::from_letter(slot));
                }
                Some((DISK, guid)) => {
                    arguments.disk = arguments.disk.or_else(|| Guid::parse(guid));
                }
                Some(("kedge.secure-boot", "1")) => arguments.secure_boot = true,
                Some((LED, name)) => {
                    arguments.led = arguments.led.or_else(|| LedName::parse(name));
                }
                Some(("kedge.erase-block", bytes)) if arguments.record == Layout::Sectors => {
                    let block = bytes.parse().ok().and_then(EraseBlock::new);
                    arguments.record = block.map_or(Layout::Sectors, Layout::EraseBlocks);
                }
                Some(_) | None => {}
            }
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

    #[test]
    fn the_loader_wins_over_the_slot() {
        let own = "kedge.slot=b kedge.try=2 kedge.reset=watchdog";
        let other = "kedge.slot=a kedge.try=9 kedge.disk=00000000-0000-0000-0000-000000000000";
        let line = format!("console=ttyS0 kedge.disk={OWN} {own} quiet {other}\n");
        let expected = Arguments {
            slot: Some('b'),
            written_to: None,
            disk: Guid::parse(OWN),
            secure_boot: false,
            led: None,
            record: Layout::Sectors,
            says: LoaderSays {
                tried: Some(2),
                watchdog: true,
                ..LoaderSays::default()
            },
        };
        assert_eq!(Arguments::parse(&line), expected);
        assert_eq!(
            Arguments::parse("kedge.slot=c kedge.try=x kedge.secure-boot=0 kedge.secure-boot"),
            Arguments::default()
        );
        assert!(Arguments::parse("kedge.secure-boot=1 kedge.slot=a").secure_boot);
        let line = "coherent_pool=1M kedge.written-to=b quiet kedge.written-to=a";
        assert_eq!(Arguments::parse(line).written_to, Some(Slot::B));
        assert_eq!(Arguments::parse("kedge.written-to=c").written_to, None);
    }

    #[test]
    fn the_led_is_the_boards_and_no_path() {
        let led = |line: &str| Arguments::parse(line).led;
        let green = LedName::parse("orangepi:green:pwr");
        assert!(green.is_some());
        assert_eq!(led("quiet kedge.led=orangepi:green:pwr panic=1"), green);
        assert_eq!(led("kedge.led=orangepi:green:pwr kedge.led=ACT"), green);
        for none in ["kedge.led=../../x", "kedge.led=", "kedge.led", "led=ACT"] {
            assert_eq!(led(none), None, "{none}");
        }
    }

    #[test]
    fn where_the_record_lies_is_the_loaders_word() {
        let record = |line| Arguments::parse(line).record;
        let flash = Layout::EraseBlocks(EraseBlock::new(65536).unwrap());
        assert_eq!(record("kedge.slot=a kedge.erase-block=65536"), flash);
        assert_eq!(
            record("kedge.erase-block=65536 kedge.erase-block=4096"),
            flash
        );
        for wrong in ["", "kedge.erase-block=65537", "kedge.erase-block=64k"] {
            assert_eq!(record(wrong), Layout::Sectors);
        }
    }
}
