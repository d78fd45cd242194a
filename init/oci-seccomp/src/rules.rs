//! What a configuration says of each call: names become numbers, rules of one call become a list.
//!
//! The meaning is that of `libseccomp` as `runc` (`libcontainer/seccomp/seccomp_linux.go`, `matchCall`)
//! and `crun` (`src/libcrun/seccomp.c`, `libcrun_generate_seccomp`) feed it:
//!
//! - A rule whose answer is the default's is left out, with its conditions or without.
//! - A rule without conditions decides its call alone, wherever it stands; of several, the first one does
//!   (`libseccomp`, `src/db.c`, `db_rule_add`). "The more specific rule is effectively dropped", says
//!   `seccomp_rule_add(3)`. A mask without a bit is no condition (`_db_arg_cmp_need_lo`, `_hi`).
//! - Conditions of one rule are a conjunction, unless two are about the same argument: then each of them
//!   is a rule of its own (`runc`: `hasMultipleArgs`).
//! - Of a call's rules with conditions, the first one that is met answers. `libseccomp` orders them by what
//!   they compare, so that profiles on which both would differ, with rules that overlap and answer
//!   differently, mean nothing certain there.
//! - Where arguments have 32 bits, so have the values that they are compared with (`_db_rule_gen_arg_32`).

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use crate::architecture::Target;
use crate::calls::{self, Known};
use crate::{Error, MAX_ERRNO, MAX_INSTRUCTIONS, MAX_MESSAGE, MAX_RULES};

// What a filter answers with (Linux `include/uapi/linux/seccomp.h`).
pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;
pub(crate) const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// What of an answer is the action; the rest is its data.
pub(crate) const ACTION: u32 = 0xffff_0000;

/// `EPERM`, with which calls are refused if a configuration says no other number.
const EPERM: u32 = 1;

/// What an argument is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Comparison {
    /// The bits of the mask are those of the value, which has no others.
    Bits { mask: u64, value: u64 },
    /// It is at least this.
    AtLeast(u64),
    /// It is more than this.
    Above(u64),
}

/// A comparison of one argument, or its contrary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Condition {
    /// Which argument, from 0 to 5.
    pub(crate) argument: u32,
    pub(crate) comparison: Comparison,
    /// Whether the comparison must hold, or must not.
    pub(crate) holds: bool,
}

/// If all conditions are met (there is one at least), this is the answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) answer: u32,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Judgement {
    /// Always this.
    Answer(u32),
    /// What the first rule says that is met (there is one at least), or else this.
    Rules(Vec<Rule>, u32),
}

impl Judgement {
    /// Leaves out conditions that always hold, rules that are never met, and those that make no difference.
    fn settle(&mut self, width: u64) {
        let Self::Rules(rules, otherwise) = self else {
            return;
        };
        let mut otherwise = *otherwise;
        let mut kept = Vec::new();
        for mut rule in std::mem::take(rules) {
            let constant = |one: &Condition| one.constant(width);
            if rule
                .conditions
                .iter()
                .any(|one| constant(one) == Some(false))
            {
                continue;
            }
            rule.conditions.retain(|one| constant(one).is_none());
            if rule.conditions.is_empty() {
                otherwise = rule.answer;
                break;
            }
            kept.push(rule);
        }
        while kept
            .last()
            .is_some_and(|last: &Rule| last.answer == otherwise)
        {
            kept.pop();
        }
        *self = if kept.is_empty() {
            Self::Answer(otherwise)
        } else {
            Self::Rules(kept, otherwise)
        };
    }
}

impl Condition {
    /// Whether it is met by every argument, or by none.
    fn constant(&self, width: u64) -> Option<bool> {
        match self.comparison {
            Comparison::Bits { mask: 0, .. } | Comparison::AtLeast(0) => Some(self.holds),
            Comparison::Above(value) if value == width => Some(!self.holds),
            Comparison::Bits { .. } | Comparison::AtLeast(_) | Comparison::Above(_) => None,
        }
    }
}

/// A configuration, for one architecture.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The answer to what no rule is about.
    pub(crate) default: u32,
    /// What rules are about, by number.
    pub(crate) calls: BTreeMap<u32, Judgement>,
    /// The highest number that the configuration names, with whatever answer.
    pub(crate) highest: Option<u32>,
    /// Names that are those of no call.
    pub(crate) unknown: Vec<String>,
}

/// Reads a configuration's rules.
pub(crate) fn read(seccomp: &LinuxSeccomp, target: &Target) -> Result<Rules, Error> {
    let default = answer(
        seccomp.default_action(),
        seccomp.default_errno_ret(),
        "default",
    )?;
    let mut rules = Rules {
        default,
        calls: BTreeMap::new(),
        highest: None,
        unknown: Vec::new(),
    };
    let mut unknown = BTreeSet::new();
    let mut count = 0_usize;
    for entry in seccomp.syscalls().iter().flatten() {
        let conditions = entry.args().as_ref().map_or(0, Vec::len);
        count = count.saturating_add(entry.names().len().saturating_mul(conditions.max(1)));
        if count > MAX_RULES || conditions > MAX_RULES {
            return Err(Error::TooManyRules);
        }
        let place = entry.names().first().map_or("", String::as_str);
        let answer = answer(entry.action(), entry.errno_ret(), place)?;
        let wanted = alternatives(entry, place, target)?;
        for name in entry.names() {
            match calls::find(name) {
                Known::Here(number) => {
                    // ARM's own calls lie far above, and do not tell how new a profile is.
                    if number <= target.last() {
                        rules.highest = rules.highest.max(Some(number));
                    }
                    if answer != default {
                        rules.add(number, answer, &wanted)?;
                    }
                }
                Known::Elsewhere => {}
                Known::Nowhere => {
                    unknown.insert(name.as_str());
                }
            }
        }
    }
    for call in rules.calls.values_mut() {
        call.settle(target.width());
    }
    rules.unknown = unknown.into_iter().map(str::to_owned).collect();
    Ok(rules)
}

impl Rules {
    /// Adds a rule of one entry: for each of the alternatives, or without any condition.
    fn add(
        &mut self,
        number: u32,
        answer: u32,
        alternatives: &[Vec<Condition>],
    ) -> Result<(), Error> {
        let call = self
            .calls
            .entry(number)
            .or_insert_with(|| Judgement::Rules(Vec::new(), self.default));
        for conditions in alternatives {
            let Judgement::Rules(rules, _) = call else {
                return Ok(());
            };
            if conditions.is_empty() {
                *call = Judgement::Answer(answer);
                return Ok(());
            }
            // What was asked before is never asked again.
            if rules.iter().any(|rule| rule.conditions == *conditions) {
                continue;
            }
            // Each takes an instruction at least; this also bounds the search above.
            if rules.len() >= MAX_INSTRUCTIONS {
                return Err(Error::TooLong);
            }
            rules.push(Rule {
                conditions: conditions.clone(),
                answer,
            });
        }
        Ok(())
    }
}

/// The answer for an action.
fn answer(action: LinuxSeccompAction, errno: Option<u32>, place: &str) -> Result<u32, Error> {
    let place = || place.to_owned();
    let plain = match action {
        LinuxSeccompAction::ScmpActErrno => {
            let value = errno.unwrap_or(EPERM);
            if value > MAX_ERRNO {
                return Err(Error::Errno {
                    place: place(),
                    value,
                });
            }
            return Ok(ERRNO | value);
        }
        LinuxSeccompAction::ScmpActTrace => {
            let value = errno.unwrap_or(EPERM);
            if value > MAX_MESSAGE {
                return Err(Error::Message {
                    place: place(),
                    value,
                });
            }
            return Ok(TRACE | value);
        }
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    };
    // "When the action doesn't support an errno, the runtime MUST print and error and fail"
    // (runtime-spec, config-linux.md, Seccomp).
    if errno.is_some() {
        return Err(Error::UnusedErrno {
            place: place(),
            action,
        });
    }
    Ok(plain)
}

/// Whether `answer` keeps a call from being made, without asking anybody.
pub(crate) fn denies(answer: u32) -> bool {
    let action = answer & ACTION;
    [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO].contains(&action)
}

/// The conjunctions of which one must hold for an entry to be met.
fn alternatives(
    entry: &LinuxSyscall,
    place: &str,
    target: &Target,
) -> Result<Vec<Vec<Condition>>, Error> {
    let mut all: Vec<Condition> = Vec::new();
    let mut repeated = false;
    let mut seen = [false; 6];
    for argument in entry.args().iter().flatten() {
        let Some(seen) = seen.get_mut(argument.index()) else {
            return Err(Error::Argument {
                place: place.to_owned(),
                index: argument.index(),
            });
        };
        repeated |= *seen;
        *seen = true;
        all.push(condition(argument, target));
    }
    if repeated {
        return Ok(all.into_iter().map(|one| relevant(vec![one])).collect());
    }
    all.sort_unstable();
    Ok(vec![relevant(all)])
}

/// A conjunction without what always holds.
fn relevant(mut conditions: Vec<Condition>) -> Vec<Condition> {
    conditions
        .retain(|one| !(one.holds && matches!(one.comparison, Comparison::Bits { mask: 0, .. })));
    conditions
}

/// A condition as the target can meet it.
fn condition(argument: &LinuxSeccompArg, target: &Target) -> Condition {
    let width = target.width();
    let value = argument.value() & width;
    let equal = Comparison::Bits { mask: width, value };
    let (comparison, holds) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => (equal, true),
        LinuxSeccompOperator::ScmpCmpNe => (equal, false),
        LinuxSeccompOperator::ScmpCmpGe => (Comparison::AtLeast(value), true),
        LinuxSeccompOperator::ScmpCmpLt => (Comparison::AtLeast(value), false),
        LinuxSeccompOperator::ScmpCmpGt => (Comparison::Above(value), true),
        LinuxSeccompOperator::ScmpCmpLe => (Comparison::Above(value), false),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let value = argument.value_two().unwrap_or_default() & value;
            let mask = argument.value() & width;
            (Comparison::Bits { mask, value }, true)
        }
    };
    Condition {
        // At most 5, as `alternatives` has seen to.
        argument: u32::try_from(argument.index()).unwrap_or_default(),
        comparison,
        holds,
    }
}
