//! Rules of nftables, set: how many connections a pool may begin is what the kernel has room for.

use super::Error;
use super::pools::Pools;
use super::rtnetlink::Netlink;
use super::rules;
use kedge_sys::Errno;

/// For how many connections the kernel has room.
const CONNECTIONS: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// For how many it has by itself on the smallest machine (Linux `net/netfilter/nf_conntrack_core.c`, nf_conntrack_init_start).
const LEAST_CONNECTIONS: u32 = 1024;

/// Sets them for these pools. What is given back is why connections have no bound: then the rest holds.
///
/// # Errors
/// [`Error::Netlink`]: nothing has changed.
pub(super) fn set(pools: &Pools) -> Result<Option<Error>, Error> {
    let bound = rules::share(most_connections(), pools.pools.len());
    match command(&rules::all(pools, Some(bound))) {
        // One of the expressions is none that this kernel knows: only this one is tried without.
        Err(error) if error.errno() == Errno::NOENT => {
            command(&rules::all(pools, None)).map(|()| Some(error))
        }
        done => done.map(|()| None),
    }
}

/// Removes all.
///
/// # Errors
/// [`Error::Netlink`].
pub(super) fn remove() -> Result<(), Error> {
    command(&rules::none())
}

/// Whether a table of rules is there: the kernel answers with it, or refuses.
pub(super) fn are_there() -> bool {
    let asked = command(&rules::question());
    asked.is_err_and(|error| error.errno() == Errno::PROTO)
}

fn command(batch: &[u8]) -> Result<(), Error> {
    Netlink::open_rules().and_then(|socket| socket.command("rules", batch))
}

fn most_connections() -> u32 {
    let text = std::fs::read_to_string(CONNECTIONS).unwrap_or_default();
    text.trim_end().parse().unwrap_or(LEAST_CONNECTIONS)
}
