//! Which calls are to be judged, and which matter to the tracer itself.

use crate::arch;
use crate::frame::Frame;
use sockstrace_backend::arch::ABIS;
use sockstrace_backend::filter::{OwnTrap, socketcall_number};
use sockstrace_backend::{Abi, Comparison, Condition, Syscall, Trap};
use std::collections::HashMap;

/// `CLONE_UNTRACED` of clone(2).
pub const CLONE_UNTRACED: u64 = 0x0080_0000;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` of seccomp(2).
const NEW_LISTENER: u64 = 1 << 3;

/// Why a call was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The handler judges it.
    Judge(Syscall),
    /// clone(2), which might ask for a child that isn't traced.
    Clone,
    /// clone3(2), likewise; its flags are in memory.
    Clone3,
    /// A seccomp listener of the program's own: its verdict "continue" would outdo our filter's "trace".
    Listener,
}

/// Recognizes calls.
#[derive(Debug)]
pub struct Selector {
    traps: Vec<Trap>,
    numbers: HashMap<(Abi, i32), Wanted>,
}

impl Selector {
    /// A selector for these traps and the tracer's own.
    pub fn new(traps: &[Trap]) -> Self {
        let mut numbers = HashMap::new();
        for abi in ABIS {
            for trap in traps {
                if let Some(number) = trap.syscall.number(*abi) {
                    numbers.insert((*abi, number), Wanted::Judge(trap.syscall));
                }
            }
            if let Some(number) = Syscall::Socketcall.number(*abi) {
                numbers.insert((*abi, number), Wanted::Judge(Syscall::Socketcall));
            }
            let own = arch::numbers(*abi);
            numbers.insert((*abi, own.clone), Wanted::Clone);
            numbers.insert((*abi, own.clone3), Wanted::Clone3);
            numbers.insert((*abi, own.seccomp), Wanted::Listener);
        }
        Self { traps: traps.to_vec(), numbers }
    }

    /// What the filter is to trap for the tracer itself.
    pub fn own_traps() -> [OwnTrap; 3] {
        let bit = |argument, bit| Condition::new(argument, Comparison::Masked { mask: bit, expected: bit });
        let set_filter = Condition::new(0, Comparison::int_equal(libc::SECCOMP_SET_MODE_FILTER as i32));
        [
            ("clone", vec![bit(0, CLONE_UNTRACED)]),
            ("clone3", Vec::new()),
            ("seccomp", vec![set_filter, bit(1, NEW_LISTENER)]),
        ]
        .map(|(name, conditions)| OwnTrap { name, conditions, refused: None })
    }

    /// Why the filter stopped this call; `None` where it can't have been ours.
    pub fn stopped_by_filter(&self, frame: &Frame) -> Option<Wanted> {
        let wanted = *self.numbers.get(&(frame.abi, frame.number))?;
        // The numbers that we trap on conditions of our own; what is judged is judged in any case.
        (matches!(wanted, Wanted::Judge(_)) || own_conditions_hold(wanted, frame)).then_some(wanted)
    }

    /// What the filter would have stopped at, where there is none.
    pub fn select(&self, frame: &Frame) -> Option<Wanted> {
        let wanted = *self.numbers.get(&(frame.abi, frame.number))?;
        let holds = match wanted {
            Wanted::Judge(Syscall::Socketcall) => {
                let number = frame.args[0] as i32;
                self.traps.iter().any(|trap| socketcall_number(trap.syscall) == Some(number))
            }
            Wanted::Judge(syscall) => self.traps.iter().any(|trap| trap.matches(syscall, &frame.args)),
            own => own_conditions_hold(own, frame),
        };
        holds.then_some(wanted)
    }
}

fn own_conditions_hold(wanted: Wanted, frame: &Frame) -> bool {
    match wanted {
        Wanted::Judge(_) | Wanted::Clone3 => true,
        Wanted::Clone => frame.args[0] & CLONE_UNTRACED != 0,
        Wanted::Listener => {
            frame.args[0] as u32 == libc::SECCOMP_SET_MODE_FILTER && frame.args[1] & NEW_LISTENER != 0
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn frame(abi: Abi, number: i32, args: [u64; 6]) -> Frame {
        Frame { abi, number, args, ip: 0, sp: 0 }
    }

    #[test]
    fn calls_are_selected_as_the_filter_does() {
        let destination = Condition::new(4, Comparison::NotEqual(0));
        let selector = Selector::new(&[Trap::when(Syscall::Sendto, [destination])]);
        let with = [3, 1, 1, 0, 7, 16];
        let without = [3, 1, 1, 0, 0, 0];
        assert_eq!(selector.select(&frame(Abi::X86_64, 44, with)), Some(Wanted::Judge(Syscall::Sendto)));
        assert_eq!(selector.select(&frame(Abi::X86_64, 44, without)), None);
        assert_eq!(selector.select(&frame(Abi::X86_64, 42, with)), None);
        assert_eq!(selector.select(&frame(Abi::I386, 369, with)), Some(Wanted::Judge(Syscall::Sendto)));
        let socketcall = |number| selector.select(&frame(Abi::I386, 102, [number, 0, 0, 0, 0, 0]));
        assert_eq!(socketcall(11), Some(Wanted::Judge(Syscall::Socketcall)));
        assert_eq!(socketcall(3), None);
        let clone = |flags| selector.select(&frame(Abi::X86_64, 56, [flags, 0, 0, 0, 0, 0]));
        assert_eq!((clone(CLONE_UNTRACED | 0x11), clone(0x11)), (Some(Wanted::Clone), None));
    }

    #[test]
    fn a_stop_that_is_not_ours_is_recognized() {
        let selector = Selector::new(&[Trap::always(Syscall::Connect)]);
        assert_eq!(selector.stopped_by_filter(&frame(Abi::X86_64, 1, [0; 6])), None);
        assert_eq!(selector.stopped_by_filter(&frame(Abi::X86_64, 317, [1, 0, 0, 0, 0, 0])), None);
        let listener = selector.stopped_by_filter(&frame(Abi::X86_64, 317, [1, 9, 0, 0, 0, 0]));
        assert_eq!(listener, Some(Wanted::Listener));
    }
}
