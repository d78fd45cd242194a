//! A DHCPv4 client (RFC 2131, RFC 2132), without I/O: [`message`] reads and writes, [`client`] decides, the shell around them
//! (`net/ports.rs`) sends, listens and sets.
//!
//! Our own: `dhcproto` brings hickory-proto and with it url, rand and idna; `edge-dhcp` embassy and heapless; `smoltcp` panics
//! where its callers err and has its own idea of interfaces. This one has some 600 lines and no allocation but for its results.
//!
//! Left out: DHCPDECLINE, since nothing here looks for conflicts (RFC 5227), DHCPINFORM and DHCPRELEASE, a client identifier
//! (the hardware address stands for it), authentication (RFC 3118), which no server offers, and the wait of 1 to 10 s before
//! the first message: devices of a site that start together are few, and their boot is waited for.

pub mod client;
pub mod message;
