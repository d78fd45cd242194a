//! Linux takes the filters, and they do what they say.

use std::os::fd::AsFd;

use kedge_sys::clone::{Namespaces, spawn};
use kedge_sys::privilege::set_no_new_privs;
use kedge_sys::process::{ExitStatus, Signal, send_signal, wait_pidfd};
use kedge_sys::seccomp::{load, load_with_listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{getpgid, getpid, getsid, setsid};

use super::compiled;
use crate::Compiled;

/// Runs `child` under the filter, in a process and a session of its own, and says how that ended. (The session of the tests
/// may have been begun outside of their process namespace; then its number is 0 here, which rustix takes for a fault.)
fn under(filter: &Compiled, child: impl FnOnce() -> i32) -> ExitStatus {
    let child = spawn(Namespaces::NONE, None, || {
        if setsid().is_err() {
            return 98;
        }
        let loaded = set_no_new_privs().and_then(|()| load(&filter.code, filter.options));
        if loaded.is_err() { 99 } else { child() }
    });
    wait_pidfd(child.expect("clone3").pidfd.as_fd()).expect("child")
}

#[test]
fn a_filter_refuses_by_number_and_by_argument() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18},
            {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
             "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let status = under(&filter.expect("filter"), || {
        let refused = getpgid(None) == Err(Errno::XDEV) && getsid(None) == Err(Errno::INVAL);
        i32::from(!(refused && getsid(Some(getpid())).is_ok()))
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn a_filter_ends_a_process() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    let status = under(&filter.expect("filter"), || {
        i32::from(getpgid(None).is_ok())
    });
    assert!(
        matches!(status, ExitStatus::Signaled { signal: 31, .. }),
        "{status:?}"
    );
}

/// The kernel's own check of a program with hundreds of rules, and with jumps of every length.
#[test]
fn a_long_filter_is_taken() {
    let mut entries = Vec::new();
    for (name, errno) in [("getsid", 22), ("getpgid", 33)] {
        entries.extend((0..200).map(|value| {
            format!(
                r#"{{"names": ["{name}"], "action": "SCMP_ACT_ERRNO", "errnoRet": {errno}, "args": [
                    {{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}},
                    {{"index": 5, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}}]}}"#
            )
        }));
        entries.push(format!(
            r#"{{"names": ["{name}"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18,
                "args": [{{"index": 0, "value": 1, "op": "SCMP_CMP_LT"}}]}}"#
        ));
    }
    let entries = entries.join(",");
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{entries}]}}"#);
    let filter = compiled(&text).expect("filter");
    assert!(filter.code.len() > 2000, "{}", filter.code.len());
    let long = filter
        .code
        .iter()
        .filter(|one| one.code == 0x05 && one.k > 255);
    assert_ne!(long.count(), 0);
    let status = under(&filter, || {
        // The sixth register holds whatever it holds: one of the rules for 0 answers.
        let refused = |answer| matches!(answer, Err(Errno::XDEV | Errno::INVAL | Errno::DOM));
        let both = refused(getsid(None)) && refused(getpgid(None));
        i32::from(!(both && getsid(Some(getpid())).is_ok() && getpgid(Some(getpid())).is_ok()))
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn a_listener_is_told() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
            "syscalls": [{"names": ["getsid"], "action": "SCMP_ACT_NOTIFY"}]}"#,
    );
    let filter = filter.expect("filter");
    assert!(filter.needs_listener);
    let child = spawn(Namespaces::NONE, None, || {
        let loaded =
            set_no_new_privs().and_then(|()| load_with_listener(&filter.code, filter.options));
        let Ok(listener) = loaded else { return 1 };
        let Ok(calling) = spawn(Namespaces::NONE, None, || i32::from(getsid(None).is_ok())) else {
            return 2;
        };
        let limit = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let told = poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&limit)) == Ok(1);
        let ended = send_signal(calling.pidfd.as_fd(), Signal::KILL);
        i32::from(!(told && ended.is_ok() && wait_pidfd(calling.pidfd.as_fd()).is_ok())) * 3
    });
    let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
    assert_eq!(status, Ok(ExitStatus::Exited(0)));
}
