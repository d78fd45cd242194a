//! Faults below TLS.
