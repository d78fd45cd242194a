//! A DHCPv4 client (RFC 2131, RFC 2132), without I/O: [`message`] reads and writes, [`client`] decides, the shell around them
//! (`net/leases.rs`) sends, listens and sets.
//!
//! Our own. `dhcproto` is a parser of all options without a client; its manifest (0.9) names a DNS library, url, rand, hex and
//! ipnet among what it always needs. `edge-dhcp` needs, with its async parts left out, heapless, num_enum, rand_core and a crate
//! for raw packets, and was not tried. `smoltcp` has a client as a socket of its own IP stack, beside the kernel's. What is
//! needed is two messages out and three in, in some 700 lines.
//!
//! Left out: DHCPDECLINE, since nothing here looks for conflicts (RFC 5227), DHCPINFORM and DHCPRELEASE, a client identifier
//! (the hardware address stands for it), authentication (RFC 3118), which no server offers, and the wait of 1 to 10 s before
//! the first message: devices of a site that start together are few, and their boot is waited for.

pub mod client;
pub mod message;
