//! Every state comes back, every damage is seen.

use super::*;
use crate::record::crc32;
use proptest::prelude::*;

fn targets() -> impl Strategy<Value = Target> {
    (any::<[u8; 32]>(), any::<u64>(), any::<bool>()).prop_map(|(digest, parameters, a)| Target {
        revision: ObjectId::from_digest(digest),
        parameters,
        slot: if a { Slot::A } else { Slot::B },
    })
}

fn reasons() -> impl Strategy<Value = Reason> {
    let name = || "[a-z]([a-z0-9-]{0,30}[a-z0-9])?".prop_map(|name| name.parse::<Name>().unwrap());
    let goal = prop_oneof![Just(Goal::Started), Just(Goal::Ready), Just(Goal::Finished)];
    prop_oneof![
        (name(), goal, any::<i32>()).prop_map(|(container, goal, exit)| Reason::GoalMissed {
            container,
            goal,
            exit
        }),
        (name(), any::<i32>()).prop_map(|(container, exit)| Reason::CrashLoop { container, exit }),
        Just(Reason::HubLost),
        Just(Reason::NetworkLost),
        Just(Reason::Storage),
        Just(Reason::Watchdog),
        Just(Reason::KernelPanic),
        prop::option::of(name()).prop_map(|container| Reason::OutOfMemory { container }),
        Just(Reason::PowerCut),
        Just(Reason::TriesExhausted),
        Just(Reason::NeverBooted),
        Just(Reason::Refused),
        Just(Reason::Operator),
    ]
}

fn trials() -> impl Strategy<Value = Trial> {
    let commit = (any::<u32>(), any::<u64>(), any::<u32>());
    let fields = (targets(), any::<[u8; 6]>(), any::<(bool, bool)>(), commit);
    fields.prop_map(
        |(target, counts, (held, hub), (root, counter, root_version))| {
            let [tries_left, armings, give_backs, exhaustions, starts, tries] = counts;
            Trial {
                target,
                tries_left,
                armings,
                give_backs,
                exhaustions,
                held,
                hub: if hub { Hub::Answered } else { Hub::Silent },
                starts,
                tries,
                floor: Floor { root, counter },
                root_version,
            }
        },
    )
}

fn states() -> impl Strategy<Value = State> {
    let failure = (targets(), reasons()).prop_map(|(target, reason)| Failure { target, reason });
    let numbers = (
        any::<u32>(),
        any::<u64>(),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
    );
    (
        targets(),
        prop::option::of(trials()),
        prop::option::of(failure),
        numbers,
    )
        .prop_map(
            |(
                committed,
                trial,
                failed,
                (root, counter, root_version, unsettled, watchdog_resets),
            )| State {
                committed,
                trial,
                failed,
                floor: Floor { root, counter },
                root_version,
                unsettled,
                watchdog_resets,
            },
        )
}

/// Sets the checksum right again, as an attacker or a bug could.
fn resum(copy: &mut [u8; COPY]) {
    copy[12..16].fill(0);
    let sum = crc32(&copy[..SIZE]).to_le_bytes();
    copy[12..16].copy_from_slice(&sum);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn states_come_back(state in states(), sequence: u64) {
        prop_assert_eq!(Numbered::parse(&state.encode(sequence)), Ok(Numbered { sequence, state }));
    }

    #[test]
    fn every_flipped_bit_is_detected_and_the_other_copy_counts(old in states(), new in states()) {
        let (older, newer) = (old.encode(7), new.encode(8));
        for bit in 0..SIZE * 8 {
            let mut flipped = newer;
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Numbered::parse(&flipped).is_err(), "bit {}", bit);
            if bit % 64 == 0 {
                prop_assert_eq!(choose(&older, &flipped).map(|read| read.state), Some(old.clone()));
                prop_assert_eq!(choose(&flipped, &older).map(|read| read.state), Some(old.clone()));
            }
        }
    }

    #[test]
    fn every_torn_write_leaves_the_other_copy(oldest in states(), old in states(), new in states()) {
        // Copies hold 6 and 7; 8 is written over 6.
        let (first, second, next) = (oldest.encode(6), old.encode(7), new.encode(8));
        for cut in 0..=SIZE {
            let mut torn = first;
            torn[..cut].copy_from_slice(&next[..cut]);
            let read = choose(&torn, &second).unwrap();
            prop_assert!(read.state == old || read.state == new, "cut at {}", cut);
            prop_assert!(read.sequence >= 7);
        }
    }

    #[test]
    fn a_right_checksum_does_not_excuse_wrong_fields(state in states(), at in 16_usize..SIZE, value: u8) {
        let mut copy = state.encode(1);
        copy[at] = value;
        resum(&mut copy);
        // Either it is another well-formed state, or it is refused: never something that is written differently.
        if let Ok(read) = Numbered::parse(&copy) {
            prop_assert_eq!(&read.state.encode(read.sequence)[..SIZE], &copy[..SIZE]);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Numbered::parse(&bytes).is_err());
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let revision = ObjectId::from_digest([0xab; 32]);
    let mut state = State::born(
        revision,
        Floor {
            root: 3,
            counter: 40,
        },
        3,
    );
    let target = Target {
        revision,
        parameters: 9,
        slot: Slot::B,
    };
    state.trial = Some(Trial {
        target,
        tries_left: 3,
        armings: 1,
        give_backs: 2,
        exhaustions: 4,
        held: true,
        hub: Hub::Answered,
        starts: 5,
        tries: 6,
        floor: Floor {
            root: 7,
            counter: 80,
        },
        root_version: 8,
    });
    let container = "web".parse().unwrap();
    let reason = Reason::GoalMissed {
        container,
        goal: Goal::Ready,
        exit: -1,
    };
    state.failed = Some(Failure { target, reason });
    state.unsettled = 5;
    state.watchdog_resets = 6;
    let copy = state.encode(0x0102);
    assert_eq!(&copy[..8], b"KEDGEBR1");
    assert_eq!(copy[8..12], [1, 0, 0, 0]);
    assert_eq!(copy[16..18], [2, 1]);
    assert_eq!((copy[24], copy[64]), (0xab, 1));
    assert_eq!((copy[104], copy[112]), (9, 2));
    assert_eq!(copy[120..128], [1, 3, 1, 2, 4, 3, 5, 6]);
    assert_eq!(copy[176..184], [1, 2, 3, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(&copy[184..188], b"web\0");
    assert_eq!(
        (copy[216], copy[220], copy[224], copy[232], copy[236]),
        (3, 3, 40, 5, 6)
    );
    assert_eq!((copy[240], copy[244], copy[248]), (7, 8, 80));
    assert!(copy[256..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut copy = State::born(ObjectId::from_digest([1; 32]), Floor::default(), 1).encode(1);
    copy[8] = 2;
    resum(&mut copy);
    assert_eq!(Numbered::parse(&copy), Err(Error::Version { version: 2 }));
    assert_eq!(Numbered::parse(&[0; COPY]), Err(Error::Magic));
}

#[test]
fn reasons_say_how_a_process_ended() {
    let container: Name = "web".parse().unwrap();
    let said = |exit| {
        let container = container.clone();
        Reason::CrashLoop { container, exit }.to_string()
    };
    assert_eq!(said(0), "crash-loop(web)");
    assert_eq!(said(3 << 8), "crash-loop(web, exit 3)");
    assert_eq!(said(9), "crash-loop(web, signal 9)");
    assert_eq!(said(0x80 | 11), "crash-loop(web, signal 11)");
}
