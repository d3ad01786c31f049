//! Registers of x86_64, in which i386 programs are stopped as well.

use nix::errno::Errno;
use nix::unistd::Pid;
use pete::Registers;
use sockstrace_backend::Abi;

/// The length of `syscall`, `sysenter` and `int 0x80`.
const INSTRUCTION: u64 = 2;

/// At an entry: the call that will be carried out, −1 for none. At an exit: the call that it was.
#[allow(clippy::unnecessary_wraps, reason = "it takes a request of its own on other architectures")]
pub fn set_number(_: Pid, registers: &mut Registers, number: i32) -> Result<(), Errno> {
    registers.orig_rax = i64::from(number) as u64;
    Ok(())
}

/// At an entry: the call isn't carried out, and gives `value`. (Two registers are set in half the time that it takes
/// to fetch all and to put them back. The result first: should we be killed in between, who was attached to makes its call,
/// as it does from then on, and doesn't get ENOSYS.)
pub fn skip(tid: Pid, value: i64) -> Result<(), Errno> {
    let set = |register, value| nix::sys::ptrace::write_user(tid, register as nix::sys::ptrace::AddressType, value);
    set(std::mem::offset_of!(libc::user_regs_struct, rax), value)?;
    set(std::mem::offset_of!(libc::user_regs_struct, orig_rax), -1)
}

/// What the call gives.
pub fn set_result(registers: &mut Registers, value: i64) {
    registers.rax = value as u64;
}

/// Goes back to the call's instruction, which makes call `number`; the kernel restarts calls so.
pub fn make_again(registers: &mut Registers, number: i32) {
    registers.rip = registers.rip.wrapping_sub(INSTRUCTION);
    registers.rax = i64::from(number) as u64;
    // Else the kernel, which still sees a call ending, might take the result for one of its own.
    registers.orig_rax = u64::MAX;
}

/// Number and result of the call that is coming to its end.
pub fn ending_call(registers: &Registers, abi: Abi) -> Option<(i32, i64)> {
    let number = registers.orig_rax as i32;
    let result = registers.rax as i64;
    // Exceptions and interrupts leave −1 there.
    (number >= 0).then_some((number, if abi == Abi::I386 { i64::from(result as i32) } else { result }))
}

/// Calls that fail with EINTR when they are interrupted, whether or not a handler runs, and have done nothing
/// then: signal(7), "Interruption of system calls and library functions by stop signals". Reads of FUSE and
/// the like are among them; writes could have been done in part.
pub fn fails_when_interrupted(abi: Abi, number: i32) -> bool {
    match abi {
        // read, readv, connect, accept, sendto, recvfrom, sendmsg, recvmsg, semop, rt_sigtimedwait,
        // io_getevents, semtimedop, epoll_wait, epoll_pwait, accept4, recvmmsg, sendmmsg, io_pgetevents,
        // io_uring_enter, epoll_pwait2
        Abi::X86_64 => matches!(
            number,
            0 | 19 | 42..=47 | 65 | 128 | 208 | 220 | 232 | 281 | 288 | 299 | 307 | 333 | 426 | 441
        ),
        // read, socketcall, ipc (semop, semtimedop), readv, rt_sigtimedwait, io_getevents, epoll_wait,
        // epoll_pwait, recvmmsg, sendmmsg, connect, accept4, sendto, sendmsg, recvfrom, recvmsg, io_pgetevents,
        // and those with 64-bit times
        Abi::I386 => matches!(
            number,
            3 | 102 | 117 | 145 | 177 | 247 | 256 | 319 | 337 | 345 | 362 | 364 | 369
                ..=372 | 385 | 416 | 417 | 420 | 421 | 426 | 441
        ),
        Abi::Aarch64 => false,
    }
}

/// The registers that hold a call's arguments.
pub fn arguments(registers: &Registers, abi: Abi) -> [u64; 6] {
    let r = registers;
    if abi == Abi::I386 {
        [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp]
    } else {
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
    }
}

/// Sets them.
pub fn set_arguments(registers: &mut Registers, abi: Abi, arguments: [u64; 6], _at_exit: bool) {
    let r = registers;
    if abi == Abi::I386 {
        [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp] = arguments;
    } else {
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = arguments;
    }
}
