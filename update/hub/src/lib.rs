//! The hub that a fleet of devices pulls its updates from.
//!
//! One process, one directory: an SQLite database, a content-addressed store of objects, and the hub's keys. What a device
//! may run is not the hub's to decide: it chooses among revisions that the product's release keys signed, and devices
//! judge them again.
//!
//! | module | does |
//! |---|---|
//! | `serve` | connections, their limits, the end |
//! | `http` | requests and answers; who asks |
//! | `hub` | everything that requests share |
//! | `fleet` | the fleet in memory: what polls are answered from |
//! | `writer`, `database`, `rows` | what must outlive a crash, written by one thread |
//! | `identity`, `tls`, `certificate` | keys, the certificate authority, clients' certificates |
//! | `enrol`, `claims`, `tokens` | who may come in |
//! | `publish`, `objects` | products, revisions, uploads |
//! | `collect` | what nobody needs any more |
//! | `logs`, `events`, `backup` | what devices wrote, what happened, all of it in one file |
//! | `assign`, `state`, `query`, `why`, `reports` | what is desired and told: pure, but for writing reports down |
//!
//! Not here: rollouts in waves, people with roles, a dashboard, other databases and object stores than these.

mod answers;
mod assign;
mod backup;
mod certificate;
mod claims;
mod clock;
mod collect;
mod database;
mod enrol;
mod error;
mod events;
mod fleet;
pub mod fuzzing;
mod http;
mod hub;
mod identity;
mod limits;
mod logs;
mod machine;
mod metrics;
mod objects;
mod openapi;
mod publish;
mod query;
mod random;
mod reports;
mod roots;
mod rows;
mod serve;
mod state;
mod tls;
mod tokens;
mod usage;
mod why;
mod writer;

pub use backup::{Contents, backup, restore};
pub use error::Error;
pub use machine::{end_token, list_tokens, new_token};
pub use serve::{Ready, Settings, run};
