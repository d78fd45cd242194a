//! The `net` helper: interfaces as the revision configures them, and kept so.
//!
//! It brings `lo` up, sets addresses and default routes of the configured interfaces as they appear
//! (the kernel tells; nothing is polled), again when a link comes back, writes `resolv.conf`, and lets
//! containers with the device's network listen on low ports. It keeps `CAP_NET_ADMIN` and nothing
//! else. What it does not do yet: DHCP, VLANs, time. A setting that the kernel refuses is
//! reported and does not stop the others.

mod frames;
mod links;
mod rtnetlink;

pub use frames::{MAX_REPORT, Report, configure, decode_configure};

use super::{Error, confine};
use kedge_revision::configuration::NetworkConfiguration;
use kedge_sys::privilege::CapabilitySet;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::{Errno, sock};
use links::Links;
use rtnetlink::Netlink;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Largest frame from PID 1: 32 interfaces with 16 addresses each have less than 40 KiB.
pub const MAX_CONFIGURATION: usize = 64 * 1024;
/// Largest message about links, bytes: the kernel makes them no larger than the reader's buffer, and of 8 KiB first
/// (Linux `net/netlink/af_netlink.c`, netlink_dump).
const MAX_NEWS: usize = 16 * 1024;
/// Where host-network containers find their name servers.
pub const RESOLV_CONF: &str = "/run/kedge/resolv.conf";
/// From which port on no privilege is needed to listen.
const LOW_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The helper: confines itself and serves until PID 1 closes `socket`. The first frame is the configuration.
///
/// # Errors
/// [`Error::Privilege`], [`Error::Netlink`], [`Error::Socket`], [`Error::Frame`].
#[inline(never)]
pub fn run(socket: BorrowedFd<'_>, resolv_conf: &Path) -> Result<(), Error> {
    confine(CapabilitySet::NET_ADMIN)?;
    // Containers with the device's network have a user namespace of their own, whose
    // CAP_NET_BIND_SERVICE means nothing to it.
    if let Err(error) = overwrite(Path::new(LOW_PORTS), "0") {
        report_failure(socket, "", &error)?;
    }
    Net::new(socket, resolv_conf)?.serve()
}

struct Net<'a> {
    socket: BorrowedFd<'a>,
    resolv_conf: &'a Path,
    /// Asks and is answered.
    requests: Netlink,
    /// Is told of links.
    events: Netlink,
    links: Links,
    configuration: NetworkConfiguration,
}

impl<'a> Net<'a> {
    fn new(socket: BorrowedFd<'a>, resolv_conf: &'a Path) -> Result<Self, Error> {
        Ok(Self {
            socket,
            resolv_conf,
            // Events first: what changes between the listing and the listening is not missed.
            events: Netlink::open(rtnetlink::LINK_EVENTS)?,
            requests: Netlink::open(0)?,
            links: Links::default(),
            configuration: NetworkConfiguration::default(),
        })
    }

    fn serve(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; MAX_NEWS];
        loop {
            let mut waiting = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&self.events, PollFlags::IN),
            ];
            match poll(&mut waiting, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::Socket(kedge_sys::Error::new("poll", errno)));
                }
            }
            let [socket, events] = waiting.map(|fd| !fd.revents().is_empty());
            if socket && !self.receive(&mut buffer)? {
                return Ok(());
            }
            if events {
                self.changed(&mut buffer)?;
            }
        }
    }

    /// A new configuration; false: PID 1 has closed.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        // Its buffer is made as large as it is: most configurations have some hundred bytes.
        let length = match sock::pending(self.socket) {
            Ok(length) => length.min(MAX_CONFIGURATION),
            Err(error) if error.errno == Errno::INTR => return Ok(true),
            Err(error) if error.errno == Errno::CONNRESET => return Ok(false),
            Err(error) => return Err(Error::Socket(error)),
        };
        let mut frame = vec![0; length];
        let frame = match sock::receive(self.socket, &mut frame) {
            Ok(received) if received.bytes == 0 => return Ok(false),
            Ok(received) => frame.get(..received.bytes).unwrap_or_default(),
            Err(error) if error.errno == Errno::INTR => return Ok(true),
            Err(error) if error.errno == Errno::CONNRESET => return Ok(false),
            Err(error) => return Err(Error::Socket(error)),
        };
        self.configuration = decode_configure(frame).map_err(Error::Frame)?;
        if let Err(error) = overwrite(self.resolv_conf, &names(&self.configuration)) {
            report_failure(self.socket, "", &error)?;
        }
        if let Err(error) = self.requests.set_up(rtnetlink::LOOPBACK) {
            self.refused("lo", "bring up", error)?;
        }
        self.links = Links::default();
        self.list(buffer)?;
        Ok(true)
    }

    /// Looks at every link there is.
    fn list(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.requests.ask_links()?;
        // The listing is read to its end before anything else is asked over the same socket.
        let mut found = Vec::new();
        loop {
            let (links, done) = self.requests.links(buffer)?;
            found.extend(links.into_iter().filter(|link| self.is_configured(link)));
            if done {
                break;
            }
        }
        found.iter().try_for_each(|link| self.link(link))
    }

    fn is_configured(&self, link: &rtnetlink::Link) -> bool {
        self.configuration.interfaces.contains_key(&link.name)
    }

    fn changed(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        match self.events.links(buffer) {
            Ok((links, _)) => links.iter().try_for_each(|link| self.link(link)),
            // More happened than the socket holds: what is there now is what counts.
            Err(Error::Netlink(error)) if error.errno == Errno::NOBUFS => self.list(buffer),
            Err(Error::Netlink(error)) if matches!(error.errno, Errno::AGAIN | Errno::INTR) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of one link has changed, or not.
    fn link(&mut self, link: &rtnetlink::Link) -> Result<(), Error> {
        if !self.is_configured(link) {
            return Ok(());
        }
        let change = self.links.update(link);
        if change.apply {
            self.apply(link)?;
        }
        match change.carrier {
            Some(true) => self.report(&Report::Up { name: &link.name }),
            Some(false) => self.report(&Report::Down { name: &link.name }),
            None => Ok(()),
        }
    }

    /// Sets everything that the configuration has for a link; what is set already stays.
    fn apply(&self, link: &rtnetlink::Link) -> Result<(), Error> {
        let Some(interface) = self.configuration.interfaces.get(&link.name) else {
            return Ok(());
        };
        let name = link.name.as_str();
        let mut good = true;
        let mut outcome = |doing, done: Result<(), Error>| {
            done.or_else(|error| {
                good = false;
                self.refused(name, doing, error)
            })
        };
        outcome("bring up", self.requests.set_up(link.index))?;
        for prefix in &interface.addresses {
            let done = self
                .requests
                .add_address(link.index, prefix.address, prefix.length);
            outcome("give an address to", done)?;
        }
        for gateway in &interface.gateways {
            let done = self.requests.add_default_route(link.index, *gateway);
            outcome("route by", done)?;
        }
        if good {
            self.report(&Report::Applied { name })?;
        }
        Ok(())
    }

    /// A refusal of the kernel is reported; anything else ends the helper.
    fn refused(&self, name: &str, doing: &'static str, error: Error) -> Result<(), Error> {
        let errno = error.errno();
        if !matches!(error, Error::Netlink(_)) {
            return Err(error);
        }
        self.report(&Report::Failed { errno, name, doing })
    }

    fn report(&self, report: &Report<'_>) -> Result<(), Error> {
        sock::send(self.socket, &report.encode(), &[])
            .map(drop)
            .map_err(Error::Socket)
    }
}

fn report_failure(socket: BorrowedFd<'_>, name: &str, error: &Error) -> Result<(), Error> {
    let doing = &error.to_string();
    let errno = error.errno();
    let report = Report::Failed { errno, name, doing };
    sock::send(socket, &report.encode(), &[])
        .map(drop)
        .map_err(Error::Socket)
}

/// resolv.conf(5).
fn names(configuration: &NetworkConfiguration) -> String {
    let mut text = String::new();
    for server in &configuration.nameservers {
        // A string takes every write.
        if writeln!(text, "nameserver {server}").is_err() {
            break;
        }
    }
    text
}

/// Writes in place: containers have the file itself mounted, so another one by the same name would
/// not reach them. It lives in memory, so there is nothing to sync.
fn overwrite(path: &Path, text: &str) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create(!path.starts_with("/proc"))
        .truncate(true)
        .open(path)
        .and_then(|mut file: File| file.write_all(text.as_bytes()))
        .map_err(|source| Error::File {
            doing: "write",
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> NetworkConfiguration {
        serde_json::from_str(
            r#"{"interfaces":{"lo":{"addresses":["10.9.8.7/24","fd00::7/64"],"gateways":["10.9.8.1"]}},"nameservers":["10.0.2.3","fd00::1"]}"#,
        )
        .unwrap()
    }

    #[test]
    fn name_servers() {
        assert_eq!(
            names(&configuration()),
            "nameserver 10.0.2.3\nnameserver fd00::1\n"
        );
    }
}
