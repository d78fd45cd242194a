//! Which devices the processes of a control group may use: rules, and the program that judges by them.
//!
//! Version 2 of the control groups has no file for it: a group is given a program for the kernel's virtual machine, which is
//! asked for each `mknod(2)` and `open(2)` of a device. Source: Linux `Documentation/bpf/prog_cgroup_sockopt.rst` and
//! `include/uapi/linux/bpf.h` (`BPF_PROG_TYPE_CGROUP_DEVICE`, `struct bpf_cgroup_dev_ctx`); Documentation/bpf/standardization.

use super::Instruction;

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Blocks: `BPF_DEVCG_DEV_BLOCK`.
    Block,
    /// Characters: `BPF_DEVCG_DEV_CHAR`.
    Character,
}

/// What is done with a device: `BPF_DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// To make a node.
    pub const MAKE: Self = Self(1);
    /// To open it for reading.
    pub const READ: Self = Self(2);
    /// To open it for writing.
    pub const WRITE: Self = Self(4);
    /// To open it for both.
    pub const READ_WRITE: Self = Self(6);
    /// All of it.
    pub const ALL: Self = Self(7);

    /// Of letters: `r`, `w`, `m`.
    ///
    /// # Errors
    /// The first other letter.
    pub fn parse(letters: &str) -> Result<Self, char> {
        let mut bits = 0;
        for letter in letters.chars() {
            bits |= match letter {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                other => return Err(other),
            };
        }
        Ok(Self(if bits == 0 { 7 } else { bits }))
    }
}

/// Whether devices may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whether they may.
    pub allow: bool,
    /// None: both.
    pub kind: Option<Kind>,
    /// None: all.
    pub major: Option<u32>,
    /// None: all.
    pub minor: Option<u32>,
    /// What for. A rule that allows fits what it allows all of; one that refuses fits what it refuses some of.
    pub access: Access,
}

// Registers, and codes of instructions: `bpf_common.h`, `bpf.h`.
const R0: u8 = 0;
const R1: u8 = 1;
const TYPE: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_NUMBER: u8 = 0xb4;
const AND_NUMBER: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const JUMP_IF_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

/// The program for these rules: the last that fits counts, and what none fits is refused.
#[must_use]
pub fn program(rules: &[Rule]) -> Vec<Instruction> {
    let load = |to, offset| Instruction::new(LOAD_WORD, to, R1, offset, 0);
    let number = |code, register, value: i32| Instruction::new(code, register, 0, 0, value);
    let mut code = vec![
        // access_type: kind in the lower half, what is wanted in the upper one.
        load(TYPE, 0),
        Instruction::new(MOVE, WANTED, TYPE, 0, 0),
        number(AND_NUMBER, TYPE, 0xffff),
        number(SHIFT_RIGHT, WANTED, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        let judged = judge(rule);
        code.extend(judged);
        if rule.kind.is_none()
            && rule.major.is_none()
            && rule.minor.is_none()
            && rule.access == Access::ALL
        {
            // It fits everything: what would follow is never reached, and the verifier refuses such code.
            return code;
        }
    }
    code.push(number(MOVE_NUMBER, R0, 0));
    code.push(number(EXIT, 0, 0));
    code
}

/// One rule: its tests, each of which jumps to the next rule, and its answer.
fn judge(rule: &Rule) -> Vec<Instruction> {
    let signed = |value: u32| i32::from_ne_bytes(value.to_ne_bytes());
    let mut tests = Vec::new();
    let mut before = Vec::new();
    if rule.access != Access::ALL {
        before.push(Instruction::new(MOVE, R1, WANTED, 0, 0));
        let kept = if rule.allow {
            !rule.access.0 & 7
        } else {
            rule.access.0
        };
        before.push(Instruction::new(AND_NUMBER, R1, 0, 0, i32::from(kept)));
        // Allowed: nothing that is wanted lies outside. Refused: something of it lies inside.
        tests.push(if rule.allow {
            (JUMP_UNLESS_EQUAL, R1, 0)
        } else {
            (JUMP_IF_EQUAL, R1, 0)
        });
    }
    if let Some(kind) = rule.kind {
        let kind = match kind {
            Kind::Block => 1,
            Kind::Character => 2,
        };
        tests.push((JUMP_UNLESS_EQUAL, TYPE, kind));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push((JUMP_UNLESS_EQUAL, register, signed(number)));
        }
    }
    let count = tests.len();
    let jumps = tests
        .into_iter()
        .enumerate()
        .map(|(at, (code, register, value))| {
            // Over the tests that are left, and over the answer's two instructions.
            let over = count.saturating_sub(at).saturating_add(1);
            Instruction::new(
                code,
                register,
                0,
                i16::try_from(over).unwrap_or(i16::MAX),
                value,
            )
        });
    before.extend(jumps);
    before.push(Instruction::new(
        MOVE_NUMBER,
        R0,
        0,
        0,
        i32::from(rule.allow),
    ));
    before.push(Instruction::new(EXIT, 0, 0, 0, 0));
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, for the few instructions that it is made of.
    fn run(code: &[Instruction], kind: Kind, wanted: u8, major: u32, minor: u32) -> bool {
        let kind = match kind {
            Kind::Block => 1,
            Kind::Character => 2,
        };
        let context = [kind | u32::from(wanted) << 16, major, minor];
        let mut registers = [0_u32; 11];
        let mut at = 0;
        loop {
            let (code, to, from, offset, value) = code[at].parts();
            let value = value.cast_unsigned();
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    registers[usize::from(to)] = context[usize::try_from(offset).unwrap() / 4];
                    false
                }
                MOVE => {
                    registers[usize::from(to)] = registers[usize::from(from)];
                    false
                }
                MOVE_NUMBER => {
                    registers[usize::from(to)] = value;
                    false
                }
                AND_NUMBER => {
                    registers[usize::from(to)] &= value;
                    false
                }
                SHIFT_RIGHT => {
                    registers[usize::from(to)] >>= value;
                    false
                }
                JUMP_UNLESS_EQUAL => registers[usize::from(to)] != value,
                JUMP_IF_EQUAL => registers[usize::from(to)] == value,
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            };
            if jump {
                at = at.checked_add_signed(offset.into()).unwrap();
            }
        }
    }

    fn fits(rule: &Rule, kind: Kind, wanted: u8, major: u32, minor: u32) -> bool {
        let access = if rule.allow {
            wanted & !rule.access.0 == 0
        } else {
            wanted & rule.access.0 != 0
        };
        access
            && rule.kind.is_none_or(|it| it == kind)
            && rule.major.is_none_or(|it| it == major)
            && rule.minor.is_none_or(|it| it == minor)
    }

    #[test]
    fn the_program_judges_as_the_last_rule_that_fits() {
        let kinds = [None, Some(Kind::Block), Some(Kind::Character)];
        let numbers = [None, Some(1), Some(0xffff_ffff)];
        let mut all = Vec::new();
        for kind in kinds {
            for major in numbers {
                for minor in [None, Some(3)] {
                    for access in [1, 2, 4, 6, 7] {
                        for allow in [false, true] {
                            let access = Access(access);
                            all.push(Rule {
                                allow,
                                kind,
                                major,
                                minor,
                                access,
                            });
                        }
                    }
                }
            }
        }
        // Runs of rules that begin anywhere in the list, in steps so that unlike ones meet.
        for start in 0..all.len() {
            let rules: Vec<_> = (0..4)
                .map(|step| all[(start + step * 37) % all.len()])
                .collect();
            let code = program(&rules);
            for kind in [Kind::Block, Kind::Character] {
                for wanted in 1..8 {
                    for major in [1, 2, 0xffff_ffff] {
                        for minor in [3, 4] {
                            let last = rules
                                .iter()
                                .rev()
                                .find(|rule| fits(rule, kind, wanted, major, minor));
                            let expected = last.is_some_and(|rule| rule.allow);
                            let judged = run(&code, kind, wanted, major, minor);
                            assert_eq!(
                                judged, expected,
                                "{rules:?} {kind:?} {wanted} {major}:{minor}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_rule_nothing_is_allowed() {
        assert!(!run(&program(&[]), Kind::Character, 2, 1, 3));
    }
}
