//! An interpreter of classic BPF, and the rules that Linux has for a filter.

use kedge_sys::seccomp::SockFilter;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) arguments: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32, big_endian: bool) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16.. => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                let upper = offset.is_multiple_of(8) == big_endian;
                let half = if upper { argument >> 32 } else { argument };
                u32::try_from(half & 0xffff_ffff).expect("half")
            }
            _ => panic!("offset {offset}"),
        }
    }
}

/// What `code` answers, and after how many instructions.
pub(super) fn run(code: &[SockFilter], data: &Data, big_endian: bool) -> (u32, usize) {
    let (mut at, mut steps, mut loaded) = (0, 0, 0);
    loop {
        let one = code[at];
        at += 1;
        steps += 1;
        let met = match one.code {
            0x20 => {
                loaded = data.word(one.k, big_endian);
                continue;
            }
            0x54 => {
                loaded &= one.k;
                continue;
            }
            0x05 => {
                at += one.k as usize;
                continue;
            }
            0x06 => return (one.k, steps),
            0x15 => loaded == one.k,
            0x25 => loaded > one.k,
            0x35 => loaded >= one.k,
            0x45 => loaded & one.k != 0,
            other => panic!("operation {other:#x}"),
        };
        at += usize::from(if met { one.jt } else { one.jf });
    }
}

/// What Linux asks of a filter (`net/core/filter.c`, `bpf_check_classic`; `kernel/seccomp.c`,
/// `seccomp_check_filter`), and that each instruction can be reached.
pub(super) fn check(code: &[SockFilter]) {
    assert!((1..=crate::MAX_INSTRUCTIONS).contains(&code.len()));
    assert_eq!(code.last().map(|last| last.code), Some(0x06));
    let mut reached = vec![false; code.len()];
    reached[0] = true;
    for (at, one) in code.iter().enumerate() {
        assert!(reached[at], "nothing leads to instruction {at} of {code:?}");
        match one.code {
            0x06 => {}
            0x05 => reached[at + 1 + one.k as usize] = true,
            0x20 => {
                assert!(one.k % 4 == 0 && one.k < 64, "offset {}", one.k);
                reached[at + 1] = true;
            }
            0x54 => reached[at + 1] = true,
            0x15 | 0x25 | 0x35 | 0x45 => {
                reached[at + 1 + usize::from(one.jt)] = true;
                reached[at + 1 + usize::from(one.jf)] = true;
            }
            other => panic!("operation {other:#x}"),
        }
    }
}
