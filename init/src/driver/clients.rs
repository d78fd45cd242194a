//! Clients of the control API: those of sockets, and the one of a virtual machine's port.
//!
//! Each is a [`Connection`] with its descriptor; this module moves bytes between the two and
//! never waits. A client that reads nothing is held back by its connection's own bounds; those that are more
//! than [`MAX_CONNECTIONS`] and [`CONNECTIONS_OF_ONE`] allow are told that PID 1 is busy.
//!
//! A port without a client on the host reports a hang-up for ever, so it alone is watched for edges.

use crate::control::{
    self, CONNECTIONS_OF_ONE, Call, Connection, MAX_CONNECTIONS, Role, Transport,
};
use crate::driver::agent::LISTENER as AGENT;
use crate::driver::poller::{Poller, Ready, Token};
use crate::driver::sticks::LISTENER as STICKS;
use crate::error::Error;
use crate::log::Journal;
use kedge_sys::inbox::{Doorstep, Inbox};
use kedge_sys::rustix::io::{Errno, read, write};
use kedge_sys::sock;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A control socket that is listened on.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Doorstep,
    role: Role,
}

impl Listener {
    /// Binds a control socket that gives `role` to whoever can open it.
    pub(crate) fn bind(path: &Path, role: Role, mode: u32) -> Result<Self, Error> {
        std::fs::remove_file(path).ok();
        let socket = sock::bind(path, sock::Kind::Stream, mode)
            .map_err(|error| Error::file("bind", path)(error.errno))?;
        Ok(Self {
            socket: Doorstep::new(socket),
            role,
        })
    }

    /// Watches for clients no more.
    pub(crate) fn forget(&self, poller: &Poller) {
        poller.forget(&self.socket);
    }

    /// Watches for clients.
    pub(crate) fn watch(&self, poller: &Poller, index: u16) -> Result<(), Error> {
        poller.watch(&self.socket, Token::Listener(index))
    }
}

/// What a client is spoken with by.
#[derive(Debug)]
enum Line {
    Socket(Inbox),
    /// A virtual machine's port: a device, over which nobody sends descriptors.
    Port(OwnedFd),
}

impl Line {
    fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Port(fd) => read(fd, into),
            Self::Socket(socket) => {
                let taken = socket.take(into).map_err(|error| error.errno)?;
                // Nothing is asked with descriptors, and who sends them is told so by the end.
                if taken.descriptors {
                    return Err(Errno::BADMSG);
                }
                Ok(taken.bytes)
            }
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.as_fd(),
            Self::Port(fd) => fd.as_fd(),
        }
    }
}

#[derive(Debug)]
struct Client {
    fd: Line,
    connection: Connection,
    /// Whose socket it came by: index of the listener.
    listener: u16,
    /// What the poller was last asked for.
    interest: (bool, bool),
    /// Tells it from others that had its slot: an answer that comes late must not go to another client.
    generation: u32,
}

/// Number of the device's own listener; containers' are those of their units, and one more.
const DEVICE: u16 = 0;
/// Clients that one event of a listener takes.
const MOST_ACCEPTED: usize = 64;

/// Calls of a client that one turn answers: many requests in one packet take turns with everyone else.
const MOST_CALLS: usize = 16;
/// A time that has passed, milliseconds since the boot.
const LONG_AGO: u64 = 1;

/// All clients, by slot.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    slots: Vec<Option<Client>>,
    port: Option<Client>,
    accepted: u32,
    /// Those that have asked for more than one turn answers.
    held: Vec<ClientId>,
}

/// Which client a call came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientId {
    /// One of the socket clients.
    Slot(u16),
    /// The virtual machine's port.
    Port,
}

impl ClientId {
    fn token(self) -> Token {
        match self {
            Self::Slot(index) => Token::Client(index),
            Self::Port => Token::Port,
        }
    }
}

impl Clients {
    /// Takes every client that waits at a listener.
    pub(crate) fn accept(&mut self, by: u16, listener: &Listener, poller: &Poller) {
        // Bounded: whoever connects without end takes turns with everyone else.
        for _ in 0..MOST_ACCEPTED {
            let Ok(Some(fd)) = listener.socket.accept() else {
                return;
            };
            let Some(index) = self.free_slot(by) else {
                // A short answer fits every socket's buffer; a client that does not get it sees the end.
                write(&fd, control::busy()).ok();
                continue;
            };
            let id = ClientId::Slot(index);
            if poller.watch(&fd, id.token()).is_err() {
                continue;
            }
            self.accepted = self.accepted.wrapping_add(1);
            let client = Client {
                fd: Line::Socket(fd),
                listener: by,
                connection: Connection::new(listener.role, Transport::Socket),
                interest: (true, false),
                generation: self.accepted,
            };
            if let Some(slot) = self.slots.get_mut(usize::from(index)) {
                *slot = Some(client);
            }
        }
    }

    fn free_slot(&mut self, by: u16) -> Option<u16> {
        let is_container = |by| ![DEVICE, AGENT, STICKS].contains(&by);
        let taken = |of: &dyn Fn(u16) -> bool| {
            let all = self.slots.iter().flatten();
            all.filter(|client| of(client.listener)).count()
        };
        let own = taken(&|other| other == by);
        if own >= CONNECTIONS_OF_ONE
            || own > 0 && is_container(by) && taken(&is_container) >= MAX_CONNECTIONS
        {
            return None;
        }
        let index = match self.slots.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.slots.push(None);
                self.slots.len().saturating_sub(1)
            }
        };
        u16::try_from(index).ok()
    }

    /// Serves the control API on a virtual machine's port, for development products.
    pub(crate) fn open_port(&mut self, fd: OwnedFd, poller: &Poller) -> Result<(), Error> {
        poller.watch_edges(&fd, Token::Port)?;
        self.port = Some(Client {
            fd: Line::Port(fd),
            listener: 0,
            connection: Connection::new(Role::Operate, Transport::Serial),
            interest: (true, false),
            generation: 0,
        });
        Ok(())
    }

    fn get(&mut self, id: ClientId) -> Option<&mut Client> {
        match id {
            ClientId::Slot(index) => self.slots.get_mut(usize::from(index))?.as_mut(),
            ClientId::Port => self.port.as_mut(),
        }
    }

    /// The connection of a client that asked something.
    pub(crate) fn connection(&mut self, id: ClientId) -> Option<&mut Connection> {
        self.get(id).map(|client| &mut client.connection)
    }

    /// Whose socket a client came by: index of its listener.
    pub(crate) fn listener(&mut self, id: ClientId) -> Option<u16> {
        self.get(id).map(|client| client.listener)
    }

    /// Which of the clients that had this place it is; a port's changes with each client of the host.
    pub(crate) fn generation(&self, id: ClientId) -> Option<u32> {
        let client = match id {
            ClientId::Slot(index) => self.slots.get(usize::from(index))?.as_ref()?,
            ClientId::Port => self.port.as_ref()?,
        };
        Some(client.generation)
    }

    /// Reads what came of an upload's body, as far as there is room.
    pub(crate) fn fill(&mut self, id: ClientId) {
        if let Some(client) = self.get(id) {
            client.receive(id == ClientId::Port, false);
        }
    }

    /// Reads what came and gives the next call, if one is complete.
    pub(crate) fn take(&mut self, id: ClientId, ready: Ready) -> Option<Call> {
        let client = self.get(id)?;
        if ready.input || ready.hung_up {
            client.receive(id == ClientId::Port, ready.hung_up);
        }
        client.connection.next_call()
    }

    /// When there is something to do that nothing tells of: at once, if one has asked for more than a turn answers.
    pub(crate) fn deadline(&self) -> Option<u64> {
        (!self.held.is_empty()).then_some(LONG_AGO)
    }

    /// The next call after this turn has answered so many; what is too much is left for [`Clients::pump`] to tell.
    pub(crate) fn next_of(&mut self, id: ClientId, answered: usize) -> Option<Call> {
        if answered < MOST_CALLS {
            return self.next_call(id);
        }
        if !self.held.contains(&id) {
            self.held.push(id);
        }
        None
    }

    /// The next call of bytes that are here, or that waited while there was no room for them.
    fn next_call(&mut self, id: ClientId) -> Option<Call> {
        let client = self.get(id)?;
        let call = client.connection.next_call();
        if call.is_some() || id != ClientId::Port {
            return call;
        }
        client.receive(true, false);
        client.connection.next_call()
    }

    /// Writes what can be written, sets what the poller watches for, and lets go of clients that are done.
    pub(crate) fn settle(&mut self, id: ClientId, poller: &Poller) {
        let Some(client) = self.get(id) else {
            return;
        };
        let alive = client.send();
        let finished = client.connection.is_finished() && id != ClientId::Port;
        if !alive && id == ClientId::Port {
            client.generation = client.generation.wrapping_add(1);
            client.connection.reset();
        } else if !alive || finished {
            poller.forget(&client.fd);
            if let ClientId::Slot(index) = id
                && let Some(slot) = self.slots.get_mut(usize::from(index))
            {
                *slot = None;
            }
            return;
        }
        if id == ClientId::Port {
            return;
        }
        let wanted = (
            client.connection.wants_input(),
            !client.connection.output().is_empty(),
        );
        if wanted != client.interest
            && poller
                .interest(&client.fd, id.token(), wanted.0, wanted.1)
                .is_ok()
        {
            client.interest = wanted;
        }
    }

    /// Lets go of a client that has closed both directions: epoll tells that without end whatever it is asked
    /// for, and nobody reads what would still be sent. A port stays.
    pub(crate) fn hung_up(&mut self, id: ClientId, poller: &Poller) {
        if let ClientId::Slot(index) = id
            && let Some(client) = self
                .slots
                .get_mut(usize::from(index))
                .and_then(Option::take)
        {
            poller.forget(&client.fd);
        }
    }

    /// Hands log records to those who read them, as far as they take them; tells who they are, since
    /// a stream that has ended leaves room for the next request, and before them those of whom a request was left.
    pub(crate) fn pump(&mut self, journal: &Journal) -> Vec<ClientId> {
        let mut touched = std::mem::take(&mut self.held);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let (Some(client), Ok(index)) = (slot, u16::try_from(index))
                && client.pump(journal)
            {
                touched.push(ClientId::Slot(index));
            }
        }
        if self
            .port
            .as_mut()
            .is_some_and(|client| client.pump(journal))
        {
            touched.push(ClientId::Port);
        }
        touched
    }
}

impl Client {
    /// Reads as much as the connection has room for.
    fn receive(&mut self, is_port: bool, hung_up: bool) {
        let mut buffer = [0_u8; 2048];
        let mut anything = false;
        while self.connection.wants_input() {
            let room = self.connection.room().min(buffer.len());
            let into = buffer.get_mut(..room).unwrap_or_default();
            match self.fd.receive(into) {
                Ok(0) => {
                    // A port's bytes may come before the word that its host has connected: they are
                    // the new client's, and must not be forgotten with the old one.
                    self.ended(is_port, hung_up && !anything);
                    return;
                }
                Ok(count) => {
                    anything = true;
                    self.connection
                        .input(buffer.get(..count).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.ended(is_port, true);
                    return;
                }
            }
        }
        // What fills the connection is the old client's, and nobody would ever take it.
        if hung_up && is_port && !anything {
            self.ended(is_port, true);
        }
    }

    /// The other side has closed. A port stays: the next client of the host opens the same one.
    fn ended(&mut self, is_port: bool, hung_up: bool) {
        if !is_port {
            self.connection.end_input();
        } else if hung_up && !self.connection.hang_up() {
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// Fills and writes until there is nothing more or the peer takes no more: nobody else would
    /// wake a stream whose output was written whole. False: no log is being read.
    fn pump(&mut self, journal: &Journal) -> bool {
        if !self.connection.is_streaming() {
            return false;
        }
        while self.connection.is_streaming() {
            self.connection.pump(journal);
            if self.connection.output().is_empty() || !self.send() {
                break;
            }
            if !self.connection.output().is_empty() {
                break;
            }
        }
        true
    }

    /// False: the peer is gone.
    fn send(&mut self) -> bool {
        while !self.connection.output().is_empty() {
            match write(self.fd.as_fd(), self.connection.output()) {
                Ok(count) => self.connection.wrote(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_leaves_places_to_the_others() {
        use std::io::Read;
        use std::os::unix::net::UnixStream;
        let directory = tempfile::tempdir().unwrap();
        let path = |by: u16| directory.path().join(by.to_string());
        let poller = Poller::new().unwrap();
        let mut clients = Clients::default();
        let [one, other] =
            [0, 1].map(|by| Listener::bind(&path(by), Role::Observe, 0o600).unwrap());
        let streams: Vec<_> = (0..20)
            .map(|_| UnixStream::connect(path(0)).unwrap())
            .collect();
        clients.accept(0, &one, &poller);
        assert_eq!(clients.slots.iter().flatten().count(), CONNECTIONS_OF_ONE);
        let mut said = Vec::new();
        (&streams[CONNECTIONS_OF_ONE])
            .read_to_end(&mut said)
            .unwrap();
        assert_eq!(said, control::busy());
        let _held = UnixStream::connect(path(1)).unwrap();
        clients.accept(1, &other, &poller);
        assert_eq!(
            clients.slots.iter().flatten().count(),
            CONNECTIONS_OF_ONE + 1
        );
    }

    #[test]
    fn containers_leave_places_to_one_another_and_to_the_device() {
        use std::os::unix::net::UnixStream;
        let directory = tempfile::tempdir().unwrap();
        let poller = Poller::new().unwrap();
        let mut clients = Clients::default();
        let mut connect = |by: u16, role| {
            let path = directory.path().join(by.to_string());
            let listener = Listener::bind(&path, role, 0o600).unwrap();
            let streams = [(); CONNECTIONS_OF_ONE].map(|()| UnixStream::connect(&path).unwrap());
            let before = clients.slots.iter().flatten().count();
            clients.accept(by, &listener, &poller);
            (clients.slots.iter().flatten().count() - before, streams)
        };
        let containers = [1, 2, 3].map(|by| connect(by, Role::Operate));
        // All places are taken by two, and the third has one.
        let taken = containers.each_ref().map(|(taken, _)| *taken);
        assert_eq!(2 * CONNECTIONS_OF_ONE, MAX_CONNECTIONS);
        assert_eq!(taken, [CONNECTIONS_OF_ONE, CONNECTIONS_OF_ONE, 1]);
        for (by, role) in [
            (DEVICE, Role::Operate),
            (AGENT, Role::Update),
            (STICKS, Role::Stick),
        ] {
            let (taken, _streams) = connect(by, role);
            assert_eq!(taken, CONNECTIONS_OF_ONE, "{role:?}");
        }
    }

    #[test]
    fn what_is_too_much_for_one_turn_is_answered_in_the_next() {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let poller = Poller::new().unwrap();
        let listener = Listener::bind(&path, Role::Observe, 0o600).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut clients = Clients::default();
        clients.accept(0, &listener, &poller);
        let id = ClientId::Slot(0);
        let asked = "GET /v1/usage HTTP/1.1\r\n\r\n".repeat(MOST_CALLS + 1);
        stream.write_all(asked.as_bytes()).unwrap();
        let ready = Ready {
            input: true,
            ..Ready::default()
        };
        let mut answered = 0;
        let mut call = clients.take(id, ready);
        while call.is_some() {
            clients.connection(id).unwrap().answer_done();
            clients.settle(id, &poller);
            answered += 1;
            call = clients.next_of(id, answered);
        }
        assert_eq!((answered, clients.deadline()), (MOST_CALLS, Some(LONG_AGO)));
        assert_eq!(clients.pump(&Journal::new()), [id]);
        assert_eq!(clients.deadline(), None);
        assert_eq!(clients.take(id, Ready::default()), Some(Call::Usage));
    }

    #[test]
    fn a_client_that_has_hung_up_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let mut poller = Poller::new().unwrap();
        let listener = Listener::bind(&path, Role::Operate, 0o600).unwrap();
        let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut clients = Clients::default();
        clients.accept(0, &listener, &poller);
        let id = ClientId::Slot(0);
        let client = clients.get(id).unwrap();
        drop(stream);
        // Even asked for nothing, epoll tells of the hang-up, and again each time.
        poller
            .interest(&client.fd, id.token(), false, false)
            .unwrap();
        for _ in 0..2 {
            let mut events = Vec::new();
            poller.wait(&mut events).unwrap();
            assert!(events[0].0 == id.token() && events[0].1.hung_up);
        }
        clients.hung_up(id, &poller);
        assert!(clients.get(id).is_none());
    }
}
