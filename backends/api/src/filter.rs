//! The seccomp filter that selects the calls to be judged, built by libseccomp for every ABI.

use crate::BackendError;
use crate::arch;
use crate::call::{Abi, Syscall};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::errno::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek};

/// A call to stop at, if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// The call. `socketcall` is added by the filter for what it multiplexes.
    pub syscall: Syscall,
    /// At most one condition an argument (a limit of libseccomp). Empty: always.
    pub conditions: Vec<Condition>,
}

impl Trap {
    /// Stop at every such call.
    #[must_use]
    pub fn always(syscall: Syscall) -> Self {
        Self { syscall, conditions: Vec::new() }
    }

    /// Stop where the conditions hold.
    #[must_use]
    pub fn when(syscall: Syscall, conditions: impl Into<Vec<Condition>>) -> Self {
        Self { syscall, conditions: conditions.into() }
    }

    /// Whether a call with these arguments is to be stopped at: what the filter decides, for backends that
    /// can't install one. socketcall is judged by its number alone.
    #[must_use]
    pub fn matches(&self, syscall: Syscall, args: &[u64; 6]) -> bool {
        self.syscall == syscall
            && self.conditions.iter().all(|condition| {
                args.get(condition.argument as usize).is_some_and(|value| condition.comparison.holds(*value))
            })
    }
}

/// A call that a backend stops at for its own purposes: no [`crate::Handler`] ever sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnTrap {
    /// The call's name, as libseccomp knows it.
    pub name: &'static str,
    /// As [`Trap::conditions`].
    pub conditions: Vec<Condition>,
    /// The filter itself lets it fail with this, and nobody is asked.
    pub refused: Option<Errno>,
}

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Index of the argument, 0 to 5.
    pub argument: u32,
    /// The test.
    pub comparison: Comparison,
}

impl Condition {
    /// A test of argument `argument`.
    #[must_use]
    pub fn new(argument: u32, comparison: Comparison) -> Self {
        Self { argument, comparison }
    }
}

/// Tests that a filter can make. Registers are compared with all 64 bits: use [`Comparison::Masked`] for
/// `int` arguments, whose upper half the kernel ignores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Not equal.
    NotEqual(u64),
    /// Greater, unsigned.
    Greater(u64),
    /// `value & mask == expected`
    Masked {
        /// The bits that are compared.
        mask: u64,
        /// Their value.
        expected: u64,
    },
}

impl Comparison {
    /// The argument, an `int`, equals `value`.
    #[must_use]
    pub fn int_equal(value: i32) -> Self {
        Self::Masked { mask: 0xFFFF_FFFF, expected: u64::from(value as u32) }
    }

    /// Whether an argument of this value passes the test.
    #[must_use]
    pub fn holds(self, value: u64) -> bool {
        match self {
            Self::NotEqual(other) => value != other,
            Self::Greater(other) => value > other,
            Self::Masked { mask, expected } => value & mask == expected,
        }
    }

    fn to_libseccomp(self, argument: u32) -> ScmpArgCompare {
        match self {
            Self::NotEqual(value) => ScmpArgCompare::new(argument, ScmpCompareOp::NotEqual, value),
            Self::Greater(value) => ScmpArgCompare::new(argument, ScmpCompareOp::Greater, value),
            Self::Masked { mask, expected } => {
                ScmpArgCompare::new(argument, ScmpCompareOp::MaskedEqual(mask), expected)
            }
        }
    }
}

/// What the filter does with a call that is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interception {
    /// `SECCOMP_RET_USER_NOTIF`
    Notify,
    /// `SECCOMP_RET_TRACE`
    Trace,
}

/// A compiled filter, ready for seccomp(2).
#[derive(Debug, Clone)]
pub struct Filter {
    instructions: Vec<libc::sock_filter>,
}

impl Filter {
    /// The filter that intercepts `traps`.
    ///
    /// # Errors
    /// Where libseccomp can't express it: a bug, or a libseccomp that is too old.
    pub fn intercepting(traps: &[Trap], interception: Interception) -> Result<Self, BackendError> {
        Self::intercepting_also(traps, &[], interception)
    }

    /// The filter that intercepts `traps`, and `own`: calls that the backend wants to see for itself.
    ///
    /// # Errors
    /// As [`Filter::intercepting`].
    pub fn intercepting_also(
        traps: &[Trap],
        own: &[OwnTrap],
        interception: Interception,
    ) -> Result<Self, BackendError> {
        let action = match interception {
            Interception::Notify => ScmpAction::Notify,
            Interception::Trace => ScmpAction::Trace(0),
        };
        for_each_abi(|abi| {
            let mut context = context(abi, ScmpAction::Allow)?;
            let mut multiplexed = HashSet::new();
            for trap in traps {
                let has_socketcall = Syscall::Socketcall.number(abi).is_some();
                let number = socketcall_number(trap.syscall).filter(|_| has_socketcall);
                // Once: libseccomp takes its time for each rule.
                if let Some(number) = number.filter(|number| multiplexed.insert(*number)) {
                    // Its arguments lie in memory, where a filter can't look. (accept4 has no direct number
                    // for accept in i386: socketcall is its only way.)
                    let is_it = Condition::new(0, Comparison::int_equal(number));
                    add(&mut context, action, Syscall::Socketcall.name(), &[is_it])?;
                }
                // What an interface doesn't have, libseccomp may not know.
                if trap.syscall.number(abi).is_some() {
                    add(&mut context, action, trap.syscall.name(), &trap.conditions)?;
                }
            }
            for trap in own {
                let action = trap.refused.map_or(action, |errno| ScmpAction::Errno(errno as i32));
                add(&mut context, action, trap.name, &trap.conditions)?;
            }
            export(&context)
        })
    }

    /// The filter that refuses with EPERM whatever isn't named in `allowed`. Names that this libseccomp
    /// does not know are left out, so that those calls are refused.
    pub fn allowing_only(allowed: &[&str]) -> Result<Self, BackendError> {
        for_each_abi(|abi| {
            let mut context = context(abi, ScmpAction::Errno(libc::EPERM))?;
            for name in allowed {
                if ScmpSyscall::from_name(name).is_ok() {
                    add(&mut context, ScmpAction::Allow, name, &[])?;
                }
            }
            export(&context)
        })
    }

    /// The BPF program, as `struct sock_fprog` wants it.
    #[must_use]
    pub fn instructions(&self) -> &[libc::sock_filter] {
        &self.instructions
    }
}

/// One program out of one for each interface. (What libseccomp takes grows with the square of the rules: one context
/// for both interfaces of x86_64 takes it twice as long as two.)
fn for_each_abi(
    program: impl Fn(Abi) -> Result<Vec<libc::sock_filter>, BackendError>,
) -> Result<Filter, BackendError> {
    let mut instructions = Vec::new();
    let mut abis = arch::ABIS.iter().peekable();
    while let Some(abi) = abis.next() {
        let part = program(*abi)?;
        if abis.peek().is_some() {
            let over = u32::try_from(part.len()).map_err(|_| senseless())?;
            let arch_at = std::mem::offset_of!(libc::seccomp_data, arch);
            instructions.extend([
                statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, arch_at as u32),
                libc::sock_filter {
                    jt: 1,
                    ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, abi.audit_arch())
                },
                statement(libc::BPF_JMP | libc::BPF_JA, over),
            ]);
        }
        // Each part, and so the last one, knows what becomes of interfaces that aren't its own.
        instructions.extend(part);
    }
    if instructions.len() > libc::BPF_MAXINSNS as usize {
        return Err(senseless());
    }
    Ok(Filter { instructions })
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn context(abi: Abi, default: ScmpAction) -> Result<ScmpFilterContext, BackendError> {
    let failed = |error| failure("building the seccomp filter", &error);
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    // Unknown ABIs, x32 among them, do not exist for the program: ENOSYS, as on a kernel without them.
    context.set_act_badarch(ScmpAction::Errno(libc::ENOSYS)).map_err(failed)?;
    if arch::ABIS.first() != Some(&abi) {
        context.add_arch(libseccomp_arch(abi)).map_err(failed)?;
        context.remove_arch(ScmpArch::Native).map_err(failed)?;
    }
    // 2: a binary tree over the numbers; older libseccomp keeps its list, which is only slower.
    if let Err(error) = context.set_ctl_optimize(2) {
        let _ = error;
    }
    Ok(context)
}

fn add(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    name: &str,
    conditions: &[Condition],
) -> Result<(), BackendError> {
    let failed = |error| failure(&format!("adding {name} to the seccomp filter"), &error);
    let call = ScmpSyscall::from_name(name).map_err(failed)?;
    let comparisons: Vec<_> = conditions.iter().map(|c| c.comparison.to_libseccomp(c.argument)).collect();
    context.add_rule_conditional(action, call, &comparisons).map_err(failed)?;
    Ok(())
}

fn export(context: &ScmpFilterContext) -> Result<Vec<libc::sock_filter>, BackendError> {
    let fd = nix::sys::memfd::memfd_create(c"filter", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| not_exported("memfd", errno))?;
    let mut file = File::from(fd);
    context.export_bpf(&file).map_err(|error| failure("exporting the seccomp filter", &error))?;
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| not_exported("reading it", errno_of(&error)))?;
    let (instructions, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || instructions.is_empty() {
        return Err(senseless());
    }
    let instructions = instructions.iter().map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    });
    Ok(instructions.collect())
}

fn not_exported(what: &str, errno: Errno) -> BackendError {
    BackendError::Failed(format!("exporting the seccomp filter: {what}"), errno)
}

fn senseless() -> BackendError {
    not_exported("its length makes no sense", Errno::EINVAL)
}

/// Whether the child itself makes such calls between its fork and PROGRAM's exec, when nobody answers yet.
#[must_use]
pub fn is_of_start(call: Syscall) -> bool {
    matches!(call, Syscall::Read | Syscall::Write | Syscall::Close)
}

/// The errno of an I/O error, EIO where it has none.
#[must_use]
pub fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn failure(what: &str, error: &libseccomp::error::SeccompError) -> BackendError {
    let errno = error.sysrawrc().map_or(Errno::EINVAL, |code| Errno::from_raw(code.wrapping_neg()));
    BackendError::Failed(format!("{what}: {error}"), errno)
}

fn libseccomp_arch(abi: Abi) -> ScmpArch {
    match abi {
        Abi::X86_64 => ScmpArch::X8664,
        Abi::I386 => ScmpArch::X86,
        Abi::Aarch64 => ScmpArch::Aarch64,
    }
}

/// The first argument of socketcall for this call (`SYS_*` of <linux/net.h>).
#[must_use]
pub fn socketcall_number(call: Syscall) -> Option<i32> {
    Some(match call {
        Syscall::Socket => 1,
        Syscall::Bind => 2,
        Syscall::Connect => 3,
        Syscall::Listen => 4,
        Syscall::Accept => 5,
        Syscall::Getsockname => 6,
        Syscall::Getpeername => 7,
        Syscall::Socketpair => 8,
        Syscall::Send => 9,
        Syscall::Recv => 10,
        Syscall::Sendto => 11,
        Syscall::Recvfrom => 12,
        Syscall::Setsockopt => 14,
        Syscall::Getsockopt => 15,
        Syscall::Sendmsg => 16,
        Syscall::Recvmsg => 17,
        Syscall::Accept4 => 18,
        Syscall::Recvmmsg => 19,
        Syscall::Sendmmsg => 20,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would (the subset of classic BPF that libseccomp emits).
    fn verdict(filter: &Filter, arch: u32, number: i32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        for arg in args {
            data.extend(arg.to_ne_bytes());
        }
        let (mut accumulator, mut pc) = (0_u32, 0_usize);
        loop {
            let instruction = filter.instructions[pc];
            pc += 1;
            let k = instruction.k;
            let jump = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
            match instruction.code {
                0x20 => accumulator = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
                0x54 => accumulator &= k,
                0x05 => pc += k as usize,
                0x15 => pc += jump(accumulator == k),
                0x25 => pc += jump(accumulator > k),
                0x35 => pc += jump(accumulator >= k),
                0x06 => return k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    const NOTIFY: u32 = 0x7FC0_0000;
    const ALLOW: u32 = 0x7FFF_0000;
    const ERRNO: u32 = 0x0005_0000;
    const X32: i32 = 0x4000_0000;
    const X86_64: u32 = 0xC000_003E;
    const I386: u32 = 0x4000_0003;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn conditions_hold_in_each_abi() {
        let destination = Condition::new(4, Comparison::NotEqual(0));
        let traps = [Trap::when(Syscall::Sendto, [destination]), Trap::always(Syscall::Accept)];
        let filter = Filter::intercepting(&traps, Interception::Notify).unwrap();
        let with = |index: usize, value: u64| {
            let mut args = [0; 6];
            args[index] = value;
            args
        };
        assert_eq!(verdict(&filter, X86_64, 44, with(4, 1)), NOTIFY);
        assert_eq!(verdict(&filter, X86_64, 44, with(4, 1 << 40)), NOTIFY);
        assert_eq!(verdict(&filter, X86_64, 44, [0; 6]), ALLOW);
        assert_eq!(verdict(&filter, X86_64, 43, [0; 6]), NOTIFY);
        assert_eq!(verdict(&filter, I386, 369, with(4, 1)), NOTIFY);
        assert_eq!(verdict(&filter, I386, 369, [0; 6]), ALLOW);
        // socketcall: the number alone decides, the arguments are in memory.
        assert_eq!(verdict(&filter, I386, 102, with(0, 11)), NOTIFY);
        assert_eq!(verdict(&filter, I386, 102, with(0, 5)), NOTIFY);
        assert_eq!(verdict(&filter, I386, 102, with(0, 9)), ALLOW);
        // x32 and foreign ABIs do not exist.
        assert_eq!(verdict(&filter, X86_64, X32 + 44, [0; 6]), ERRNO + 38);
        assert_eq!(verdict(&filter, 0x1234, 44, [0; 6]), ERRNO + 38);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn int_arguments_ignore_the_upper_half() {
        let traps = [Trap::when(Syscall::Ioctl, [Condition::new(1, Comparison::int_equal(0x8912))])];
        let filter = Filter::intercepting(&traps, Interception::Trace).unwrap();
        for upper in [0_u64, 0xDEAD_0000_0000] {
            assert_eq!(verdict(&filter, X86_64, 16, [3, upper | 0x8912, 0, 0, 0, 0]), 0x7FF0_0000);
        }
        assert_eq!(verdict(&filter, X86_64, 16, [3, 0x8913, 0, 0, 0, 0]), ALLOW);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn strict_refuses_what_is_not_named() {
        let filter = Filter::allowing_only(&["read", "no_such_call"]).unwrap();
        assert_eq!(verdict(&filter, X86_64, 0, [0; 6]), ALLOW);
        assert_eq!(verdict(&filter, I386, 3, [0; 6]), ALLOW);
        assert_eq!(verdict(&filter, X86_64, 1, [0; 6]), ERRNO + 1);
    }

    #[test]
    fn matches_agrees_with_the_filter() {
        let trap = Trap::when(Syscall::Sendto, [Condition::new(4, Comparison::NotEqual(0))]);
        assert!(trap.matches(Syscall::Sendto, &[0, 0, 0, 0, 7, 0]));
        assert!(!trap.matches(Syscall::Sendto, &[0; 6]));
        assert!(!trap.matches(Syscall::Sendmsg, &[0, 0, 0, 0, 7, 0]));
    }
}
