//! Kernel arguments. They select and never weaken: none turns verification off.

/// What the loader says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `kedge.slot=a` or `b`: where kernel and initramfs came from.
    pub slot: Option<char>,
    /// `kedge.try=N`: this boot tries the slot, with N tries left.
    pub tries_left: Option<u8>,
    /// `kedge.reset=watchdog`: the loader knows that the watchdog ended the last run.
    pub watchdog_reset: bool,
}

impl Arguments {
    /// Reads `/proc/cmdline`. Of an argument given twice the first counts: the loader puts its own
    /// before those of the slot.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let mut arguments = Self::default();
        let mut reset = None;
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("kedge.slot", "a")) => arguments.slot = arguments.slot.or(Some('a')),
                Some(("kedge.slot", "b")) => arguments.slot = arguments.slot.or(Some('b')),
                Some(("kedge.try", left)) => {
                    arguments.tries_left = arguments.tries_left.or(left.parse().ok());
                }
                Some(("kedge.reset", cause)) => reset = reset.or(Some(cause)),
                _ => {}
            }
        }
        arguments.watchdog_reset = reset == Some("watchdog");
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_wins_over_the_slot() {
        let line = "console=ttyS0 kedge.slot=b kedge.try=2 quiet kedge.slot=a kedge.try=9\n";
        let expected = Arguments {
            slot: Some('b'),
            tries_left: Some(2),
            watchdog_reset: false,
        };
        assert_eq!(Arguments::parse(line), expected);
        assert_eq!(
            Arguments::parse("kedge.slot=c kedge.try=x"),
            Arguments::default()
        );
        let reset = |line| Arguments::parse(line).watchdog_reset;
        assert!(reset("kedge.reset=watchdog quiet kedge.reset=power"));
        assert!(!reset("kedge.reset=power kedge.reset=watchdog"));
    }
}
