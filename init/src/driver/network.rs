//! PID 1 and the net helper: what it is told, how ports stand by its word, and what that means for a trial.

use super::Driver;
use super::helpers::NET;
use super::said::net_says;
use crate::boot::Side;
use crate::control::PortStatus;
use crate::helpers::net::{self, Standing};
use crate::judge::Input;
use crate::log::Stream;
use kedge_revision::configuration::{NetworkConfiguration, Ports};

/// Most ports of which PID 1 keeps how they stand: as many as a configuration may list.
const MOST_PORTS: usize = 32;

/// What PID 1 knows of the device's network.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// How ports stand, by name, under the configuration of `number`.
    pub(super) ports: Vec<PortStatus>,
    number: u32,
    /// What of the next list has come.
    coming: Vec<PortStatus>,
    /// How many configurations the helper was given.
    asked: u32,
    /// A trial is judged that has another network than what was before.
    judged: bool,
}

impl Network {
    /// The helper has gone, and what it said with it.
    pub(super) fn forget(&mut self) {
        self.ports.clear();
        self.coming.clear();
    }

    /// Whether the device can be reached by what `wanted` says of its network, as far as it can be seen from inside; `None`:
    /// nothing is plugged in, or nothing is wanted, so that nothing can be said.
    fn stands(&self, wanted: &NetworkConfiguration) -> Option<bool> {
        if self.number != self.asked {
            return Some(false);
        }
        let linked = || self.ports.iter().filter(|port| port.link);
        // `lo` is no way in.
        let reached = |port: &PortStatus| port.name != "lo" && !port.addresses.is_empty();
        if linked().any(reached) {
            return Some(true);
        }
        if linked().next().is_some() {
            return Some(false);
        }
        let none_wanted =
            wanted.interfaces.is_empty() && (wanted.ports == Ports::Off || self.ports.is_empty());
        // Where interfaces are listed, none of them may be there at all.
        (self.ports.is_empty() && !none_wanted).then_some(false)
    }
}

impl Driver {
    /// The network as it is to be: of what runs, with the values of its parameters; in repair mode of what is committed.
    fn wanted_network(&self) -> NetworkConfiguration {
        match &self.boot.content {
            Some(content) => content
                .configuration
                .network
                .with_values(&self.boot.parameters),
            None => self
                .committed()
                .map_or_else(Default::default, |side| side.network()),
        }
    }

    /// Tells the net helper what is to be.
    pub(super) fn configure_network(&mut self) {
        self.network.asked = self.network.asked.wrapping_add(1);
        match net::configure(self.network.asked, &self.wanted_network()) {
            Some(frame) => self.send(NET, frame),
            None => self.say(Stream::Error, "network: the configuration is too large"),
        }
    }

    /// What the net helper says; what of it is worth telling a person.
    pub(super) fn net_reports(&mut self, frame: &[u8]) -> Option<(Stream, String)> {
        let Ok(Some(standing)) = Standing::decode(frame) else {
            return net_says(frame);
        };
        let network = &mut self.network;
        network.coming.extend(standing.port);
        network.coming.truncate(MOST_PORTS);
        if standing.last {
            network.ports = core::mem::take(&mut network.coming);
            network.number = standing.number;
            self.network_changed();
        }
        None
    }

    /// A trial is about to be judged: its network is judged with it if it is another one.
    pub(super) fn judge_network(&mut self) {
        self.network.judged = self.on_trial() && !self.same_network();
        self.network_changed();
    }

    fn network_changed(&mut self) {
        if self.network.judged {
            let stands = self.network.stands(&self.wanted_network());
            self.ask_judge(Input::Network { stands });
        }
    }

    /// Whether what runs has the network of what was, or is, committed.
    pub(super) fn same_network(&self) -> bool {
        let wanted = self.wanted_network();
        let same = |before: &Side| before.network() == wanted;
        match &self.update.before {
            Some(before) => same(before),
            None => self.committed().is_some_and(|before| same(&before)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(ports: &[(&str, bool, &[&str])]) -> Network {
        let port = |(name, link, addresses): &(&str, bool, &[&str])| PortStatus {
            name: (*name).to_owned(),
            link: *link,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..PortStatus::default()
        };
        Network {
            ports: ports.iter().map(port).collect(),
            ..Network::default()
        }
    }

    fn wanted(json: &str) -> NetworkConfiguration {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_can_be_said_of_a_network() {
        let automatic = wanted("{}");
        let listed = wanted(r#"{"interfaces":{"eth7":{"dhcp":true}}}"#);
        let off = wanted(r#"{"ports":"off"}"#);
        let address: &[&str] = &["10.0.2.15/24"];
        for (ports, wanted, stands) in [
            (network(&[("eth0", true, address)]), &automatic, Some(true)),
            (network(&[("eth0", true, &[])]), &automatic, Some(false)),
            // No cable is in: an address is worth nothing, and it is nobody's fault.
            (network(&[("eth0", false, address)]), &automatic, None),
            (
                network(&[("eth0", false, &[]), ("eth1", true, address)]),
                &listed,
                Some(true),
            ),
            (network(&[("lo", true, address)]), &listed, Some(false)),
            // The interface is not there.
            (network(&[]), &listed, Some(false)),
            (network(&[]), &automatic, None),
            (network(&[]), &off, None),
        ] {
            assert_eq!(ports.stands(wanted), stands, "{ports:?} {wanted:?}");
        }
        // What is said is about what was before.
        let mut stale = network(&[("eth0", true, address)]);
        stale.asked = 1;
        assert_eq!(stale.stands(&automatic), Some(false));
    }
}
