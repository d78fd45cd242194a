//! The table of calls is complete and can be searched.

use crate::calls::{Known, TABLE, find};

/// Headers of the C library's development files: the calls of this architecture.
const HEADERS: [&str; 3] = [
    #[cfg(target_arch = "x86_64")]
    "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    #[cfg(target_arch = "x86_64")]
    "/usr/include/asm/unistd_64.h",
    #[cfg(not(target_arch = "x86_64"))]
    "/usr/include/asm/unistd_64.h",
    "/usr/include/asm-generic/unistd_64.h",
];

/// The compiler merges groups that are in order; a group that is not leaves its mark here.
#[test]
fn names_are_in_order() {
    assert!(TABLE.is_sorted_by_key(|(name, _)| *name));
    assert!(TABLE.iter().all(|(name, _)| !name.is_empty()));
}

/// Each name is found, and each number of this architecture has one name: but for one of ARM's, which has two.
#[test]
fn what_stands_in_the_table_is_found() {
    let mut numbers = Vec::new();
    for (name, number) in &TABLE {
        match number {
            Some(number) => {
                assert_eq!(find(name), Known::Here(*number), "{name}");
                numbers.push(*number);
            }
            None => assert_ne!(find(name), Known::Nowhere, "{name}"),
        }
    }
    let count = numbers.len() - usize::from(cfg!(target_arch = "arm"));
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count);
    assert_eq!(find("oldwait"), Known::Nowhere);
    assert_eq!(find("oldstat"), Known::Elsewhere);
    assert_eq!(find(""), Known::Nowhere);
    assert_eq!(find("__NR_read"), Known::Nowhere);
}

/// The numbers of Linux 6.12, from its table for all architectures (`scripts/syscall.tbl`).
#[test]
#[cfg(not(target_arch = "mips"))]
fn the_newest_calls_are_known() {
    for (name, number) in [
        ("pidfd_send_signal", 424),
        ("clone3", 435),
        ("landlock_restrict_self", 446),
        ("set_mempolicy_home_node", 450),
        ("cachestat", 451),
        ("fchmodat2", 452),
        ("map_shadow_stack", 453),
        ("futex_requeue", 456),
        ("listmount", 458),
        ("lsm_list_modules", 461),
        ("mseal", 462),
        ("setxattrat", 463),
        ("removexattrat", 466),
        ("file_setattr", 469),
    ] {
        assert_eq!(find(name), Known::Here(number), "{name}");
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "what was not compared is to be seen")]
fn the_table_has_every_call_of_the_systems_headers() {
    let header = HEADERS
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok());
    let Some(header) = header else {
        eprintln!("NOT COMPARED: this machine has none of {HEADERS:?}");
        return;
    };
    let mut compared = 0;
    for line in header.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["#define", constant, number] = words.as_slice()
            && let (Some(name), Ok(number)) = (constant.strip_prefix("__NR_"), number.parse())
        {
            assert_eq!(find(name), Known::Here(number), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 300, "only {compared} calls");
}
