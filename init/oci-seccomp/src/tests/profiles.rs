//! Profiles with what those of container engines have, and what is refused.

use linux_raw_sys::general as nr;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSyscallBuilder,
};

use super::machine::{Data, check, run};
use super::{compiled, parsed};
use crate::architecture::{ENOSYS, NATIVE};
use crate::calls::TABLE;
use crate::{Compiled, Error, MAX_INSTRUCTIONS, MAX_RULES, compile};

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 0x5_0001;
const EINVAL: u32 = 0x5_0016;
const NEW: u32 = 0x5_0000 | ENOSYS;

/// As engines write it that refuse what they do not list: threads but no namespaces, harmless personalities,
/// no sockets into a hypervisor.
const REFUSES_THE_REST: &str = r#"{
  "defaultAction": "SCMP_ACT_ERRNO",
  "defaultErrnoRet": 1,
  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  "syscalls": [
    {"names": ["read", "write", "close", "openat", "_llseek", "arm_fadvise64_64", "exit_group", "futex_waitv"],
     "action": "SCMP_ACT_ALLOW"},
    {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
    {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
    {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
    {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
     "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}]},
    {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
     "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
  ]}"#;

/// As engines write it that say of unlisted calls that they do not exist: what they know and refuse is listed,
/// and of the sockets of netlink those for audits are answered with another number.
const KNOWS_WHAT_IT_REFUSES: &str = r#"{
  "defaultAction": "SCMP_ACT_ERRNO",
  "defaultErrnoRet": 38,
  "flags": ["SECCOMP_FILTER_FLAG_LOG"],
  "syscalls": [
    {"names": ["reboot", "swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": []},
    {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
     "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 9, "op": "SCMP_CMP_EQ"}]},
    {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": 9, "op": "SCMP_CMP_NE"}]},
    {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_NE"}]},
    {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": 9, "op": "SCMP_CMP_NE"}]}
  ]}"#;

/// What the filter answers to a call of this architecture.
fn ask(compiled: &Compiled, number: u32, first: &[u64]) -> u32 {
    asked_as(compiled, NATIVE.audit, number, first)
}

fn asked_as(compiled: &Compiled, arch: u32, number: u32, first: &[u64]) -> u32 {
    let mut arguments = [0; 6];
    arguments[..first.len()].copy_from_slice(first);
    let data = Data {
        number,
        arch,
        arguments,
    };
    check(&compiled.code);
    run(&compiled.code, &data, NATIVE.big_endian).0
}

#[test]
fn what_is_not_listed_is_refused() {
    let filter = compiled(REFUSES_THE_REST).expect("filter");
    for (number, arguments, answer) in [
        (nr::__NR_read, [7, 0, 0], ALLOW),
        (nr::__NR_openat, [0; 3], ALLOW),
        (nr::__NR_reboot, [0; 3], EPERM),
        (nr::__NR_socket, [2, 1, 0], ALLOW),
        (nr::__NR_socket, [40, 1, 0], EPERM),
        (nr::__NR_personality, [8, 0, 0], ALLOW),
        (nr::__NR_personality, [0xffff_ffff, 0, 0], ALLOW),
        (nr::__NR_personality, [4, 0, 0], EPERM),
        (nr::__NR_clone, [0x0001_0f00, 0, 0], ALLOW),
        (nr::__NR_clone, [0x1000_0000, 0, 0], EPERM),
        (nr::__NR_clone3, [0; 3], 0x5_0026),
        (nr::__NR_futex_waitv, [0; 3], ALLOW),
        // Listed or not, a call from before is one that the profile's author knew.
        (nr::__NR_landlock_create_ruleset, [0; 3], EPERM),
        (nr::__NR_futex_waitv + 1, [0; 3], NEW),
        (NATIVE.first + 999, [0; 3], NEW),
        (NATIVE.first + 1000, [0; 3], EPERM),
        (u32::MAX, [0; 3], EPERM),
    ] {
        assert_eq!(
            ask(&filter, number, &arguments),
            answer,
            "{number} {arguments:?}"
        );
    }
    assert_eq!(filter.unknown, [""; 0]);
    assert_eq!(filter.listener_path, None);
    assert!(!filter.needs_listener);
}

#[test]
fn rules_of_one_call_with_several_answers() {
    let filter = compiled(KNOWS_WHAT_IT_REFUSES).expect("filter");
    for (number, arguments, answer) in [
        (nr::__NR_reboot, [0; 3], EPERM),
        (nr::__NR_read, [0; 3], ALLOW),
        (nr::__NR_getpid, [0; 3], NEW),
        (nr::__NR_file_setattr + 1, [0; 3], NEW),
        (nr::__NR_socket, [16, 3, 9], EINVAL),
        (nr::__NR_socket, [16, 3, 0], ALLOW),
        (nr::__NR_socket, [2, 1, 9], ALLOW),
        (
            nr::__NR_socket,
            [0x1_0000_0010, 3, 9],
            if NATIVE.wide { ALLOW } else { EINVAL },
        ),
    ] {
        assert_eq!(
            ask(&filter, number, &arguments),
            answer,
            "{number} {arguments:?}"
        );
    }
    assert!(filter.options.log);
    assert!(!filter.options.all_threads);
}

/// The numbers of another ABI are never judged by this one's table, even where the default allows.
#[test]
#[cfg(target_arch = "x86_64")]
fn other_architectures_are_denied() {
    let (x86, arm) = (0x4000_0003, 0x4000_0028);
    let x32 = 0x4000_0000 + nr::__NR_read;
    let refusing = compiled(REFUSES_THE_REST).expect("filter");
    assert_eq!(asked_as(&refusing, x86, nr::__NR_read, &[]), EPERM);
    assert_eq!(asked_as(&refusing, arm, nr::__NR_read, &[]), KILL_PROCESS);
    assert_eq!(ask(&refusing, x32, &[]), EPERM);
    assert_eq!(refusing.unjudged, [Arch::ScmpArchX86, Arch::ScmpArchX32]);
    let unlisted = compiled(KNOWS_WHAT_IT_REFUSES).expect("filter");
    assert_eq!(asked_as(&unlisted, x86, nr::__NR_read, &[]), KILL_PROCESS);
    assert_eq!(ask(&unlisted, x32, &[]), KILL_PROCESS);
    assert_eq!(unlisted.unjudged, []);
    for action in ["ALLOW", "LOG", "TRACE", "NOTIFY"] {
        let open = format!(
            r#"{{"defaultAction": "SCMP_ACT_{action}", "listenerPath": "/l",
                 "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}}"#
        );
        let open = compiled(&open).expect("filter");
        assert_eq!(asked_as(&open, x86, 1, &[]), KILL_PROCESS);
        assert_eq!(ask(&open, x32, &[]), KILL_PROCESS);
        assert_ne!(ask(&open, nr::__NR_read, &[]), KILL_PROCESS);
    }
}

/// All calls but some, with conditions on a few, as the profiles of container engines are.
fn usual() -> LinuxSeccomp {
    let refused = [
        "mount",
        "reboot",
        "swapon",
        "init_module",
        "bpf",
        "setns",
        "unshare",
        "keyctl",
        "acct",
        "ptrace",
    ];
    let conditional = ["clone", "personality", "socket"];
    let mut profile = parsed(REFUSES_THE_REST);
    let names = TABLE.iter().map(|(name, _)| (*name).to_owned());
    let names = names
        .filter(|name| !refused.contains(&name.as_str()) && !conditional.contains(&name.as_str()));
    let all = LinuxSyscallBuilder::default().names(names.collect::<Vec<_>>());
    let all = all
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
        .expect("entry");
    let mut entries = profile.syscalls().clone().unwrap_or_default();
    entries.retain(|entry| entry.names() != &["clone3"]);
    entries.push(all);
    profile.set_syscalls(Some(entries));
    profile
}

/// Forty instructions on x86_64; nine for a call, which the kernel runs for each number at loading.
#[test]
fn a_profile_of_usual_size_is_short() {
    let profile = usual();
    let filter = compile(&profile).expect("filter");
    let steps = (NATIVE.first..NATIVE.first + 470).map(|number| {
        let data = Data {
            number,
            arch: NATIVE.audit,
            arguments: [0; 6],
        };
        run(&filter.code, &data, NATIVE.big_endian).1
    });
    let (most, sum) = steps.fold((0, 0), |(most, sum), one| (most.max(one), sum + one));
    assert!(filter.code.len() < 60, "{} instructions", filter.code.len());
    assert!(most < 16 && sum < 470 * 10, "{most} {sum}");
}

#[test]
fn two_conditions_on_one_argument_are_alternatives() {
    let both = |second: u32| {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_TRAP",
                 "args": [{{"index": 1, "value": 5, "op": "SCMP_CMP_GT"}},
                          {{"index": {second}, "value": 2, "op": "SCMP_CMP_LT"}}]}}]}}"#
        );
        let filter = compiled(&text).expect("filter");
        [[0, 6, 9], [0, 1, 9], [0, 3, 1]]
            .map(|arguments| ask(&filter, nr::__NR_read, &arguments) == 0x3_0000)
    };
    assert_eq!(both(1), [true, true, false]);
    assert_eq!(both(2), [false, false, false]);
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL",
            "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_GT"}, {"index": 2, "value": 2, "op": "SCMP_CMP_LT"}]}]}"#,
    );
    assert_eq!(ask(&filter.expect("filter"), nr::__NR_read, &[0, 6, 1]), 0);
}

/// Values of one argument, each with an answer of its own: the first rule that is met answers.
#[test]
fn values_with_different_answers() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2,
             "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_TRAP",
             "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 0, "value": 4, "op": "SCMP_CMP_LT"}]}]}"#,
    );
    let filter = filter.expect("filter");
    let answers = [0, 1, 2, 3, 4].map(|value| ask(&filter, nr::__NR_read, &[value]));
    assert_eq!(answers, [KILL_PROCESS, 0x5_0001, 0x5_0002, 0x3_0000, ALLOW]);
}

#[test]
fn every_action_has_its_answer() {
    for (action, errno, answer) in [
        ("KILL", None, 0),
        ("KILL_THREAD", None, 0),
        ("KILL_PROCESS", None, 0x8000_0000),
        ("TRAP", None, 0x3_0000),
        ("ERRNO", None, 0x5_0001),
        ("ERRNO", Some(0), 0x5_0000),
        ("ERRNO", Some(4095), 0x5_0fff),
        ("TRACE", None, 0x7ff0_0001),
        ("TRACE", Some(65535), 0x7ff0_ffff),
        ("LOG", None, 0x7ffc_0000),
        ("NOTIFY", None, 0x7fc0_0000),
        ("ALLOW", None, 0x7fff_0000),
    ] {
        let ret = errno
            .map(|errno: u32| format!(r#", "errnoRet": {errno}"#))
            .unwrap_or_default();
        for default in ["KILL_PROCESS", "ALLOW"] {
            let text = format!(
                r#"{{"defaultAction": "SCMP_ACT_{default}", "listenerPath": "/run/agent", "listenerMetadata": "m",
                     "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_{action}"{ret}}}]}}"#
            );
            let filter = compiled(&text).expect("filter");
            assert_eq!(ask(&filter, nr::__NR_read, &[]), answer, "{action}");
            assert_eq!(filter.needs_listener, action == "NOTIFY");
            assert_eq!(filter.listener_path, Some("/run/agent".into()));
            assert_eq!(filter.listener_metadata.as_deref(), Some("m"));
        }
    }
}

#[test]
fn flags_are_options() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}"#,
    );
    let options = filter.expect("filter").options;
    assert!(
        options.all_threads && options.allow_speculation && !options.log && !options.killable_wait
    );
}

#[test]
fn names_of_no_call_are_told() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["raed", "oldfstat", "read", "raed"], "action": "SCMP_ACT_TRAP"},
            {"names": ["aaa"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let filter = filter.expect("filter");
    assert_eq!(filter.unknown, ["aaa", "raed"]);
    assert_eq!(ask(&filter, nr::__NR_read, &[]), 0x3_0000);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let entry = |rest: &str| {
        compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["read"], {rest}}}]}}"#
        ))
    };
    let place = || "read".to_owned();
    assert_eq!(
        entry(
            r#""action": "SCMP_ACT_TRAP", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#
        ),
        Err(Error::Argument {
            place: place(),
            index: 6
        })
    );
    assert_eq!(
        entry(r#""action": "SCMP_ACT_ERRNO", "errnoRet": 4096"#),
        Err(Error::Errno {
            place: place(),
            value: 4096
        })
    );
    assert_eq!(
        entry(r#""action": "SCMP_ACT_TRACE", "errnoRet": 65536"#),
        Err(Error::Message {
            place: place(),
            value: 65536
        })
    );
    let action = LinuxSeccompAction::ScmpActTrap;
    assert_eq!(
        entry(r#""action": "SCMP_ACT_TRAP", "errnoRet": 1"#),
        Err(Error::UnusedErrno {
            place: place(),
            action
        })
    );
    assert_eq!(
        entry(r#""action": "SCMP_ACT_NOTIFY""#),
        Err(Error::NoListener)
    );
    assert_eq!(
        compiled(r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}"#),
        Err(Error::Errno {
            place: "default".to_owned(),
            value: 70000
        })
    );
    assert_eq!(
        compiled(r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m"}"#),
        Err(Error::NoListenerForMetadata)
    );
    let text = Error::UnusedErrno {
        place: place(),
        action,
    }
    .to_string();
    assert_eq!(
        text,
        r#"seccomp rule of "read": SCMP_ACT_TRAP takes no errnoRet"#
    );
}

/// `count` rules about `read`, each for another value of its second argument.
fn values(count: usize) -> Result<Compiled, Error> {
    let mut profile = parsed(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    let entries = (0..count).map(|value| {
        let argument = LinuxSeccompArgBuilder::default()
            .index(1_usize)
            .value(value as u64);
        LinuxSyscallBuilder::default()
            .names(["read".to_owned()])
            .action(LinuxSeccompAction::ScmpActTrap)
            .args([argument.build().expect("argument")])
            .build()
            .expect("entry")
    });
    profile.set_syscalls(Some(entries.collect()));
    compile(&profile)
}

#[test]
fn sizes_have_limits() {
    let filter = values(3900).expect("filter");
    assert!(filter.code.len() > 3900);
    for (value, answer) in [
        (0, 0x3_0000),
        (1700, 0x3_0000),
        (3899, 0x3_0000),
        (3900, ALLOW),
        (1 << 32, ALLOW),
    ] {
        assert_eq!(ask(&filter, nr::__NR_read, &[0, value]), answer, "{value}");
    }
    assert_eq!(values(MAX_INSTRUCTIONS), Err(Error::TooLong));
    assert_eq!(values(MAX_RULES), Err(Error::TooLong));
    for (count, limit) in [
        (MAX_RULES, None),
        (MAX_RULES + 1, Some(Error::TooManyRules)),
    ] {
        let names = vec![r#""read""#; count].join(",");
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": [{names}], "action": "SCMP_ACT_TRAP"}}]}}"#
        );
        assert_eq!(compiled(&text).err(), limit);
    }
}
