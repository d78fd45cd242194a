//! A client that is driven by hand, and one that is driven by chance.

use super::*;
use proptest::prelude::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 9);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

fn reply(answer: Answer, xid: u32) -> Reply {
    Reply {
        answer,
        xid,
        hardware: [0; 6],
        address: ADDRESS,
        server: Some(SERVER),
        lease: Some(1000),
        renew: None,
        rebind: None,
        options: Options {
            prefix: Some(24),
            ..Options::default()
        },
    }
}

/// A client that is driven by hand: its state, the time, the last exchange.
struct Client {
    state: State,
    now: u64,
    xid: u32,
}

impl Client {
    fn new() -> Self {
        Self {
            state: State::Nothing,
            now: 5000,
            xid: 0,
        }
    }

    fn does(&mut self, event: Event<'_>) -> Option<Message> {
        let state = std::mem::take(&mut self.state);
        let (state, sent) = state.step(event, self.now, 42_000);
        self.state = state;
        self.xid = sent.map_or(self.xid, |message| message.xid);
        sent
    }

    /// Until the next due time.
    fn late(&mut self) -> Option<Message> {
        self.now = self.now.max(self.state.due().unwrap());
        self.does(Event::Time)
    }

    fn hears(&mut self, answer: Answer) {
        let reply = reply(answer, self.xid);
        assert_eq!(self.does(Event::Reply(&reply)), None);
    }

    fn word(&self) -> &'static str {
        self.state.word()
    }

    fn bound() -> Self {
        let mut client = Self::new();
        client.does(Event::Up).unwrap();
        client.hears(Answer::Offer);
        client.late().unwrap();
        client.hears(Answer::Ack);
        assert_eq!(client.word(), "bound");
        client
    }
}

#[test]
fn a_lease_and_its_renewals() {
    let mut client = Client::new();
    assert_eq!((client.state.due(), client.word()), (None, "down"));
    let sent = client.does(Event::Up).unwrap();
    assert_eq!(sent.question, Question::Discover);
    client.hears(Answer::Offer);
    // At once.
    assert_eq!(client.state.due(), Some(5000));
    let sent = client.late().unwrap();
    assert_eq!(sent.requested, Some(ADDRESS));
    assert_eq!(
        (sent.server, sent.own, sent.unicast),
        (Some(SERVER), None, None)
    );
    client.now += 300;
    client.hears(Answer::Ack);
    let lease = client.state.lease().unwrap().clone();
    assert_eq!((lease.address, lease.prefix), (ADDRESS, 24));
    // Times count from the request, not from its answer.
    let times = (lease.renew_at, lease.rebind_at, lease.expires_at);
    assert_eq!(times, (505_000, 880_000, 1_005_000));
    let sent = client.late().unwrap();
    assert_eq!(client.word(), "renewing");
    assert_eq!((sent.own, sent.unicast), (Some(ADDRESS), Some(SERVER)));
    assert_eq!((sent.requested, sent.server), (None, None));
    // Half of what is left until T2.
    assert_eq!(client.state.due(), Some(505_000 + 187_500));
    client.hears(Answer::Ack);
    assert_eq!(client.state.lease().unwrap().expires_at, 1_505_000);
}

#[test]
fn a_server_that_is_gone() {
    let mut client = Client::bound();
    let mut words = Vec::new();
    while client.state.lease().is_some() {
        let sent = client.late().unwrap();
        words.push((client.word(), sent.unicast.is_some()));
    }
    assert_eq!(
        words,
        [
            ("renewing", true),
            ("renewing", true),
            ("renewing", true),
            ("renewing", true),
            ("rebinding", false),
            ("rebinding", false),
            ("rebinding", false),
            ("selecting", false)
        ]
    );
    assert_eq!(client.now, 1_005_000);
    let mut client = Client::bound();
    while client.word() != "rebinding" {
        client.late();
    }
    let mut other = reply(Answer::Ack, client.xid);
    other.server = Some(OTHER);
    client.does(Event::Reply(&other));
    assert_eq!(client.state.lease().unwrap().server, OTHER);
}

#[test]
fn a_refusal_begins_anew_after_a_while() {
    for steps in 0..3 {
        let mut client = Client::bound();
        match steps {
            0 => drop(client.late()),
            1 => {
                while client.word() != "rebinding" {
                    client.late();
                }
            }
            _ => {
                client.does(Event::Down);
                client.does(Event::Up);
                assert_eq!(client.word(), "rebooting");
            }
        }
        client.hears(Answer::Nak);
        assert_eq!(client.state.lease(), None);
        assert!(client.state.due().unwrap() >= client.now + REFUSED_MS);
        assert_eq!(client.late().unwrap().question, Question::Discover);
    }
    let mut client = Client::new();
    client.does(Event::Up);
    client.hears(Answer::Offer);
    client.late();
    // Not from a server that was not asked.
    let mut nak = reply(Answer::Nak, client.xid);
    nak.server = Some(OTHER);
    client.does(Event::Reply(&nak));
    assert_eq!(client.word(), "requesting");
    client.hears(Answer::Nak);
    assert_eq!(client.word(), "selecting");
    assert!(client.state.lease().is_none());
}

#[test]
fn a_link_that_comes_and_goes() {
    let mut client = Client::bound();
    assert_eq!(client.does(Event::Up), None);
    client.does(Event::Down);
    assert_eq!(client.state.lease().unwrap().address, ADDRESS);
    assert_eq!(client.state.due(), Some(1_005_000));
    let sent = client.does(Event::Up).unwrap();
    assert_eq!(sent.requested, Some(ADDRESS));
    assert_eq!((sent.server, sent.own), (None, None));
    client.hears(Answer::Ack);
    assert_eq!(client.word(), "bound");
    // Nobody answers: it may be another network.
    client.does(Event::Down);
    client.does(Event::Up);
    assert!(client.late().is_some() && client.word() == "rebooting");
    assert_eq!(client.late().unwrap().question, Question::Discover);
    assert_eq!(client.state.lease(), None);
    // The lease ends while the link is down.
    let mut client = Client::bound();
    client.does(Event::Down);
    assert_eq!(client.late(), None);
    assert_eq!(client.state, State::Nothing);
    let mut client = Client::bound();
    client.does(Event::Down);
    client.now = 2_000_000;
    assert_eq!(client.does(Event::Up).unwrap().question, Question::Discover);
    client.does(Event::Down);
    assert_eq!(client.state, State::Nothing);
}

#[test]
fn silence_is_asked_into_less_and_less_often() {
    let mut client = Client::new();
    client.does(Event::Up);
    let mut waits = Vec::new();
    for _ in 0..7 {
        let before = client.now;
        let sent = client.late().unwrap();
        assert_eq!(sent.question, Question::Discover);
        waits.push((client.now - before).div_ceil(1000));
    }
    assert_eq!(waits, [3, 7, 15, 31, 63, 63, 63]);
    client.hears(Answer::Offer);
    for _ in 0..REQUESTS {
        assert_eq!(client.late().unwrap().question, Question::Request);
    }
    assert_eq!(client.late().unwrap().question, Question::Discover);
}

#[test]
fn what_is_not_taken() {
    let edits: [fn(&mut Reply); 6] = [
        |reply| reply.xid += 1,
        |reply| reply.server = None,
        |reply| reply.lease = None,
        |reply| reply.lease = Some(SHORTEST - 1),
        |reply| reply.address = Ipv4Addr::UNSPECIFIED,
        |reply| reply.address = Ipv4Addr::new(224, 0, 0, 1),
    ];
    for edit in edits {
        let mut client = Client::new();
        client.does(Event::Up);
        let mut bad = reply(Answer::Offer, client.xid);
        edit(&mut bad);
        client.does(Event::Reply(&bad));
        assert_eq!(client.word(), "selecting");
    }
    // Not asked for.
    let mut client = Client::bound();
    let before = client.state.clone();
    for answer in [Answer::Offer, Answer::Ack, Answer::Nak] {
        client.hears(answer);
        assert_eq!(client.state, before);
    }
}

#[test]
fn times_of_the_server() {
    let times = |renew, rebind, seconds| {
        let mut ack = reply(Answer::Ack, 0);
        (ack.renew, ack.rebind, ack.lease) = (Some(renew), Some(rebind), Some(seconds));
        let lease = lease(&ack, SERVER, 0).unwrap();
        (lease.renew_at, lease.rebind_at, lease.expires_at)
    };
    assert_eq!(times(3, 6, 120), (3000, 6000, 120_000));
    for (renew, rebind) in [(0, 6), (6, 6), (7, 6), (3, 120), (130, 140)] {
        assert_eq!(times(renew, rebind, 120), (60_000, 105_000, 120_000));
    }
    assert_eq!(times(3, 6, u32::MAX), (u64::MAX, u64::MAX, u64::MAX));
    let forever = State::Bound(lease(&reply(Answer::Ack, 0), SERVER, 0).unwrap());
    assert!(forever.due().is_some());
}

#[test]
fn without_a_mask_it_is_that_of_the_class() {
    for (address, prefix) in [
        ([10, 0, 2, 15], 8),
        ([127, 255, 255, 255], 8),
        ([128, 0, 0, 1], 16),
        ([172, 16, 0, 9], 16),
        ([192, 168, 1, 10], 24),
        ([223, 1, 1, 1], 24),
    ] {
        assert_eq!(class(address.into()), prefix);
    }
    let mut ack = reply(Answer::Ack, 0);
    ack.options.prefix = None;
    assert_eq!(lease(&ack, SERVER, 0).unwrap().prefix, 8);
    ack.options.prefix = Some(32);
    ack.options.router = Some(SERVER);
    let host = lease(&ack, SERVER, 0).unwrap();
    assert_eq!((host.prefix, host.covers_router()), (32, false));
    ack.options.prefix = Some(24);
    assert!(lease(&ack, SERVER, 0).unwrap().covers_router());
}

/// Found by chance: the answer to a question of half a minute ago lent the address for ten seconds.
#[test]
fn a_lease_that_is_over_when_it_comes_is_none() {
    let mut client = Client::bound();
    client.late().unwrap();
    client.now += 30_000;
    let before = client.state.clone();
    for (seconds, word) in [(10, "renewing"), (30, "renewing"), (31, "bound")] {
        let mut late = reply(Answer::Ack, client.xid);
        late.lease = Some(seconds);
        client.does(Event::Reply(&late));
        assert_eq!(client.word(), word, "{seconds} s");
        assert!(word == "bound" || client.state == before);
    }
}

/// What happens to a client, and how long it waits before, milliseconds.
#[derive(Debug, Clone)]
enum Happens {
    Up,
    Down,
    /// To the exchange that is under way, or to another one.
    Reply(Box<Reply>, bool),
}

fn happenings() -> impl Strategy<Value = Vec<(u64, Happens)>> {
    let answers = prop_oneof![Just(Answer::Offer), Just(Answer::Ack), Just(Answer::Nak)];
    let seconds = || proptest::option::of(prop_oneof![0_u32..40, 0_u32..2000, any::<u32>()]);
    let server = proptest::option::of(prop_oneof![Just(SERVER), Just(OTHER)]);
    let replies = (answers, server, seconds(), seconds(), seconds(), 0_u8..4);
    let replies = replies.prop_map(|(answer, server, lease, renew, rebind, other)| {
        let reply = Reply {
            server,
            lease,
            renew,
            rebind,
            ..reply(answer, 0)
        };
        Happens::Reply(Box::new(reply), other > 0)
    });
    let happens = prop_oneof![1 => Just(Happens::Up), 1 => Just(Happens::Down), 20 => replies];
    // Mostly at once, as a server that means harm answers; at times after hours.
    let wait = prop_oneof![6 => 0_u64..50, 2 => 0_u64..10_000, 1 => 0_u64..4_000_000];
    proptest::collection::vec((wait, happens), 0..120)
}

/// A client as the shell runs it: never asked later than it is due. Each message with the time at which it was sent.
#[derive(Default)]
struct Life {
    state: State,
    now: u64,
    xid: u32,
    random: u32,
    sent: Vec<u64>,
    ups: Vec<u64>,
}

impl Life {
    fn does(&mut self, event: Event<'_>) {
        self.random = self
            .random
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        let (state, sent) = std::mem::take(&mut self.state).step(event, self.now, self.random);
        self.state = state;
        if let Some(message) = sent {
            self.xid = message.xid;
            self.sent.push(self.now);
        }
        if let Some(lease) = self.state.lease() {
            assert!(
                self.now < lease.expires_at,
                "{:?} at {}",
                self.state,
                self.now
            );
        }
    }

    fn until(&mut self, until: u64) {
        let mut steps = 0;
        while let Some(due) = self.state.due().filter(|due| *due <= until) {
            // What is due changes something: the same moment comes once, and once more for an offer that is taken.
            steps = if due > self.now { 0 } else { steps + 1 };
            assert!(steps < 4, "it turns around in {:?}", self.state);
            self.now = self.now.max(due);
            self.does(Event::Time);
        }
        self.now = until;
    }
}

proptest! {
    /// Whatever happens: an address is never used after its lease, something is always due while there is a link, and
    /// nobody can make the client send more than two messages a second for long: a server that offers and refuses makes it
    /// wait each time, and one that lends for a moment is asked again once a second at most. Links that come are its own.
    #[test]
    fn any_life(happenings in happenings(), random in any::<u32>()) {
        let (mut life, mut up) = (Life { random, ..Life::default() }, false);
        for (wait, happens) in happenings {
            life.until(life.now + wait);
            match happens {
                Happens::Up => {
                    up = true;
                    life.ups.push(life.now);
                    life.does(Event::Up);
                }
                Happens::Down => {
                    up = false;
                    life.does(Event::Down);
                }
                Happens::Reply(mut reply, ours) => {
                    reply.xid = if ours { life.xid } else { life.xid ^ 1 };
                    let before = life.sent.len();
                    life.does(Event::Reply(&reply));
                    prop_assert_eq!(before, life.sent.len());
                }
            }
            prop_assert_eq!(up, !matches!(life.state, State::Nothing | State::Down(_)));
            let forever = life.state.lease().is_some_and(|lease| lease.expires_at == u64::MAX);
            prop_assert!(!up || forever || life.state.due().is_some());
        }
        life.until(life.now + 100_000);
        let within = |times: &[u64], from: u64| {
            times.iter().filter(|at| (from..from + 10_000).contains(at)).count()
        };
        for from in &life.sent {
            let most = 20 + 2 * within(&life.ups, from.saturating_sub(1000));
            let sent = within(&life.sent, *from);
            prop_assert!(sent <= most, "{sent} messages in 10 s: {:?}", life.sent);
        }
    }
}
