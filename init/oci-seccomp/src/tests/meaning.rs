//! Whatever the rules are, the filter answers as the rules do, read one after the other.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::machine::{Data, check, run};
use super::targets;
use crate::architecture::{ENOSYS, Target};
use crate::calls::{Known, find};
use crate::{Error, compile_for};

const KILL_PROCESS: u32 = 0x8000_0000;

fn answer(action: Action, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(1);
    if action == Action::ScmpActErrno {
        return 0x5_0000 | data;
    }
    if action == Action::ScmpActTrace {
        return 0x7ff0_0000 | data;
    }
    u32::from(action)
}

fn holds(condition: &LinuxSeccompArg, data: &Data, width: u64) -> bool {
    let value = condition.value() & width;
    let argument = data.arguments[condition.index()] & width;
    match condition.op() {
        Operator::ScmpCmpNe => argument != value,
        Operator::ScmpCmpLt => argument < value,
        Operator::ScmpCmpLe => argument <= value,
        Operator::ScmpCmpEq => argument == value,
        Operator::ScmpCmpGe => argument >= value,
        Operator::ScmpCmpGt => argument > value,
        Operator::ScmpCmpMaskedEq => {
            argument & value == condition.value_two().unwrap_or_default() & value
        }
    }
}

/// Whether a rule is about this call, and with conditions that say nothing set aside, has any: `None` if not.
fn met(entry: &LinuxSyscall, data: &Data, width: u64) -> Option<bool> {
    let conditions = entry.args().clone().unwrap_or_default();
    let empty =
        |one: &LinuxSeccompArg| one.op() == Operator::ScmpCmpMaskedEq && one.value() & width == 0;
    let mut indices: Vec<usize> = conditions.iter().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    indices.dedup();
    if indices.len() < conditions.len() {
        let decided = conditions.iter().any(empty);
        return (!decided).then(|| conditions.iter().any(|one| holds(one, data, width)));
    }
    let decided = conditions.iter().all(empty);
    (!decided).then(|| conditions.iter().all(|one| holds(one, data, width)))
}

/// The entries of a configuration, with the numbers of their names.
type Named<'a> = Vec<(Vec<u32>, &'a LinuxSyscall)>;

fn named(profile: &LinuxSeccomp) -> Named<'_> {
    let number = |name: &String| match find(name) {
        Known::Here(number) => Some(number),
        Known::Elsewhere | Known::Nowhere => None,
    };
    let entries = profile.syscalls().iter().flatten();
    entries
        .map(|entry| (entry.names().iter().filter_map(number).collect(), entry))
        .collect()
}

/// What the configuration says of a call, without any table, tree or code.
fn expected(profile: &LinuxSeccomp, named: &Named<'_>, target: &Target, data: &Data) -> u32 {
    let default = answer(profile.default_action(), profile.default_errno_ret());
    let denies = [0, 0x8000_0000, 0x3_0000, 0x5_0000].contains(&(default & 0xffff_0000));
    let foreign = |arch: Arch| {
        let listed = profile
            .architectures()
            .iter()
            .flatten()
            .any(|one| *one == arch);
        if listed && denies {
            default
        } else {
            KILL_PROCESS
        }
    };
    if data.arch != target.audit {
        return match data.arch {
            0x4000_0003 => foreign(Arch::ScmpArchX86),
            0xc000_00f3 => foreign(Arch::ScmpArchRiscv64),
            _ => KILL_PROCESS,
        };
    }
    if target.x32 && data.number >= 0x4000_0000 && data.number != u32::MAX {
        return foreign(Arch::ScmpArchX32);
    }
    let rules = named.iter().filter(|(numbers, entry)| {
        answer(entry.action(), entry.errno_ret()) != default && numbers.contains(&data.number)
    });
    let rules = rules.map(|(_, entry)| *entry);
    let met = |entry: &&LinuxSyscall| met(entry, data, target.width());
    let decisive = rules.clone().find(|entry| met(entry).is_none());
    let decisive = decisive.or_else(|| rules.clone().find(|entry| met(entry) == Some(true)));
    if let Some(entry) = decisive {
        return answer(entry.action(), entry.errno_ret());
    }
    let highest = named.iter().flat_map(|(numbers, _)| numbers).max();
    let newer = highest.is_some_and(|highest| data.number > (*highest).max(423));
    if newer && data.number < 1000 && default & 0xffff_0000 == 0x5_0000 {
        return 0x5_0000 | ENOSYS;
    }
    default
}

/// Numbers at the borders of halves, signs and of what is compared with.
fn value() -> impl Strategy<Value = u64> {
    let borders = [
        0,
        1,
        2,
        8,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0001,
        0x1_0000_0002,
        0xffff_ffff_0000_0000,
        0x7fff_ffff_ffff_ffff,
        u64::MAX - 1,
        u64::MAX,
    ];
    prop_oneof![8 => select(borders.to_vec()), 1 => any::<u64>(), 1 => 0..64_u64]
}

fn action() -> impl Strategy<Value = (Action, Option<u32>)> {
    let plain = [
        Action::ScmpActKill,
        Action::ScmpActKillThread,
        Action::ScmpActKillProcess,
        Action::ScmpActTrap,
        Action::ScmpActNotify,
        Action::ScmpActLog,
        Action::ScmpActAllow,
    ];
    let errno = option::of(select(vec![0, 1, 22, 38, 4095]));
    prop_oneof![
        4 => select(plain.to_vec()).prop_map(|action| (action, None)),
        4 => errno.clone().prop_map(|errno| (Action::ScmpActErrno, errno)),
        1 => errno.prop_map(|errno| (Action::ScmpActTrace, errno)),
    ]
}

fn condition() -> impl Strategy<Value = LinuxSeccompArg> {
    let operators = [
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpEq,
        Operator::ScmpCmpEq,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpMaskedEq,
    ];
    let index = prop_oneof![4 => 0..2_usize, 1 => 0..6_usize];
    (
        index,
        value(),
        option::of(value()),
        select(operators.to_vec()),
    )
        .prop_map(|(index, value, two, op)| {
            let builder = LinuxSeccompArgBuilder::default()
                .index(index)
                .value(value)
                .op(op);
            let builder = match two {
                Some(two) => builder.value_two(two),
                None => builder,
            };
            builder.build().expect("argument")
        })
}

const NAMES: [&str; 16] = [
    "read",
    "write",
    "clone",
    "personality",
    "socket",
    "openat",
    "getpid",
    "execve",
    "exit_group",
    "clone3",
    "close_range",
    "futex_waitv",
    "removexattrat",
    "file_setattr",
    "s390_sthyi",
    "no_such_call",
];

fn entry(conditions: usize) -> impl Strategy<Value = LinuxSyscall> {
    let names = subsequence(NAMES.to_vec(), 1..4);
    (
        names,
        action(),
        option::of(vec(condition(), 0..=conditions)),
    )
        .prop_map(|(names, (action, errno), args)| {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            let mut entry = LinuxSyscallBuilder::default()
                .names(names)
                .action(action)
                .build()
                .expect("entry");
            entry.set_errno_ret(errno);
            entry.set_args(args);
            entry
        })
}

fn profile(entries: usize, conditions: usize) -> impl Strategy<Value = LinuxSeccomp> {
    let listed = [
        Arch::ScmpArchNative,
        Arch::ScmpArchX86,
        Arch::ScmpArchX32,
        Arch::ScmpArchRiscv64,
    ];
    let listed = subsequence(listed.to_vec(), 0..=4);
    (action(), listed, vec(entry(conditions), 0..entries)).prop_map(
        |((action, errno), listed, entries)| {
            let builder = LinuxSeccompBuilder::default()
                .default_action(action)
                .architectures(listed);
            let builder = builder.syscalls(entries).listener_path("/run/listener");
            let mut profile = builder.build().expect("configuration");
            profile.set_default_errno_ret(errno);
            profile
        },
    )
}

/// Calls that matter to `profile`: each number of a rule and its neighbours, with arguments that meet the
/// rule or nearly do, and `others`.
fn calls(profile: &LinuxSeccomp, target: &Target, others: &[[u64; 6]]) -> Vec<Data> {
    let mut numbers = vec![
        0,
        1,
        335,
        423,
        424,
        460,
        471,
        999,
        1000,
        0x3fff_ffff,
        0x4000_0000,
        0x4000_0001,
        0x7fff_ffff,
        u32::MAX - 1,
        u32::MAX,
    ];
    let mut arguments = others.to_vec();
    for entry in profile.syscalls().iter().flatten() {
        for name in entry.names() {
            if let Known::Here(number) = find(name) {
                numbers.extend([number.saturating_sub(1), number, number + 1]);
            }
        }
        for off in [0, 1, u64::MAX, 1 << 32] {
            let mut own = others.first().copied().unwrap_or_default();
            for one in entry.args().iter().flatten() {
                own[one.index()] = if one.op() == Operator::ScmpCmpMaskedEq {
                    one.value_two().unwrap_or_default()
                } else {
                    one.value()
                };
                own[one.index()] = own[one.index()].wrapping_add(off);
            }
            arguments.push(own);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    let step = arguments.len() / 24 + 1;
    let mut calls = Vec::new();
    let (native, foreign) = ([target.audit], [0x4000_0003, 0xc000_00f3, 0]);
    for number in numbers {
        for (index, arguments) in arguments.iter().step_by(step).enumerate() {
            let arguments = arguments.map(|one| one & target.width());
            for arch in native.iter().chain(foreign.iter().filter(|_| index == 0)) {
                calls.push(Data {
                    number,
                    arch: *arch,
                    arguments,
                });
            }
        }
    }
    calls
}

/// Compiles `profile` for each kind of architecture and compares.
fn compare(profile: &LinuxSeccomp, others: &[[u64; 6]]) -> Result<(), TestCaseError> {
    let named = named(profile);
    for target in targets() {
        let compiled = match compile_for(profile, &target) {
            Ok(compiled) => compiled,
            Err(Error::TooLong) => continue,
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        check(&compiled.code);
        for data in calls(profile, &target, others) {
            let (answer, _) = run(&compiled.code, &data, target.big_endian);
            let expected = expected(profile, &named, &target, &data);
            prop_assert_eq!(answer, expected, "{:x?} on {:?}", data, target);
        }
        prop_assert_eq!(Ok(compiled), compile_for(profile, &target));
    }
    Ok(())
}

fn arguments() -> impl Strategy<Value = Vec<[u64; 6]>> {
    vec(proptest::array::uniform6(value()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_answers_as_its_rules_do(profile in profile(12, 4), others in arguments()) {
        compare(&profile, &others)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Hundreds of rules: tests that reach their targets by long jumps alone.
    #[test]
    fn a_long_filter_answers_as_its_rules_do(profile in profile(250, 3), others in arguments()) {
        compare(&profile, &others[..1])?;
    }
}
