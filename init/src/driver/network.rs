//! PID 1 and the net helper: what it is told, how ports stand by its word, and what that means for a trial.

use super::Driver;
use super::helpers::NET;
use super::said::net_says;
use crate::boot::Side;
use crate::condition::Reach;
use crate::control::PortStatus;
use crate::helpers::net::pools::{Attach, Pools, detach};
use crate::helpers::net::{self, Standing};
use crate::judge::Input;
use crate::log::Stream;
use kedge_revision::configuration::NetworkConfiguration;
use kedge_revision::pool::hosts;
use kedge_revision::{Content, Name};
use kedge_sys::rustix::process::Pid;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Most ports of which PID 1 keeps how they stand: as many as a configuration may list, and containers' networks.
const MOST_PORTS: usize = 33;

/// What PID 1 knows of the device's network.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// How ports stand, by name, under the configuration of `number`; none: the helper has told nothing yet.
    pub(super) ports: Vec<PortStatus>,
    number: Option<u32>,
    /// What of the next list has come.
    coming: Vec<PortStatus>,
    /// How many configurations the helper was given.
    asked: u32,
    /// Whether the last of them lists interfaces.
    listed: bool,
    /// A trial is judged that has another network than what was before.
    judged: bool,
    /// A trial is judged that has other networks of containers' own, or published ports; or another network.
    pools_judged: bool,
}

impl Network {
    /// The helper has gone, and what it said with it.
    pub(super) fn forget(&mut self) {
        self.ports.clear();
        self.coming.clear();
        self.number = None;
    }

    /// Whether the device can be reached by what `wanted` says of its network, as far as it can be seen from inside; `None`:
    /// nothing is plugged in, or nothing is wanted, so that nothing can be said.
    fn stands(&self, wanted: &NetworkConfiguration) -> Option<bool> {
        self.stands_if(!wanted.interfaces.is_empty())
    }

    /// Whether something of containers' networks was refused.
    fn pools_fail(&self) -> bool {
        self.ports.iter().any(|port| port.name == net::POOLS)
    }

    /// What a trial is told, if it is judged by something of this.
    fn judged(&self, wanted: &NetworkConfiguration) -> Option<Input> {
        let stands = if self.pools_judged && self.pools_fail() {
            Some(false)
        } else if self.judged {
            self.stands(wanted)
        } else {
            None
        };
        (self.judged || self.pools_judged).then_some(Input::Network { stands })
    }

    /// How others can reach the device, by what the helper was told last.
    pub(super) fn reach(&self) -> Reach {
        if !self.is_told() {
            return Reach::Untold;
        }
        match self.stands_if(self.listed) {
            Some(true) => Reach::Up,
            Some(false) => Reach::NoAddress,
            None => Reach::Unplugged,
        }
    }

    /// Addresses under which others may reach the device, without prefix lengths.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        let linked = self
            .ports
            .iter()
            .filter(|port| port.link && port.name != "lo");
        let addresses = linked.flat_map(|port| &port.addresses);
        addresses.map(|address| address.split('/').next().unwrap_or_default())
    }

    /// Whether the helper has told how ports stand under the last configuration.
    fn is_told(&self) -> bool {
        self.number == Some(self.asked)
    }

    fn stands_if(&self, listed: bool) -> Option<bool> {
        if !self.is_told() {
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
        // Where interfaces are listed, none of them may be there at all.
        let is_none = self.ports.iter().all(|port| port.name == net::POOLS);
        (is_none && listed).then_some(false)
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
        let wanted = self.wanted_network();
        self.network.listed = !wanted.interfaces.is_empty();
        match net::configure(self.network.asked, &wanted) {
            Some(frame) => self.send(NET, frame),
            None => self.say(Stream::Error, "network: the configuration is too large"),
        }
        self.tell_pools();
    }

    /// Tells the net helper of networks of containers' own, and of the containers that are in them: one that starts again finds
    /// interfaces where its predecessor has put them.
    fn tell_pools(&mut self) {
        let content = self.boot.content.as_ref();
        if let Some(content) = content {
            for pool in content.configuration.networks.keys() {
                // Those who are in it have the file; it is made when the first of them starts.
                if hosts_file(pool).exists()
                    && let Err(error) = write_hosts(content, pool)
                {
                    let text = format!("names of the network {pool} cannot be written: {error}");
                    self.say(Stream::Error, &text);
                    break;
                }
            }
        }
        let content = self.boot.content.as_ref();
        let pools = content.map(Pools::of).unwrap_or_default();
        self.send(NET, pools.encode());
        for index in 0..self.units.len() {
            self.attach_to_pool(index);
        }
    }

    /// Hands the network namespace of a container in a pool to the net helper. Where there is none now, or it is slow,
    /// it is told of all when it has started.
    pub(super) fn attach_to_pool(&mut self, index: usize) {
        let Some(unit) = self.units.get(index) else {
            return;
        };
        let (Some(place), Some(running)) = (unit.definition.network.place(), &unit.running) else {
            return;
        };
        let pid = running.pid.as_raw_nonzero().get();
        // Not yet reaped, so that the number is its own. One that has ended has no namespaces any more.
        let Ok(namespace) = File::open(format!("/proc/{pid}/ns/net")) else {
            return;
        };
        let frame = Attach::new(pid.unsigned_abs(), place).encode();
        self.send_with(NET, frame, Some(namespace.into()));
    }

    /// Tells the net helper that a container has ended, in a pool or not: its definition may be another by now.
    pub(super) fn detach_from_pool(&mut self, pid: Pid) {
        self.send(NET, detach(pid.as_raw_nonzero().get().unsigned_abs()));
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
            network.number = Some(standing.number);
            self.network_changed();
        }
        None
    }

    /// A trial is about to be judged: its network is judged with it if it is another one.
    pub(super) fn judge_network(&mut self) {
        let is_trial = self.on_trial();
        self.network.judged = is_trial && !self.same_network();
        let pools = self.boot.content.as_ref().map(Pools::of);
        let same = |before: &Side| pools.as_ref() == Some(&Pools::of(&before.content));
        self.network.pools_judged = self.network.judged || is_trial && !self.is_before(&same);
        self.network_changed();
    }

    fn network_changed(&mut self) {
        if let Some(input) = self.network.judged(&self.wanted_network()) {
            self.ask_judge(input);
        }
    }

    /// Whether what runs has the network of what was, or is, committed, and the same networks of containers' own: one of those
    /// may be in the way of the device's.
    pub(super) fn same_network(&self) -> bool {
        let wanted = self.wanted_network();
        let content = self.boot.content.as_ref();
        let same = |before: &Side, content: &Content| {
            before.content.configuration.networks == content.configuration.networks
        };
        self.is_before(&|before| {
            // In repair mode nothing runs.
            before.network() == wanted && content.is_none_or(|content| same(before, content))
        })
    }

    /// Whether this holds of what was, or is, committed.
    fn is_before(&self, holds: &dyn Fn(&Side) -> bool) -> bool {
        match &self.update.before {
            Some(before) => holds(before),
            None => self.committed().is_some_and(|before| holds(&before)),
        }
    }
}

/// Where the containers of a pool find one another's names.
pub(super) fn hosts_file(pool: &Name) -> PathBuf {
    Path::new("/run/kedge/hosts").join(pool.as_str())
}

/// Writes it, in place: containers have the file itself mounted.
pub(super) fn write_hosts(content: &Content, pool: &Name) -> std::io::Result<()> {
    let path = hosts_file(pool);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = File::create(&path)?;
    file.write_all(hosts(content, pool).as_bytes())
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
            number: Some(0),
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
        // As the console and the LED have it.
        let mut shown = network(&[("lo", true, &["127.0.0.1/8"]), ("eth0", true, address)]);
        assert_eq!(shown.reach(), Reach::Up);
        assert_eq!(shown.addresses().collect::<Vec<_>>(), ["10.0.2.15"]);
        shown.forget();
        assert_eq!(shown.reach(), Reach::Untold);
        shown.number = Some(0);
        assert_eq!(shown.reach(), Reach::Unplugged);
        shown.listed = true;
        assert_eq!(shown.reach(), Reach::NoAddress);
        // What is refused of containers' networks is no port.
        shown.ports = network(&[(net::POOLS, false, &[])]).ports;
        assert_eq!(shown.reach(), Reach::NoAddress);
        shown.listed = false;
        assert_eq!(shown.reach(), Reach::Unplugged);
        // What is said is about what was before.
        let mut stale = network(&[("eth0", true, address)]);
        stale.asked = 1;
        assert_eq!(stale.stands(&automatic), Some(false));
        assert_eq!(stale.reach(), Reach::Untold);
        // Before the first word nothing is known, and no port is no good sign.
        assert_eq!(Network::default().reach(), Reach::Untold);
        assert_eq!(Network::default().stands(&automatic), Some(false));
    }

    #[test]
    fn what_a_trial_is_judged_by() {
        let automatic = wanted("{}");
        let address: &[&str] = &["10.0.2.15/24"];
        let good = [("eth0", true, address)];
        let refused = [("eth0", true, address), (net::POOLS, false, &[])];
        let cut = [("eth0", true, &[][..])];
        let said = |stands| Some(Input::Network { stands });
        for (ports, judged, pools_judged, input) in [
            (&good[..], false, false, None),
            (&refused, false, false, None),
            (&good, true, true, said(Some(true))),
            (&refused, true, true, said(Some(false))),
            (&cut, true, true, said(Some(false))),
            // Its pools are others, or its ports, and the network is what it was: its state is nobody's fault.
            (&good, false, true, said(None)),
            (&refused, false, true, said(Some(false))),
            (&cut, false, true, said(None)),
        ] {
            let mut network = network(ports);
            (network.judged, network.pools_judged) = (judged, pools_judged);
            assert_eq!(network.judged(&automatic), input, "{ports:?} {judged}");
        }
    }
}
