//! What is known of the configured links, and what a change of one asks for. Pure.

use super::rtnetlink::Link;
use crate::few::Few;

/// Links by name.
#[derive(Debug, Default)]
pub(super) struct Links(Few<String, Known>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    index: u32,
    carrier: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    /// Set the interface up (again).
    pub(super) apply: bool,
    /// The link came (true) or went.
    pub(super) carrier: Option<bool>,
}

impl Links {
    /// Takes news of a link.
    pub(super) fn update(&mut self, link: &Link) -> Change {
        let known = self.0.get(&link.name).copied();
        if link.gone {
            // An older interface of the same name may go after the newer came.
            if known.is_none_or(|known| known.index != link.index) {
                return Change::default();
            }
            self.0.take(&link.name);
            return Change {
                apply: false,
                carrier: known.filter(|known| known.carrier).map(|_| false),
            };
        }
        let now = Known {
            index: link.index,
            carrier: link.carrier,
        };
        self.0.insert(link.name.clone(), now);
        let before = known.filter(|known| known.index == now.index);
        let had_carrier = before.is_some_and(|known| known.carrier);
        Change {
            // New; or the link came back: the kernel drops routes of a link that went down.
            apply: before.is_none() || (now.carrier && !had_carrier),
            carrier: (now.carrier != had_carrier).then_some(now.carrier),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, carrier: bool, gone: bool) -> Link {
        Link {
            index,
            name: "eth0".to_owned(),
            carrier,
            gone,
            hardware: None,
            is_port: true,
            mtu: 1500,
            group: 0,
        }
    }

    #[test]
    fn a_life_of_a_link() {
        let change = |apply, carrier| Change { apply, carrier };
        let mut links = Links::default();
        assert_eq!(links.update(&link(2, false, false)), change(true, None));
        assert_eq!(
            links.update(&link(2, true, false)),
            change(true, Some(true))
        );
        assert_eq!(links.update(&link(2, true, false)), change(false, None));
        assert_eq!(
            links.update(&link(2, false, false)),
            change(false, Some(false))
        );
        assert_eq!(
            links.update(&link(2, true, false)),
            change(true, Some(true))
        );
        assert_eq!(
            links.update(&link(3, true, false)),
            change(true, Some(true))
        );
        assert_eq!(links.update(&link(2, false, true)), change(false, None));
        assert_eq!(
            links.update(&link(3, true, true)),
            change(false, Some(false))
        );
        assert_eq!(links.update(&link(4, false, false)), change(true, None));
    }
}
