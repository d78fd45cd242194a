//! Boot control and boards: what a device must remember about its slots and trials, and what kinds of machine there are.
//!
//! | module | holds |
//! |---|---|
//! | [`record`] | the loader record and the state record: formats, and which copy to believe |
//! | [`bootenv`] | reading and writing them in the raw partition `bootenv`, in an order that survives a power cut |
//! | [`control`] | the machine that decides what a boot runs, how a trial begins and ends, and what is written for it |
//! | `boards` (feature `boards`, host only) | the board files, parsed and checked |
//!
//! It does not judge a trial, does not find the partition, and writes no slot.

#[cfg(feature = "boards")]
pub mod boards;
pub mod bootenv;
pub mod control;
mod error;
pub mod record;

pub use error::Error;
