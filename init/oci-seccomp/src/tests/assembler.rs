//! Programs written from their end go where they are told, however far that is.

use super::machine::{Data, check, run};
use crate::code::{Code, Test};

fn answer(code: Code, start: crate::code::Label, number: u32) -> u32 {
    let data = Data {
        number,
        arch: 0,
        arguments: [0; 6],
    };
    run(&code.finish(start).expect("program"), &data, false).0
}

/// What is loaded is judged by what is named, not by what happens to be written before.
#[test]
fn a_load_goes_on_where_it_is_told() {
    for (first, expected) in [(true, 7), (false, 8)] {
        let mut code = Code::default();
        let (seven, eight) = (code.answer(7), code.answer(8));
        code.test(Test::Equal, 1, seven, eight);
        let start = code.load(0, if first { seven } else { eight });
        assert_eq!(answer(code, start, 1), expected);
    }
}

/// A list of every length up to some hundreds: both ends of it are within reach of its start, just
/// within, just beyond and far beyond.
#[test]
fn distances_of_every_length() {
    for length in 1..600_u32 {
        let mut code = Code::default();
        let (found, other) = (code.answer(1), code.answer(2));
        let end = code.test(Test::AtLeast, 5000, found, other);
        let mut list = end;
        for number in (0..length).rev() {
            let third = code.answer(3 + number % 3);
            list = code.test(Test::Equal, number, third, list);
        }
        let split = code.test(Test::AtLeast, 4000, end, list);
        let start = code.load(0, split);
        let program = code.finish(start).expect("program");
        check(&program);
        for (number, expected) in [
            (0, 3),
            (length - 1, 3 + (length - 1) % 3),
            (length, 2),
            (4000, 2),
            (5000, 1),
        ] {
            let data = Data {
                number,
                arch: 0,
                arguments: [0; 6],
            };
            assert_eq!(
                run(&program, &data, false).0,
                expected,
                "{number} of {length}"
            );
        }
    }
}

/// One outcome at every distance while the other is far: what is written for that moves this one.
#[test]
fn an_outcome_just_within_reach_beside_one_beyond() {
    for length in 240..260 {
        for swapped in [false, true] {
            let mut code = Code::default();
            let (one, two, three) = (code.answer(1), code.answer(2), code.answer(3));
            let far = code.test(Test::Above, 9, one, two);
            let mut filler = far;
            for _ in 0..300 {
                filler = code.test(Test::Equal, 7, three, filler);
            }
            let near = code.test(Test::Above, 9, three, two);
            for _ in 0..length {
                filler = code.test(Test::Equal, 7, filler, near);
            }
            let (yes, no) = if swapped { (far, near) } else { (near, far) };
            let split = code.test(Test::AtLeast, 100, yes, no);
            let start = code.load(0, split);
            let expected = if swapped { 1 } else { 3 };
            assert_eq!(answer(code, start, 200), expected, "{length}");
        }
    }
}
