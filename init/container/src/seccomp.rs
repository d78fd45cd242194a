//! The system call filter: data in, classic BPF out, at compile time.
//!
//! Every system call up to [`calls::LAST`] was looked at when this was written: it is allowed,
//! refused (`EPERM`), said to be absent (`ENOSYS`, for those that have a fallback everywhere), or
//! judged by an argument. Every newer one is absent, so that programs fall back. Numbers of a
//! foreign ABI (32-bit programs, x32) end the process: a filter that judged numbers of one ABI by
//! the table of another would let anything through.
//!
//! The table becomes runs of numbers with the same answer, and the runs a balanced tree of
//! comparisons: six or seven of them judge any call, and the kernel, which tries every number once at
//! loading to remember those that are always allowed, is done twenty times faster than with a list.
//!
//! Capabilities widen the filter by the calls that are useless without them ([`calls::UNLOCKED`]),
//! as in Docker's default profile. A container without such capabilities, which is nearly every one,
//! shares the one filter in the binary's read-only data.
#![allow(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "const fn has neither get() nor try_from(); all bounds are constants, the compiler \
              itself evaluates the default filter, and a test builds every other one"
)]

mod calls;

use kedge_sys::privilege::CapabilitySet;
use kedge_sys::seccomp::SockFilter;

use calls::{ABSENT, ARCHITECTURE, BEYOND, FIRST, GAP, HIGHEST_NUMBER, LAST, REFUSED, UNLOCKED};

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Action {
    Allow,
    Refuse,
    Absent,
    /// Allowed if it makes no namespace.
    Clone,
    /// Allowed for the harmless execution domains.
    Personality,
    /// Allowed for all families but [`FAMILIES_REFUSED`].
    Socket,
}

/// Entries of the table: one for each number from [`FIRST`] on, and one for all that are higher. What is lower has the
/// answer of the first one.
const TABLE: usize = place(LAST) + 2;

/// Where a call's number stands in the table.
const fn place(number: u32) -> usize {
    (number - FIRST) as usize
}
/// Room for instructions. A jump reaches 255, so this is also what keeps every jump in reach.
const ROOM: usize = 240;

/// A filter, ready to be loaded.
pub(crate) struct Filter {
    code: [SockFilter; ROOM],
    length: usize,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter of {} instructions", self.length)
    }
}

/// The filter without any widening.
static DEFAULT: Filter = Filter::build(0);

/// The filter of a container, or of its commands.
#[derive(Debug)]
pub(crate) enum Choice {
    Default,
    Widened(Box<Filter>),
}

impl Choice {
    /// The filter for a process with these capabilities.
    pub(crate) fn new(capabilities: CapabilitySet) -> Self {
        let widening = capabilities.bits() & WIDENING;
        if widening == 0 {
            return Self::Default;
        }
        Self::Widened(Box::new(Filter::build(widening)))
    }

    /// Its instructions.
    pub(crate) fn code(&self) -> &[SockFilter] {
        let filter = match self {
            Self::Default => &DEFAULT,
            Self::Widened(filter) => filter,
        };
        filter.code.get(..filter.length).unwrap_or_default()
    }
}

/// The capabilities that change the filter.
const WIDENING: u64 = {
    let mut all = 0;
    let mut at = 0;
    while at < UNLOCKED.len() {
        all |= 1 << UNLOCKED[at].0 as u8;
        at += 1;
    }
    all
};

/// The table for a set of capabilities.
const fn table(capabilities: u64) -> [Action; TABLE] {
    let mut table = [Action::Allow; TABLE];
    table[TABLE - 1] = Action::Absent;
    let mut number = GAP.0;
    while number <= GAP.1 {
        table[place(number)] = Action::Absent;
        number += 1;
    }
    let mut at = 0;
    while at < REFUSED.len() {
        table[place(REFUSED[at])] = Action::Refuse;
        at += 1;
    }
    at = 0;
    while at < ABSENT.len() {
        table[place(ABSENT[at])] = Action::Absent;
        at += 1;
    }
    table[place(calls::CLONE)] = Action::Clone;
    table[place(calls::PERSONALITY)] = Action::Personality;
    table[place(calls::SOCKET)] = Action::Socket;
    at = 0;
    while at < UNLOCKED.len() {
        let (capability, numbers) = UNLOCKED[at];
        let mut call = 0;
        while capabilities & (1 << capability as u8) != 0 && call < numbers.len() {
            table[place(numbers[call])] = Action::Allow;
            call += 1;
        }
        at += 1;
    }
    table
}

/// Numbers from `start` up to the next run have one answer.
#[derive(Clone, Copy)]
struct Run {
    start: u32,
    action: Action,
}

// Classic BPF (`linux/bpf_common.h`) and seccomp's answers (`linux/seccomp.h`).
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const ANSWER_ALLOW: u32 = 0x7fff_0000;
const ANSWER_ERRNO: u32 = 0x0005_0000;
const ANSWER_KILL: u32 = 0x8000_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = if cfg!(target_arch = "mips") { 89 } else { 38 };

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The lower half of the first argument.
const ARGUMENT: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

/// `CLONE_NEW*` of `clone(2)`: mount, cgroup, uts, ipc, user, pid, net. And `CLONE_PARENT`: a command that is executed in a
/// container is PID 1's child, and would give PID 1 more of them, without end, to be reaped.
const CLONE_REFUSED: u32 = 0x7e02_8000;
/// Linux, Linux with 32-bit addresses of uname, each also without address randomisation's legacy, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// ALG, the kernel's ciphers: a large surface that libraries do not need. VSOCK, which reaches the hypervisor of a virtual
/// machine.
const FAMILIES_REFUSED: [u32; 2] = [38, 40];

/// Where the shared ends of a filter are.
#[derive(Clone, Copy)]
struct Labels {
    clone: usize,
    personality: usize,
    socket: usize,
    allow: usize,
    refuse: usize,
    absent: usize,
    kill: usize,
}

impl Labels {
    /// The ends, placed one after the other from `start` on.
    const fn new(start: usize) -> Self {
        let clone = start;
        let personality = clone + 2;
        let socket = personality + 1 + PERSONALITIES.len();
        let allow = socket + 1 + FAMILIES_REFUSED.len();
        Self {
            clone,
            personality,
            socket,
            allow,
            refuse: allow + 1,
            absent: allow + 2,
            kill: allow + 3,
        }
    }

    const fn of(self, action: Action) -> usize {
        match action {
            Action::Allow => self.allow,
            Action::Refuse => self.refuse,
            Action::Absent => self.absent,
            Action::Clone => self.clone,
            Action::Personality => self.personality,
            Action::Socket => self.socket,
        }
    }
}

impl Filter {
    /// Compiles the filter for a set of capabilities.
    const fn build(capabilities: u64) -> Self {
        let table = table(capabilities);
        let mut runs = [Run {
            start: 0,
            action: table[0],
        }; ROOM];
        let mut count = 1;
        let mut number = 1;
        while number < TABLE {
            if table[number] as u8 != table[number - 1] as u8 {
                runs[count] = Run {
                    start: FIRST + number as u32,
                    action: table[number],
                };
                count += 1;
            }
            number += 1;
        }
        let mut beyond = 0;
        while beyond < BEYOND.len() {
            let (first, last) = BEYOND[beyond];
            runs[count] = Run {
                start: first,
                action: Action::Allow,
            };
            runs[count + 1] = Run {
                start: last + 1,
                action: Action::Absent,
            };
            count += 2;
            beyond += 1;
        }
        let nothing = SockFilter::new(RETURN, 0, 0, ANSWER_KILL);
        let mut filter = Self {
            code: [nothing; ROOM],
            length: 0,
        };
        // Architecture, number and the check for x32, then a node between each two runs.
        let head = if HIGHEST_NUMBER.is_some() { 4 } else { 3 };
        let labels = Labels::new(head + count - 1);
        filter.put(SockFilter::new(LOAD, 0, 0, ARCH));
        filter.jump(JUMP_EQUAL, ARCHITECTURE, filter.length + 1, labels.kill);
        filter.put(SockFilter::new(LOAD, 0, 0, NUMBER));
        if let Some(highest) = HIGHEST_NUMBER {
            filter.jump(JUMP_AT_LEAST, highest + 1, labels.kill, filter.length + 1);
        }
        filter.tree(&runs, 0, count, &labels);
        filter.ends(&labels);
        filter
    }

    const fn put(&mut self, instruction: SockFilter) {
        self.code[self.length] = instruction;
        self.length += 1;
    }

    /// A test whose outcomes go to two places further on.
    const fn jump(&mut self, code: u16, operand: u32, yes: usize, no: usize) {
        let next = self.length + 1;
        let (yes, no) = (yes - next, no - next);
        assert!(yes < 256 && no < 256);
        self.put(SockFilter::new(code, yes as u8, no as u8, operand));
    }

    /// The tree over `runs[from..to]`: node, lower half, upper half. A half of one run is no code,
    /// only where its test jumps to.
    const fn tree(&mut self, runs: &[Run; ROOM], from: usize, to: usize, labels: &Labels) {
        if to - from < 2 {
            return;
        }
        let middle = from + (to - from) / 2;
        let next = self.length + 1;
        let lower = if middle - from == 1 {
            labels.of(runs[from].action)
        } else {
            next
        };
        let upper = if to - middle == 1 {
            labels.of(runs[middle].action)
        } else {
            next + (middle - from - 1)
        };
        self.jump(JUMP_AT_LEAST, runs[middle].start, upper, lower);
        self.tree(runs, from, middle, labels);
        self.tree(runs, middle, to, labels);
    }

    /// Whether the argument is one of these.
    const fn among(&mut self, values: &[u32], is: usize, is_not: usize) {
        self.put(SockFilter::new(LOAD, 0, 0, ARGUMENT));
        let mut at = 0;
        while at < values.len() {
            let last = at + 1 == values.len();
            let other = if last { is_not } else { self.length + 1 };
            self.jump(JUMP_EQUAL, values[at], is, other);
            at += 1;
        }
    }

    /// The tests of arguments and the answers.
    const fn ends(&mut self, labels: &Labels) {
        self.put(SockFilter::new(LOAD, 0, 0, ARGUMENT));
        self.jump(JUMP_ANY_BIT, CLONE_REFUSED, labels.refuse, labels.allow);
        self.among(&PERSONALITIES, labels.allow, labels.refuse);
        self.among(&FAMILIES_REFUSED, labels.refuse, labels.allow);
        self.put(SockFilter::new(RETURN, 0, 0, ANSWER_ALLOW));
        self.put(SockFilter::new(RETURN, 0, 0, ANSWER_ERRNO | EPERM));
        self.put(SockFilter::new(RETURN, 0, 0, ANSWER_ERRNO | ENOSYS));
        self.put(SockFilter::new(RETURN, 0, 0, ANSWER_KILL));
    }
}

#[cfg(test)]
mod tests;
