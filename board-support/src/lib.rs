//! Boot control and boards: what a device must remember about its slots and trials, and what kinds of machine there are.
//!
//! | module | holds |
//! |---|---|
//! | [`record`] | the loader record and the state record: formats, and which copy to believe |
//! | [`bootenv`] | reading and writing them in the raw partition `bootenv`, in an order that survives a power cut |
//! | [`autoboot`] | the loader record of a Raspberry Pi's firmware, and what that says in the device tree |
//! | [`control`] | the machine that decides what a boot runs, how a trial begins and ends, and what is written for it |
//! | [`loading`] | what every loader of ours decides: a crate of its own, since it also runs without a system |
//! | [`growth`] | the partition table of a disk that is larger than its image |
//! | [`led`] | the name of the LED that shows a device's state |
//! | [`slot`] | how a slot's file system is laid out |
//! | `boards` (feature `boards`, host only) | the board files, parsed and checked |
//!
//! It does not judge a trial, does not find partitions, and writes no slot: it tells what is to be written.

pub mod autoboot;
#[cfg(feature = "boards")]
pub mod boards;
pub mod bootenv;
pub mod control;
mod error;
pub mod growth;
pub mod led;
pub mod record;
pub mod slot;

pub use error::Error;
pub use kedge_loading as loading;
pub use kedge_loading::statement;
