//! The agent: asks a hub what to run, and brings it to PID 1.
//!
//! A supervised helper of PID 1 under a user of its own, without privileges. Nobody trusts it: PID 1 verifies again
//! whatever it brings, and it may crash at any time.
//!
//! | module | holds |
//! |---|---|
//! | [`frames`] | what it and PID 1 tell each other, beside the control interface |

pub mod frames;
