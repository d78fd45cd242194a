//! The control interface of PID 1: HTTP/1.1 over a unix socket, without I/O.
//!
//! A [`Connection`] takes bytes and gives bytes and typed [`Call`]s; the driver owns the sockets,
//! asks the machine and hands the answer back. The same connection serves the unix sockets
//! (containers, by their role, the agent, and the helper that reads sticks), and in development products the virtio-serial port `kedge.control`.
//!
//! No HTTP crate is used: the smallest servers bring 100 kB and more, an executor or threads, and
//! allocate as the peer likes. What is needed is a request head of 4 KiB, a body of 4 KiB or one that passes
//! through, and chunks. What is absent on purpose: TLS, request bodies in chunks, upgrades, percent-encoding
//! (no name needs it), HTTP/1.0.
//!
//! | request | role | answer |
//! |---|---|---|
//! | `GET /v1/status` | observe | [`Status`] |
//! | `GET /v1/logs?container=NAME&follow=1&since=WHEN&limit=N` | observe | [`crate::log::LogLine`]s, one a line, in chunks |
//! | `GET /v1/usage` | observe | [`Usage`] of all containers |
//! | `GET /v1/containers/NAME` | operate | what it is: its definition, its status, its process |
//! | `POST /v1/containers/NAME/exec` | exec, and operate in development | 101, then the frames of [`exec`] |
//! | `POST /v1/containers/NAME/start`, `…/stop`, `…/restart` | operate | 204 |
//! | `POST /v1/reboot`, `POST /v1/poweroff` | operate | 204, then it happens |
//! | `GET /v1/history` | observe | events of [`crate::history`], one a line, the oldest first |
//! | `POST /v1/update/offer` | operate | what a bundle's head lacks here; 409 refused, 507 no room |
//! | `POST /v1/update/objects/HEX?offset=N` | operate | its tree, then its bytes from N on; 409 at a bad block |
//! | `POST /v1/update/apply?revision=HEX&parameters=N` | operate | 202, the trial begins; 409 if it cannot |
//! | `POST /v1/update/rollback` | operate | 204, the trial ends; 409 if there is none |
//!
//! Bodies of offers and objects are not kept here: the driver takes them bit by bit ([`Connection::body`]) and hands
//! them to the helper that stages.
//!
//! Errors are `application/problem+json` (RFC 9457), see [`Refusal`]. A request's `x-request-id` comes
//! back in its answer, so that a client on the serial port knows its own answer from a
//! predecessor's. Bounds: [`Connection::MAX_INPUT`] in, the status or [`LOG_FILL`] out.

mod api;
mod connection;
pub mod exec;
mod head;
mod refusal;
mod role;
mod route;
mod since;
mod stream;
mod usage;

pub use api::{
    Action, Command, ContainerState, ContainerStatus, Earlier, Exit, FailureStatus, LeaseStatus,
    LockStatus, LogQuery, Memory, MissingGoal, PortStatus, ProcessStatus, RevisionStatus,
    StagingStatus, StateStatus, Status, TargetStatus, Trial, UpdateStatus, Upload,
};
pub use connection::{Call, Connection, Transport};
pub use exec::{Exec, Said};
pub use head::{Head, Method};
pub use refusal::{Problem, Refusal};
pub use role::Role;
pub use since::Since;
pub use stream::LOG_FILL;
pub use usage::{Held, Pressure, Usage, UsageOf};

/// Where the socket is.
pub const SOCKET: &str = "/run/kedge/control.sock";
/// Where the agent's is: its role is [`Role::Update`].
pub const AGENT_SOCKET: &str = "/run/kedge/agent/control.sock";
/// Where that of the helper is which reads removable disks: its role is [`Role::Stick`].
pub const STICK_SOCKET: &str = "/run/kedge/stick/control.sock";
/// Connections that PID 1 keeps at once for containers; further ones get [`busy`] and are closed. The first of a container is
/// kept all the same: others, which may hold theirs for as long as they like, keep nobody from it.
pub const MAX_CONNECTIONS: usize = 8;
/// Those of one socket, which is one container's. The device's own sockets, the agent's and
/// the one for sticks have so many each, beside what containers have: those must cut a device off from nobody.
pub const CONNECTIONS_OF_ONE: usize = 4;

/// The whole answer to a connection too many.
#[must_use]
pub const fn busy() -> &'static [u8] {
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: 56\r\nconnection: close\r\n\r\n{\"status\":503,\"title\":\"busy\",\"detail\":\"try again later\"}"
}
