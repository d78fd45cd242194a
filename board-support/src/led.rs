//! The name of the LED that shows a device's state, and how it travels: the board's file has it, the loader says it on the
//! kernel's command line, PID 1 looks for it in `/sys/class/leds`.
//!
//! It writes no LED, and does not say which state looks how; PID 1 does.

/// The kernel argument that names it.
pub const ARGUMENT: &str = "kedge.led";

/// A name of the kernel's LED class, such as `ACT` or `orangepi:green:pwr`: one folder's name, one word of a command line, and
/// nothing that U-Boot's shell would take for its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedName(String);

impl LedName {
    /// Longest name, bytes (`LED_MAX_NAME_SIZE` of Linux `include/uapi/linux/uleds.h`, less the zero at its end).
    pub const MOST: usize = 63;

    /// The name, if it is one. Where nobody gave a colour, the kernel's names begin with a colon
    /// (`Documentation/leds/leds-class.rst`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let begins = |first: u8| first.is_ascii_alphanumeric() || first == b':';
        let is_name = text.len() <= Self::MOST
            && bytes.next().is_some_and(begins)
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b":-_.".contains(&byte));
        is_name.then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        let longest = "a".repeat(LedName::MOST);
        for good in [
            "ACT",
            "orangepi:green:pwr",
            ":status",
            "led0",
            "a.b-c_d",
            &longest,
        ] {
            assert_eq!(LedName::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(LedName::MOST + 1);
        let bad = [
            "", ".", "..", "../x", "a/b", "-x", "a b", "a\0", "a\"", "a;b", "a$b", "ä",
        ];
        for bad in bad.into_iter().chain([too_long.as_str()]) {
            assert_eq!(LedName::parse(bad), None, "{bad:?}");
        }
    }
}
