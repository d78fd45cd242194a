//! DHCP for the ports that lease their address: what [`super::dhcp`] decides is done here.

use super::dhcp::client::{Event, State};
use super::dhcp::message::{self, CLIENT_PORT, MAX_PACKET, Message, Reply};
use super::ports::{self, Port};
use super::{Error, Net, Report, now_ms};
use kedge_sys::memory::{Entropy, fill_random};
use kedge_sys::rustix::system::uname;
use kedge_sys::{Errno, packet};
use std::net::UdpSocket;

/// Most packets that are read before other work has its turn.
const MOST_PACKETS: usize = 16;

impl Net<'_> {
    /// Reads what DHCP servers say.
    pub(super) fn heard(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        for _ in 0..MOST_PACKETS {
            let Some(socket) = &self.packets else {
                return Ok(());
            };
            let buffer = buffer.get_mut(..MAX_PACKET).unwrap_or_default();
            let received = match packet::receive(socket, buffer) {
                Ok(received) => received,
                Err(error) if error.errno == Errno::AGAIN => return Ok(()),
                // Once for an interface that went down.
                Err(error) if matches!(error.errno, Errno::INTR | Errno::NETDOWN) => continue,
                Err(error) => return Err(Error::Netlink(error)),
            };
            let packet = buffer.get(..received.bytes).unwrap_or_default();
            let Some(reply) = Reply::from_packet(packet).filter(|_| !received.own) else {
                continue;
            };
            let to = |port: &Port| {
                port.index == received.interface && port.leases() == Some(reply.hardware)
            };
            let name = self.ports.iter().find(|(_, port)| to(port));
            if let Some(name) = name.map(|(name, _)| name.clone()) {
                self.dhcp(&name, Event::Reply(&reply))?;
            }
        }
        Ok(())
    }

    /// Does what clients have waited for, and tries again what the kernel refused.
    pub(super) fn time_passes(&mut self) -> Result<(), Error> {
        let now = now_ms();
        let is_due = |port: &Port| port.due().is_some_and(|due| due <= now);
        let due: Vec<String> = self
            .ports
            .iter()
            .filter(|(_, port)| is_due(port))
            .map(|(name, _)| name.clone())
            .collect();
        if self.bridges.refused.due().is_some_and(|at| at <= now) {
            self.make_pools()?;
        }
        for name in &due {
            self.retry(name, now)?;
            self.dhcp(name, Event::Time)?;
        }
        Ok(())
    }

    fn retry(&mut self, name: &str, now: u64) -> Result<(), Error> {
        let Some((name, mut port)) = self.ports.take(name) else {
            return Ok(());
        };
        if port.refused.due().is_some_and(|at| at <= now) {
            let wanted = port.wanted();
            if self.replace(&name, &mut port, &wanted)? {
                self.report(&Report::Applied { name: &name })?;
            }
        }
        self.ports.insert(name, port);
        Ok(())
    }

    /// One step of a port's client, if it has one.
    pub(super) fn dhcp(&mut self, name: &str, event: Event<'_>) -> Result<(), Error> {
        let Some((name, mut port)) = self.ports.take(name) else {
            return Ok(());
        };
        if port.leases().is_some() {
            self.listen(&name)?;
            let before = port.dhcp.lease().cloned();
            let (state, sent) = std::mem::take(&mut port.dhcp).step(event, now_ms(), random());
            port.dhcp = state;
            if !matches!(port.dhcp, State::Renewing(..)) {
                port.renewing = None;
            }
            if let Some(message) = sent {
                self.ask(&name, &mut port, &message)?;
            }
            let wanted = port.wanted();
            // What was refused has a time of its own.
            if port.given != wanted
                && (port.refused.due().is_none() || before.as_ref() != port.dhcp.lease())
            {
                self.replace(&name, &mut port, &wanted)?;
            }
            let lease = port.dhcp.lease();
            match (before, lease) {
                (None, Some(lease)) => {
                    let lease = &ports::told(lease);
                    self.report(&Report::Leased { name: &name, lease })?;
                }
                (Some(old), Some(lease)) if old.address != lease.address => {
                    let lease = &ports::told(lease);
                    self.report(&Report::Leased { name: &name, lease })?;
                }
                (Some(_), None) => self.report(&Report::Lost { name: &name })?,
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
        self.ports.insert(name, port);
        Ok(())
    }

    /// From the first client on.
    fn listen(&mut self, name: &str) -> Result<(), Error> {
        let Some(socket) = self.packets.as_ref().filter(|_| !self.listens) else {
            return Ok(());
        };
        match packet::listen(socket) {
            Ok(()) => self.listens = true,
            Err(error) => self.refused(name, "hear servers on", Error::Netlink(error))?,
        }
        Ok(())
    }

    /// Sends a message; one that cannot be sent is one that was lost, and is sent again.
    fn ask(&self, name: &str, port: &mut Port, message: &Message) -> Result<(), Error> {
        let (Some(hardware), Some(socket)) = (port.leases(), &self.packets) else {
            return Ok(());
        };
        let host = uname();
        let host = host.nodename().to_str().unwrap_or_default();
        let payload = message.encode(hardware, host);
        let sent = match (message.unicast, message.own) {
            (Some(server), Some(own)) => {
                // Bound to the port that servers answer to, so that the kernel does not tell them that nobody is there;
                // the answer itself is heard by the packet socket. Something else may have the port.
                let bound =
                    UdpSocket::bind((own, CLIENT_PORT)).or_else(|_| UdpSocket::bind((own, 0)));
                bound
                    .and_then(|socket| {
                        socket.send_to(&payload, ports::server(server))?;
                        port.renewing = Some(socket);
                        Ok(())
                    })
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
            _ => {
                let packet = message::broadcast_packet(message.own, &payload);
                packet::broadcast(socket, port.index, &packet).map_err(|error| error.errno)
            }
        };
        match sent {
            Ok(()) => Ok(()),
            Err(errno) => self.report(&Report::Failed {
                errno,
                name,
                doing: "ask for a lease on",
            }),
        }
    }
}

/// Different for every device and time, as far as the kernel can: early in the boot it may have little to go by, and
/// nothing secret hangs on it.
fn random() -> u32 {
    let mut bytes = [0; 4];
    // All zero is as good as any.
    fill_random(&mut bytes, Entropy::Now).ok();
    u32::from_ne_bytes(bytes)
}
