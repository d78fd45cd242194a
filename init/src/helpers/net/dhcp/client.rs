//! What a DHCP client does next: a pure machine (RFC 2131, figure 5).
//!
//! ```text
//!             link                 offer               ACK
//!   Down ─────────────▶ Selecting ───────▶ Requesting ─────▶ Bound ◀────────┐
//!    │ with a lease       ▲  ▲ ▲               │ NAK, silence   │ T1        │ ACK
//!    └──────▶ Rebooting ──┘  │ └───────────────┘                ▼           │
//!                 │ ACK   NAK, silence        NAK          Renewing ────────┤
//!                 └───────▶ Bound  ├───────────────────────────┤ T2         │
//!                                  └─ NAK, the lease is over ─ Rebinding ───┘
//! ```
//! Whatever the state, a link that goes leads to `Down`, which keeps the lease until it is over: a cable that was out for
//! a moment costs no connection. Silence after `Rebooting` may be another network, so it begins anew.

use super::message::{Answer, Message, Options, Question, Reply, is_host};
use core::net::Ipv4Addr;

/// How often an offered address is asked for, and one that the client had.
const REQUESTS: u32 = 4;
/// Likewise after the link came back.
const REBOOTS: u32 = 2;
/// Shortest lease that is taken, seconds: below, renewing would be all that happens.
const SHORTEST: u32 = 10;
/// Between two messages of a client whose lease ends, at least (RFC 2131, 4.4.5), milliseconds.
const RENEW_AGAIN_MS: u64 = 60_000;
/// Before a client that was refused begins anew, milliseconds.
const REFUSED_MS: u64 = 2000;

/// Bits of the network of an address whose server names no mask, or one with holes: that of its class, which is what hosts
/// are to take it for (RFC 950, 2.1; RFC 1122, 3.3.1.1), and what other clients do. As a host of its own the device would
/// not reach its router, and to refuse the lease would leave it without an address: both cut it off.
fn class(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..128, ..] => 8,
        [128..192, ..] => 16,
        [192..=255, ..] => 24,
    }
}

/// What a server has lent; times are milliseconds of the clock that [`State::step`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its prefix.
    pub prefix: u8,
    /// Whose it is.
    pub server: Ipv4Addr,
    /// What it brings.
    pub options: Options,
    /// T1: from then on the server is asked for more time.
    pub renew_at: u64,
    /// T2: from then on any server is.
    pub rebind_at: u64,
    /// From then on it must not be used.
    pub expires_at: u64,
}

impl Lease {
    /// Whether its router is in its network, if it has one.
    #[must_use]
    pub fn covers_router(&self) -> bool {
        let mask = u32::MAX
            .checked_shl(32_u32.saturating_sub(self.prefix.into()))
            .unwrap_or(0);
        let differs = |router: Ipv4Addr| (router.to_bits() ^ self.address.to_bits()) & mask != 0;
        !self.options.router.is_some_and(differs)
    }
}

/// An exchange that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    xid: u32,
    began: u64,
    sent: u32,
    again_at: u64,
}

/// Where the client stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// There is no link.
    #[default]
    Nothing,
    /// There is no link now; what was leased may still be.
    Down(Lease),
    /// Waits before it begins (anew).
    Waiting {
        /// Until then.
        until: u64,
    },
    /// Looks for servers.
    Selecting(Exchange),
    /// Takes an offer.
    Requesting {
        /// The question.
        exchange: Exchange,
        /// Which address.
        address: Ipv4Addr,
        /// Whose.
        server: Ipv4Addr,
    },
    /// Asks whether a lease from before the link went still holds.
    Rebooting(Exchange, Lease),
    /// Has a lease.
    Bound(Lease),
    /// Asks its server for more time.
    Renewing(Exchange, Lease),
    /// Asks any server for more time.
    Rebinding(Exchange, Lease),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The link came.
    Up,
    /// The link went.
    Down,
    /// A server says something.
    Reply(&'a Reply),
    /// Time passed.
    Time,
}

impl State {
    /// What may be used now.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Down(lease)
            | Self::Rebooting(_, lease)
            | Self::Bound(lease)
            | Self::Renewing(_, lease)
            | Self::Rebinding(_, lease) => Some(lease),
            Self::Nothing | Self::Waiting { .. } | Self::Selecting(_) | Self::Requesting { .. } => {
                None
            }
        }
    }

    /// When [`Event::Time`] changes something.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        let at = match self {
            Self::Nothing => return None,
            Self::Down(lease) => lease.expires_at,
            Self::Waiting { until } => *until,
            Self::Selecting(exchange) | Self::Requesting { exchange, .. } => exchange.again_at,
            Self::Rebooting(exchange, lease) => exchange.again_at.min(lease.expires_at),
            Self::Bound(lease) => lease.renew_at,
            Self::Renewing(exchange, lease) => exchange.again_at.min(lease.rebind_at),
            Self::Rebinding(exchange, lease) => exchange.again_at.min(lease.expires_at),
        };
        // A lease for ever.
        (at != u64::MAX).then_some(at)
    }

    /// The state as a word, for people.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Nothing | Self::Down(_) => "down",
            Self::Waiting { .. } | Self::Selecting(_) => "selecting",
            Self::Requesting { .. } => "requesting",
            Self::Rebooting(..) => "rebooting",
            Self::Bound(_) => "bound",
            Self::Renewing(..) => "renewing",
            Self::Rebinding(..) => "rebinding",
        }
    }

    /// The next state, and what is to be sent; `random` differs each time.
    #[must_use]
    pub fn step(self, event: Event<'_>, now: u64, random: u32) -> (Self, Option<Message>) {
        let valid = self.lease().is_none_or(|lease| now < lease.expires_at);
        match event {
            Event::Up => match self {
                Self::Down(lease) if valid => reboot(Exchange::new(now, random), lease),
                Self::Nothing | Self::Down(_) => discover(Exchange::new(now, random)),
                Self::Waiting { .. }
                | Self::Selecting(_)
                | Self::Requesting { .. }
                | Self::Rebooting(..)
                | Self::Bound(_)
                | Self::Renewing(..)
                | Self::Rebinding(..) => (self, None),
            },
            Event::Down => match self.into_lease() {
                Some(lease) if valid => (Self::Down(lease), None),
                Some(_) | None => (Self::Nothing, None),
            },
            Event::Reply(reply) => (self.answered(reply, now, random), None),
            Event::Time if self.due().is_none_or(|due| now < due) => (self, None),
            Event::Time => self.late(now, random),
        }
    }

    fn into_lease(self) -> Option<Lease> {
        match self {
            Self::Down(lease)
            | Self::Rebooting(_, lease)
            | Self::Bound(lease)
            | Self::Renewing(_, lease)
            | Self::Rebinding(_, lease) => Some(lease),
            Self::Nothing | Self::Waiting { .. } | Self::Selecting(_) | Self::Requesting { .. } => {
                None
            }
        }
    }

    /// What waited is due.
    fn late(self, now: u64, random: u32) -> (Self, Option<Message>) {
        match self {
            Self::Nothing | Self::Down(_) => (Self::Nothing, None),
            Self::Waiting { .. } => discover(Exchange::new(now, random)),
            Self::Selecting(exchange) => discover(exchange.again(now, random)),
            Self::Requesting {
                exchange,
                address,
                server,
            } if exchange.sent < REQUESTS => request(exchange.again(now, random), address, server),
            Self::Rebooting(exchange, lease)
                if exchange.sent < REBOOTS && now < lease.expires_at =>
            {
                reboot(exchange.again(now, random), lease)
            }
            Self::Requesting { .. } | Self::Rebooting(..) => discover(Exchange::new(now, random)),
            Self::Bound(lease) => renew(Exchange::new(now, random), lease, now, random),
            Self::Renewing(exchange, lease) | Self::Rebinding(exchange, lease) => {
                renew(exchange, lease, now, random)
            }
        }
    }

    /// What a server said, if it was asked.
    fn answered(self, reply: &Reply, now: u64, random: u32) -> Self {
        let (exchange, server) = match &self {
            Self::Selecting(exchange) => (exchange, None),
            Self::Requesting {
                exchange, server, ..
            } => (exchange, Some(*server)),
            Self::Rebooting(exchange, lease)
            | Self::Renewing(exchange, lease)
            | Self::Rebinding(exchange, lease) => (exchange, Some(lease.server)),
            Self::Nothing | Self::Down(_) | Self::Waiting { .. } | Self::Bound(_) => return self,
        };
        if exchange.xid != reply.xid {
            return self;
        }
        // The server may count from when it was asked.
        let began = exchange.began.min(now);
        match (reply.answer, server) {
            (Answer::Offer, None) => match offer(reply) {
                Some((address, server)) => Self::Requesting {
                    // It is due at once, and sent as everything that is due.
                    exchange: Exchange {
                        began: now,
                        sent: 0,
                        again_at: now,
                        ..*exchange
                    },
                    address,
                    server,
                },
                None => self,
            },
            // It counts from the question, and may be over when its answer comes late.
            (Answer::Ack, Some(server)) => lease(reply, server, began)
                .filter(|lease| now < lease.expires_at)
                .map_or(self, Self::Bound),
            // Not for another server to say.
            (Answer::Nak, Some(server))
                if matches!(self, Self::Requesting { .. })
                    && reply.server.is_some_and(|from| from != server) =>
            {
                self
            }
            (Answer::Nak, Some(_)) => Self::Waiting {
                until: now
                    .saturating_add(REFUSED_MS)
                    .saturating_add(jitter(random)),
            },
            (Answer::Offer, Some(_)) | (Answer::Ack | Answer::Nak, None) => self,
        }
    }
}

impl Exchange {
    /// The first message is sent now.
    fn new(now: u64, random: u32) -> Self {
        Self {
            xid: random,
            began: now,
            sent: 1,
            again_at: now.saturating_add(back_off(1, random)),
        }
    }

    /// One more message is sent now.
    fn again(self, now: u64, random: u32) -> Self {
        let sent = self.sent.saturating_add(1);
        Self {
            sent,
            again_at: now.saturating_add(back_off(sent, random)),
            ..self
        }
    }
}

/// After the n-th message: 4, 8, 16, 32, then 64 s, each a second more or less (RFC 2131, 4.1).
fn back_off(sent: u32, random: u32) -> u64 {
    let seconds = 4000_u64 << sent.saturating_sub(1).min(4);
    seconds.saturating_sub(1000).saturating_add(jitter(random))
}

/// Up to two seconds.
fn jitter(random: u32) -> u64 {
    u64::from(random % 2000)
}

fn message(question: Question, exchange: &Exchange, now: u64) -> Message {
    let seconds = now.saturating_sub(exchange.began) / 1000;
    Message {
        question,
        xid: exchange.xid,
        seconds: u16::try_from(seconds).unwrap_or(u16::MAX),
        own: None,
        requested: None,
        server: None,
        unicast: None,
    }
}

fn discover(exchange: Exchange) -> (State, Option<Message>) {
    let sent = message(Question::Discover, &exchange, exchange.began);
    (State::Selecting(exchange), Some(sent))
}

fn request(exchange: Exchange, address: Ipv4Addr, server: Ipv4Addr) -> (State, Option<Message>) {
    let sent = Message {
        requested: Some(address),
        server: Some(server),
        ..message(Question::Request, &exchange, exchange.began)
    };
    let state = State::Requesting {
        exchange,
        address,
        server,
    };
    (state, Some(sent))
}

fn reboot(exchange: Exchange, lease: Lease) -> (State, Option<Message>) {
    let sent = Message {
        requested: Some(lease.address),
        ..message(Question::Request, &exchange, exchange.began)
    };
    (State::Rebooting(exchange, lease), Some(sent))
}

/// Asks for more time: the server until T2, anyone until the end; then the lease is over. The next message follows after
/// half of what is left.
fn renew(exchange: Exchange, lease: Lease, now: u64, random: u32) -> (State, Option<Message>) {
    if now >= lease.expires_at {
        return discover(Exchange::new(now, random));
    }
    let rebinding = now >= lease.rebind_at;
    let end = if rebinding {
        lease.expires_at
    } else {
        lease.rebind_at
    };
    let half = end.saturating_sub(now) / 2;
    let exchange = Exchange {
        // An answer to an earlier message is one to this.
        began: now,
        again_at: now.saturating_add(half.max(RENEW_AGAIN_MS)),
        ..exchange
    };
    let sent = Message {
        own: Some(lease.address),
        unicast: (!rebinding).then_some(lease.server),
        ..message(Question::Request, &exchange, now)
    };
    let state = if rebinding {
        State::Rebinding(exchange, lease)
    } else {
        State::Renewing(exchange, lease)
    };
    (state, Some(sent))
}

/// What an offer offers, if it can be taken.
fn offer(reply: &Reply) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let server = reply.server?;
    lease(reply, server, 0).map(|lease| (lease.address, server))
}

/// The lease of an answer; `None` for one that cannot be used.
fn lease(reply: &Reply, known: Ipv4Addr, began: u64) -> Option<Lease> {
    let seconds = reply.lease.filter(|seconds| *seconds >= SHORTEST)?;
    if !is_host(&reply.address) {
        return None;
    }
    // T1 and T2 where they are in order, else the defaults of RFC 2131, 4.4.5.
    let (renew, rebind) = match (reply.renew, reply.rebind) {
        (Some(renew), Some(rebind)) if 0 < renew && renew < rebind && rebind < seconds => {
            (renew, rebind)
        }
        _ => (seconds / 2, seconds.saturating_sub(seconds / 8)),
    };
    let at = |after: u32| match seconds {
        // For ever.
        u32::MAX => u64::MAX,
        _ => began.saturating_add(u64::from(after).saturating_mul(1000)),
    };
    Some(Lease {
        address: reply.address,
        prefix: reply.options.prefix.unwrap_or_else(|| class(reply.address)),
        server: reply.server.unwrap_or(known),
        options: reply.options.clone(),
        renew_at: at(renew),
        rebind_at: at(rebind),
        expires_at: at(seconds),
    })
}

#[cfg(test)]
mod tests;
