//! From rules to instructions.
//!
//! Numbers become runs with one judgement, and the runs a balanced tree of comparisons, so that any call
//! is judged after seven of them or so; behind it are the conditions, once for all calls that have the
//! same ones. The kernel asks a filter about every number once as it is loaded, to remember those
//! that are always allowed (Linux `kernel/seccomp.c`, `seccomp_cache_prepare`): that, and translating the
//! program, is what loading takes.

use std::collections::BTreeMap;

use kedge_sys::seccomp::SockFilter;
use oci_spec::runtime::Arch;

use crate::Error;
use crate::architecture::{ENOSYS, Seen, Target, X32, seen};
use crate::code::{Code, Label, Test};
use crate::rules::{
    ACTION, Comparison, Condition, ERRNO, Judgement, KILL_PROCESS, Rule, Rules, denies,
};

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// From this number on, above an architecture's first, all have the same calls: those of Linux 5.1 and later.
const UNIFIED: u32 = 424;
/// What a tracer makes of the number of a call that is not to be made.
const SKIPPED: u32 = u32::MAX;

/// The most numbers that are left out of a run to be compared one by one.
const MAX_EXCEPTIONS: usize = 2;

/// The program for `rules`; `listed` are the architectures that the configuration names.
pub(crate) fn build(
    rules: &Rules,
    listed: &[Arch],
    target: &Target,
) -> Result<Vec<SockFilter>, Error> {
    let mut code = Code::default();
    let foreign = if denies(rules.default) {
        rules.default
    } else {
        KILL_PROCESS
    };
    let default = Judgement::Answer(rules.default);
    let future = Judgement::Answer(ERRNO | ENOSYS);
    let has_x32 = listed.iter().any(|arch| seen(*arch, target) == Seen::X32);
    let x32 = Judgement::Answer(if has_x32 { foreign } else { KILL_PROCESS });
    let mut runs = Runs::default();
    let mut stretch = |from: u32, to: u32, judgement| {
        if from <= to {
            runs.stretch(from, to, judgement, &rules.calls);
        }
    };
    let last = if target.x32 { X32 - 1 } else { SKIPPED - 1 };
    match future_numbers(rules, target) {
        Some((from, to)) => {
            stretch(0, from - 1, &default);
            stretch(from, to, &future);
            stretch(to + 1, last, &default);
        }
        None => stretch(0, last, &default),
    }
    if target.x32 {
        stretch(X32, SKIPPED - 1, &x32);
    }
    stretch(SKIPPED, SKIPPED, &default);

    let mut ends = Ends::new(target);
    let leaves = leaves(&runs.0);
    let tree = tree(&leaves, &mut ends, &mut code);
    let native = code.load(NUMBER, tree);
    let mut other = code.answer(KILL_PROCESS);
    if foreign != KILL_PROCESS {
        let answer = code.answer(foreign);
        for arch in listed {
            if let Seen::Foreign(audit) = seen(*arch, target) {
                other = code.test(Test::Equal, audit, answer, other);
            }
        }
    }
    let arch = code.test(Test::Equal, target.audit, native, other);
    let start = code.load(ARCH, arch);
    code.finish(start).ok_or(Error::TooLong)
}

/// The numbers of calls that are newer than whatever the configuration names, if it refuses them as if
/// they were forbidden.
fn future_numbers(rules: &Rules, target: &Target) -> Option<(u32, u32)> {
    let refuses = rules.default & ACTION == ERRNO && rules.default != ERRNO | ENOSYS;
    let from = (rules.highest? + 1).max(target.first + UNIFIED);
    (refuses && from <= target.last()).then_some((from, target.last()))
}

/// Numbers from `start` up to the next run have one judgement.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    start: u32,
    judgement: &'a Judgement,
}

/// Runs, in order and without a gap.
#[derive(Debug, Default)]
struct Runs<'a>(Vec<Run<'a>>);

impl<'a> Runs<'a> {
    /// Goes on with the numbers from `from` to `to`: those of `calls` as they are judged there, the others
    /// with `judgement`.
    fn stretch(
        &mut self,
        from: u32,
        to: u32,
        judgement: &'a Judgement,
        calls: &'a BTreeMap<u32, Judgement>,
    ) {
        let mut next = Some(from);
        for (number, own) in calls.range(from..=to) {
            if next.is_some_and(|next| next < *number) {
                self.go_on(next.unwrap_or_default(), judgement);
            }
            self.go_on(*number, own);
            next = number.checked_add(1);
        }
        if let Some(next) = next.filter(|next| *next <= to) {
            self.go_on(next, judgement);
        }
    }

    fn go_on(&mut self, start: u32, judgement: &'a Judgement) {
        if self.0.last().is_none_or(|last| last.judgement != judgement) {
            self.0.push(Run { start, judgement });
        }
    }
}

/// A run, and the few numbers in it that are judged otherwise.
#[derive(Debug)]
struct Leaf<'a> {
    run: Run<'a>,
    exceptions: Vec<Run<'a>>,
}

/// Joins runs that single numbers part: each takes one comparison instead of two.
fn leaves<'a>(runs: &[Run<'a>]) -> Vec<Leaf<'a>> {
    let mut leaves: Vec<Leaf<'a>> = Vec::new();
    let mut rest = runs;
    while let [run, after @ ..] = rest {
        rest = after;
        let mut exceptions = Vec::new();
        while let [single, again, after @ ..] = rest {
            let alone = single.start.checked_add(1) == Some(again.start);
            if !alone || again.judgement != run.judgement || exceptions.len() == MAX_EXCEPTIONS {
                break;
            }
            exceptions.push(*single);
            rest = after;
        }
        leaves.push(Leaf {
            run: *run,
            exceptions,
        });
    }
    leaves
}

/// The tree over `leaves`: a comparison, the lower half, the upper half.
fn tree<'a>(leaves: &[Leaf<'a>], ends: &mut Ends<'a>, code: &mut Code) -> Label {
    let (lower, upper) = leaves.split_at(leaves.len() / 2);
    match (lower, upper) {
        ([], [leaf]) => {
            let mut label = ends.label(leaf.run.judgement, code);
            for exception in leaf.exceptions.iter().rev() {
                let other = ends.label(exception.judgement, code);
                label = code.test(Test::Equal, exception.start, other, label);
            }
            label
        }
        (_, [first, ..]) => {
            let at = first.run.start;
            let above = tree(upper, ends, code);
            let below = tree(lower, ends, code);
            code.test(Test::AtLeast, at, above, below)
        }
        // There is a leaf at least: numbers have no gap.
        (_, []) => code.answer(KILL_PROCESS),
    }
}

/// Where judgements are, each of them once.
#[derive(Debug)]
struct Ends<'a> {
    target: &'a Target,
    written: BTreeMap<&'a Judgement, Label>,
}

impl<'a> Ends<'a> {
    fn new(target: &'a Target) -> Self {
        Self {
            target,
            written: BTreeMap::new(),
        }
    }

    fn label(&mut self, judgement: &'a Judgement, code: &mut Code) -> Label {
        let (rules, otherwise) = match judgement {
            Judgement::Answer(answer) => return code.answer(*answer),
            Judgement::Rules(rules, otherwise) => (rules, *otherwise),
        };
        if let Some(label) = self.written.get(judgement) {
            return *label;
        }
        let label = self.first_met(rules, otherwise, code);
        self.written.insert(judgement, label);
        label
    }

    /// The rules one after the other. Those that differ in the lower half of one value alone share the
    /// comparison of the upper one.
    fn first_met(&self, rules: &[Rule], otherwise: u32, code: &mut Code) -> Label {
        let mut rest = rules;
        let mut label = code.answer(otherwise);
        while let [before @ .., last] = rest {
            let yes = code.answer(last.answer);
            let Some((argument, value)) = self.single_value(last) else {
                label = self.all_met(last, yes, label, code);
                rest = before;
                continue;
            };
            let alike = |rule: &&Rule| {
                let own = self.single_value(rule);
                let alike = |(of, own)| of == argument && upper(own) == upper(value);
                rule.answer == last.answer && own.is_some_and(alike)
            };
            let count = rest.iter().rev().take_while(alike).count();
            let (before, group) = rest.split_at(rest.len().saturating_sub(count));
            let values = group.iter().filter_map(|rule| self.single_value(rule));
            let values: Vec<u32> = values.map(|(_, value)| lower(value)).collect();
            label = self.one_of((argument, upper(value)), &values, (yes, label), code);
            rest = before;
        }
        label
    }

    /// The argument and the value of a rule that asks whether they are equal, and nothing else.
    fn single_value(&self, rule: &Rule) -> Option<(u32, u64)> {
        let [condition] = rule.conditions.as_slice() else {
            return None;
        };
        match condition.comparison {
            Comparison::Bits { mask, value } if condition.holds && mask == self.target.width() => {
                Some((condition.argument, value))
            }
            Comparison::Bits { .. } | Comparison::AtLeast(_) | Comparison::Above(_) => None,
        }
    }

    /// Whether an argument has this upper half and one of these lower ones.
    fn one_of(
        &self,
        (argument, upper): (u32, u32),
        values: &[u32],
        (yes, no): (Label, Label),
        code: &mut Code,
    ) -> Label {
        let mut label = no;
        for value in values.iter().rev() {
            label = code.test(Test::Equal, *value, yes, label);
        }
        label = code.load(self.lower_half(argument), label);
        if self.target.wide {
            label = code.test(Test::Equal, upper, label, no);
            label = code.load(self.upper_half(argument), label);
        }
        label
    }

    /// The conditions of one rule, of which each must be met.
    fn all_met(&self, rule: &Rule, yes: Label, no: Label, code: &mut Code) -> Label {
        let mut label = yes;
        for condition in rule.conditions.iter().rev() {
            let outcomes = if condition.holds {
                (label, no)
            } else {
                (no, label)
            };
            label = self.compare(condition, outcomes, code);
        }
        label
    }

    fn compare(&self, condition: &Condition, (yes, no): (Label, Label), code: &mut Code) -> Label {
        let argument = condition.argument;
        match condition.comparison {
            Comparison::Bits { mask, value } => {
                let low = (lower(mask), lower(value));
                let low = bits(self.lower_half(argument), low, (yes, no), code);
                let high = (upper(mask), upper(value));
                bits(self.upper_half(argument), high, (low, no), code)
            }
            Comparison::AtLeast(value) => {
                self.order((argument, Test::AtLeast, value), (yes, no), code)
            }
            Comparison::Above(value) => self.order((argument, Test::Above, value), (yes, no), code),
        }
    }

    /// Whether an argument is at least a value, or above it: its upper half decides, or else the lower one.
    fn order(
        &self,
        (argument, test, value): (u32, Test, u64),
        (yes, no): (Label, Label),
        code: &mut Code,
    ) -> Label {
        let low = code.test(test, lower(value), yes, no);
        let low = code.load(self.lower_half(argument), low);
        if !self.target.wide {
            return low;
        }
        let decided = match upper(value) {
            0 => code.test(Test::Equal, 0, low, yes),
            high => {
                let equal = code.test(Test::Equal, high, low, no);
                code.test(Test::Above, high, yes, equal)
            }
        };
        code.load(self.upper_half(argument), decided)
    }

    fn lower_half(&self, argument: u32) -> u32 {
        ARGUMENTS + 8 * argument + if self.target.big_endian { 4 } else { 0 }
    }

    fn upper_half(&self, argument: u32) -> u32 {
        ARGUMENTS + 8 * argument + if self.target.big_endian { 0 } else { 4 }
    }
}

/// Whether these bits of a half, which lies at `offset`, are those of the value.
fn bits(
    offset: u32,
    (mask, value): (u32, u32),
    (yes, no): (Label, Label),
    code: &mut Code,
) -> Label {
    let label = match (mask, value) {
        (0, _) => return yes,
        (u32::MAX, _) => code.test(Test::Equal, value, yes, no),
        (_, 0) => code.test(Test::AnyBit, mask, no, yes),
        (..) => {
            let label = code.test(Test::Equal, value, yes, no);
            code.mask(mask, label)
        }
    };
    code.load(offset, label)
}

/// The lower half of a value.
fn lower(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default()
}

/// The upper half of a value.
fn upper(value: u64) -> u32 {
    lower(value >> 32)
}
