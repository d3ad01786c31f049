//! What the unwinder has to know of a machine.

use super::{aarch64, i386, x86_64};

/// Registers by DWARF number; enough for every machine here.
const REGISTERS: usize = 33;

/// The machine that a thread runs as (an i386 program on x86_64 is `I386`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
}

/// A machine's particulars, one `SPEC` in each folder.
pub(super) struct Spec {
    /// Bytes of a word on the stack.
    pub word: u8,
    /// DWARF numbers.
    pub pc: u8,
    pub sp: u8,
    pub fp: u8,
    /// The register that holds the return address at a function's entry, if that is no place on the stack.
    pub link: Option<u8>,
    /// Where the frame pointer's own frame keeps (previous frame pointer, return address), from it.
    pub frame_record: (u64, u64),
    /// The bits of a return address that are address (not pointer authentication).
    pub address_mask: u64,
    /// How many bytes before an address `call_before` and `syscall_before` want to see.
    pub window: usize,
    /// Whether the bytes end with a call; if a direct one, by how much its target is off.
    pub call_before: fn(&[u8]) -> Option<Call>,
    /// Whether the bytes end with a system call.
    pub syscall_before: fn(&[u8]) -> bool,
    /// Whether the bytes begin a signal trampoline, and which.
    pub trampoline: fn(&[u8]) -> Option<Trampoline>,
}

/// A call instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// To a target this far from the return address.
    Direct(i64),
    /// To where a fixed place in memory says (`call *name@GOTPCREL(%rip)`).
    Slot,
    /// To where a register or other memory says.
    Indirect,
}

/// Where a signal frame keeps the interrupted registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trampoline {
    /// The registers lie in a block at this distance from the stack pointer...
    pub block: i64,
    /// ...or at the address that stands there (and `block` is from that).
    pub pointer: Option<i64>,
    /// (DWARF number, offset in the block).
    pub registers: &'static [(u8, i64)],
}

impl Arch {
    pub(super) fn spec(self) -> &'static Spec {
        match self {
            Self::X86_64 => &x86_64::SPEC,
            Self::I386 => &i386::SPEC,
            Self::Aarch64 => &aarch64::SPEC,
        }
    }

    /// The machine of an ELF file by its `e_machine`.
    #[must_use]
    pub fn of_elf(machine: u16) -> Option<Self> {
        match machine {
            62 => Some(Self::X86_64),
            3 => Some(Self::I386),
            183 => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// Bytes of a pointer.
    #[must_use]
    pub fn word(self) -> u8 {
        self.spec().word
    }
}

/// The registers of a frame, by DWARF number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    arch: Arch,
    values: [u64; REGISTERS],
    known: u64,
    thread_pointer: Option<u64>,
}

impl Registers {
    /// No register is known.
    #[must_use]
    pub fn new(arch: Arch) -> Self {
        Self { arch, values: [0; REGISTERS], known: 0, thread_pointer: None }
    }

    /// Only where the thread is and its stack are known, as from `/proc/TID/syscall`.
    #[must_use]
    pub fn of_pc_and_sp(arch: Arch, pc: u64, sp: u64) -> Self {
        let mut registers = Self::new(arch);
        registers.set(arch.spec().pc, pc);
        registers.set(arch.spec().sp, sp);
        registers
    }

    /// The machine.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// A register by its DWARF number, if known.
    #[must_use]
    #[inline]
    pub fn get(&self, number: u8) -> Option<u64> {
        let known = self.known.checked_shr(u32::from(number))? & 1 != 0;
        if known { self.values.get(usize::from(number)).copied() } else { None }
    }

    /// Sets a register; numbers that the machine doesn't have are ignored.
    #[inline]
    pub fn set(&mut self, number: u8, value: u64) {
        if let Some(slot) = self.values.get_mut(usize::from(number)) {
            *slot = if self.arch.word() == 4 { value & 0xffff_ffff } else { value };
            self.known |= 1_u64.wrapping_shl(u32::from(number));
        }
    }

    /// Makes a register unknown.
    pub fn forget(&mut self, number: u8) {
        if usize::from(number) < REGISTERS {
            self.known &= !1_u64.wrapping_shl(u32::from(number));
        }
    }

    /// The program counter (0 if unknown).
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.get(self.arch.spec().pc).unwrap_or(0)
    }

    /// The stack pointer (0 if unknown).
    #[must_use]
    pub fn sp(&self) -> u64 {
        self.get(self.arch.spec().sp).unwrap_or(0)
    }

    /// What the thread has for a pointer to its own data (`pthread_self()`), if known.
    #[must_use]
    pub fn thread_pointer(&self) -> Option<u64> {
        self.thread_pointer
    }

    /// Sets the pointer to the thread's own data.
    pub fn set_thread_pointer(&mut self, value: u64) {
        self.thread_pointer = Some(value);
    }

    /// The frame pointer, if known.
    #[must_use]
    pub fn fp(&self) -> Option<u64> {
        self.get(self.arch.spec().fp)
    }
}
