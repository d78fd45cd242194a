//! The filter as a machine sees it: run over numbers and arguments by an interpreter.

use super::*;
use linux_raw_sys::general as nr;

/// `struct seccomp_data` as far as the filters look at it.
struct Call {
    architecture: u32,
    number: u32,
    argument: u32,
}

/// Runs a filter; returns its answer and the instructions that it took.
fn run(code: &[SockFilter], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        let SockFilter {
            code: op,
            jt,
            jf,
            k,
        } = code[at];
        at += 1;
        let taken = match op {
            LOAD => {
                accumulator = match k {
                    NUMBER => call.number,
                    ARCH => call.architecture,
                    ARGUMENT => call.argument,
                    _ => panic!("load of {k}"),
                };
                continue;
            }
            RETURN => return (k, steps),
            JUMP_EQUAL => accumulator == k,
            JUMP_AT_LEAST => accumulator >= k,
            JUMP_ANY_BIT => accumulator & k != 0,
            _ => panic!("operation {op}"),
        };
        at += usize::from(if taken { jt } else { jf });
    }
    unreachable!()
}

fn answer(choice: &Choice, number: u32, argument: u32) -> u32 {
    let call = Call {
        architecture: ARCHITECTURE,
        number,
        argument,
    };
    run(choice.code(), &call).0
}

const REFUSE: u32 = ANSWER_ERRNO | EPERM;
const NONE: u32 = ANSWER_ERRNO | ENOSYS;

#[test]
fn the_tree_answers_as_the_table_says() {
    // Every set of capabilities that widens, over every number.
    for widening in 0..1_u32 << UNLOCKED.len() {
        let bits = UNLOCKED
            .iter()
            .enumerate()
            .filter(|(at, _)| widening & (1 << at) != 0)
            .fold(0, |bits, (_, (capability, _))| {
                bits | 1_u64 << *capability as u8
            });
        let filter = Choice::Widened(Box::new(Filter::build(bits)));
        let table = table(bits);
        for (number, action) in table.iter().enumerate() {
            let number = FIRST + u32::try_from(number).unwrap();
            let wanted = match action {
                Action::Allow | Action::Clone | Action::Personality | Action::Socket => {
                    ANSWER_ALLOW
                }
                Action::Refuse => REFUSE,
                Action::Absent => NONE,
            };
            assert_eq!(answer(&filter, number, 0), wanted, "{number} {bits:x}");
        }
    }
}

#[test]
fn what_matters_is_refused() {
    let filter = Choice::new(CapabilitySet::CHOWN | CapabilitySet::NET_BIND_SERVICE);
    assert!(matches!(filter, Choice::Default));
    for number in [
        nr::__NR_mount,
        nr::__NR_unshare,
        nr::__NR_setns,
        nr::__NR_bpf,
        nr::__NR_keyctl,
        nr::__NR_init_module,
        nr::__NR_reboot,
        nr::__NR_kexec_load,
        nr::__NR_move_mount,
    ] {
        assert_eq!(answer(&filter, number, 0), REFUSE, "{number}");
    }
    for number in [nr::__NR_clone3, nr::__NR_io_uring_setup, 400, 467, 5000] {
        assert_eq!(answer(&filter, number, 0), NONE, "{number}");
    }
    for number in [
        nr::__NR_read,
        nr::__NR_execve,
        nr::__NR_openat,
        nr::__NR_rseq,
    ] {
        assert_eq!(answer(&filter, number, 0), ANSWER_ALLOW, "{number}");
    }
}

#[test]
fn arguments_are_judged() {
    let filter = Choice::Default;
    assert_eq!(answer(&filter, nr::__NR_clone, 0x1200_0000), REFUSE);
    assert_eq!(answer(&filter, nr::__NR_clone, 0x0120_0011), ANSWER_ALLOW);
    // CLONE_PARENT
    let parents_child = 0x8000;
    assert_eq!(answer(&filter, nr::__NR_clone, parents_child), REFUSE);
    for family in FAMILIES_REFUSED {
        assert_eq!(answer(&filter, nr::__NR_socket, family), REFUSE);
    }
    assert_eq!(answer(&filter, nr::__NR_socket, 1), ANSWER_ALLOW);
    assert_eq!(answer(&filter, nr::__NR_personality, 0x40_0000), REFUSE);
    for persona in PERSONALITIES {
        assert_eq!(answer(&filter, nr::__NR_personality, persona), ANSWER_ALLOW);
    }
    let widened = Choice::new(CapabilitySet::SYS_ADMIN);
    assert_eq!(answer(&widened, nr::__NR_clone, 0x1200_0000), ANSWER_ALLOW);
}

#[test]
fn a_foreign_abi_ends_the_process() {
    let mut call = Call {
        architecture: ARCHITECTURE ^ 1,
        number: 0,
        argument: 0,
    };
    assert_eq!(run(Choice::Default.code(), &call).0, ANSWER_KILL);
    if let Some(highest) = HIGHEST_NUMBER {
        call.architecture = ARCHITECTURE;
        call.number = highest + 1;
        assert_eq!(run(Choice::Default.code(), &call).0, ANSWER_KILL);
    }
}

#[test]
fn every_call_is_judged_in_few_steps() {
    let code = Choice::Default.code();
    let most = (FIRST..FIRST + 600).map(|number| {
        let call = Call {
            architecture: ARCHITECTURE,
            number,
            argument: 0,
        };
        run(code, &call).1
    });
    let most = most.max().unwrap();
    assert!(most <= 18, "{most} of {} instructions", code.len());
    assert!(code.len() < 160, "{}", code.len());
}
