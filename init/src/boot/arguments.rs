//! Kernel arguments. They select and never weaken: none turns verification off.

use kedge_board_support::control::{Backend, LoaderSays, UBoot};
use kedge_board_support::loading::gpt::Guid;

/// What the loader says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `kedge.slot=a` or `b`: where kernel and initramfs came from.
    pub slot: Option<char>,
    /// `kedge.disk=GUID`: the disk that the loader came from; none from loaders that cannot tell.
    pub disk: Option<Guid>,
    /// `kedge.secure-boot=1`: the firmware verifies what it starts, and the loader each slot's files. It makes this device
    /// refuse more, never less.
    pub secure_boot: bool,
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
                Some(("kedge.disk", guid)) => {
                    arguments.disk = arguments.disk.or_else(|| Guid::parse(guid));
                }
                Some(("kedge.secure-boot", "1")) => arguments.secure_boot = true,
                Some(_) | None => {}
            }
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

    #[test]
    fn the_loader_wins_over_the_slot() {
        let own = "kedge.slot=b kedge.try=2 kedge.reset=watchdog";
        let other = "kedge.slot=a kedge.try=9 kedge.disk=00000000-0000-0000-0000-000000000000";
        let line = format!("console=ttyS0 kedge.disk={DISK} {own} quiet {other}\n");
        let expected = Arguments {
            slot: Some('b'),
            disk: Guid::parse(DISK),
            secure_boot: false,
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
    }
}
