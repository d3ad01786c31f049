//! A row of call frame information in the form in which it is kept and applied.

use super::{Slice, expression};
use crate::unwind::arch::Spec;
use crate::unwind::{Arch, Memory, Registers};
use gimli::{BaseAddresses, CfaRule, RegisterRule, UnwindContext, UnwindExpression, UnwindSection};

/// How the caller's registers are found.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::unwind) struct Rule {
    cfa: Cfa,
    /// The frame is a signal trampoline.
    pub signal: bool,
    /// The caller was interrupted: it stands at the address itself, not behind a call.
    pub interrupted: bool,
    return_address: u8,
    saves: Box<[(u8, Save)]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Cfa {
    /// Register + offset.
    Register(u8, i64),
    /// What stands at register + offset.
    AtRegister(u8, i64),
    Expression(Box<[u8]>),
}

#[derive(Debug, PartialEq, Eq)]
enum Save {
    Undefined,
    /// At CFA + offset.
    At(i64),
    /// Is CFA + offset.
    Is(i64),
    Register(u8),
    Constant(u64),
    /// At register + offset.
    AtRegister(u8, i64),
    AtExpression(Box<[u8]>),
    IsExpression(Box<[u8]>),
}

/// Why a rule could not be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::unwind) enum Failure {
    /// Memory that can't be read.
    Unreadable(u64),
    /// It wants what there isn't.
    Nonsense,
}

impl Rule {
    pub fn of<'a, S: UnwindSection<Slice<'a>>>(
        section: &S,
        bases: &BaseAddresses,
        fde: &gimli::FrameDescriptionEntry<Slice<'a>>,
        arch: Arch,
        address: u64,
    ) -> Option<Self> {
        let mut context = UnwindContext::new();
        let row = fde.unwind_info_for_address(section, bases, &mut context, address).ok()?;
        let bytes = |expression: &UnwindExpression<usize>| -> Option<Box<[u8]>> {
            let bytes = expression.get(section).ok()?.0.slice();
            (bytes.len() <= expression::LONGEST).then(|| bytes.into())
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Cfa::Register(u8::try_from(register.0).ok()?, *offset)
            }
            CfaRule::Expression(wanted) => {
                let bytes = bytes(wanted)?;
                match expression::simple(&bytes, arch.word()) {
                    Some((register, offset, false)) => Cfa::Register(register, offset),
                    Some((register, offset, true)) => Cfa::AtRegister(register, offset),
                    None => Cfa::Expression(bytes),
                }
            }
        };
        let mut saves = Vec::new();
        for (register, rule) in row.registers() {
            // Vector registers and the like are of no use.
            let Ok(register) = u8::try_from(register.0) else { continue };
            let save = match rule {
                RegisterRule::Undefined => Save::Undefined,
                RegisterRule::Offset(offset) => Save::At(*offset),
                RegisterRule::ValOffset(offset) => Save::Is(*offset),
                RegisterRule::Register(other) => Save::Register(u8::try_from(other.0).ok()?),
                RegisterRule::Constant(value) => Save::Constant(*value),
                RegisterRule::Expression(wanted) => {
                    let bytes = bytes(wanted)?;
                    match expression::simple(&bytes, arch.word()) {
                        Some((register, offset, false)) => Save::AtRegister(register, offset),
                        _ => Save::AtExpression(bytes),
                    }
                }
                RegisterRule::ValExpression(wanted) => Save::IsExpression(bytes(wanted)?),
                _ => continue,
            };
            saves.push((register, save));
        }
        Some(Self {
            cfa,
            signal: fde.is_signal_trampoline(),
            interrupted: fde.is_signal_trampoline(),
            return_address: u8::try_from(fde.cie().return_address_register().0).ok()?,
            saves: saves.into(),
        })
    }

    /// The return address stands behind a frame of this size, as in Go, and below it the frame pointer.
    pub fn of_frame_size(arch: Arch, size: u64, interrupted: bool) -> Option<Self> {
        let spec = arch.spec();
        if spec.link.is_some() {
            return None;
        }
        let word = i64::from(spec.word);
        let mut saves = vec![(spec.pc, Save::At(word.wrapping_neg()))];
        if size > 0 {
            saves.push((spec.fp, Save::At(word.wrapping_mul(-2))));
        }
        Some(Self {
            cfa: Cfa::Register(spec.sp, i64::try_from(size).ok()?.checked_add(word)?),
            signal: false,
            interrupted,
            return_address: spec.pc,
            saves: saves.into(),
        })
    }

    /// There is no caller.
    pub fn outermost(arch: Arch) -> Self {
        let Spec { sp, pc, .. } = *arch.spec();
        let saves = [(pc, Save::Undefined)].into();
        Self { cfa: Cfa::Register(sp, 0), signal: false, interrupted: false, return_address: pc, saves }
    }

    /// `runtime.asmcgocall` on x86_64 (runtime/asm_amd64.s), which has changed to the thread's own stack and
    /// left there: at 48 the goroutine, whose stack ends at `*(g + 8)`, and at 40 how far below that it was; or
    /// at 48 nothing and at 40 the former stack pointer.
    pub fn of_cgo() -> Self {
        use gimli::constants as op;
        let expression = [
            op::DW_OP_breg7.0,
            48,
            op::DW_OP_deref.0,
            op::DW_OP_dup.0,
            op::DW_OP_bra.0,
            7,
            0,
            op::DW_OP_drop.0,
            op::DW_OP_breg7.0,
            40,
            op::DW_OP_deref.0,
            op::DW_OP_skip.0,
            7,
            0,
            op::DW_OP_plus_uconst.0,
            8,
            op::DW_OP_deref.0,
            op::DW_OP_breg7.0,
            40,
            op::DW_OP_deref.0,
            op::DW_OP_minus.0,
            op::DW_OP_plus_uconst.0,
            8,
        ];
        Self {
            cfa: Cfa::Expression(expression.into()),
            signal: false,
            interrupted: false,
            return_address: 16,
            saves: [(16, Save::At(-8))].into(),
        }
    }

    /// The caller's registers; `None` where there is no caller. `bias` is the difference between addresses
    /// in the process and as linked.
    pub fn apply(
        &self,
        registers: &Registers,
        memory: &dyn Memory,
        bias: u64,
    ) -> Result<Option<Registers>, Failure> {
        let spec = registers.arch().spec();
        let register = |number: u8| registers.get(number).ok_or(Failure::Nonsense);
        let word = |address: u64| memory.word(address, spec.word).ok_or(Failure::Unreadable(address));
        let narrow = |value: u64| if spec.word == 4 { value & 0xffff_ffff } else { value };
        let plus = |base: u64, offset: i64| narrow(base.wrapping_add_signed(offset));
        let cfa = match &self.cfa {
            Cfa::Register(number, offset) => plus(register(*number)?, *offset),
            Cfa::AtRegister(number, offset) => word(plus(register(*number)?, *offset))?,
            Cfa::Expression(bytes) => {
                expression::evaluate(bytes, None, registers, memory, bias).ok_or(Failure::Nonsense)?
            }
        };
        // What no rule is given for keeps its value, as the libraries that unwind exceptions have it.
        let mut caller = *registers;
        caller.set(spec.sp, cfa);
        let mut back = spec.link.filter(|link| *link == self.return_address).and_then(|link| registers.get(link));
        for (number, save) in &self.saves {
            let evaluate =
                |bytes| expression::evaluate(bytes, Some(cfa), registers, memory, bias).ok_or(Failure::Nonsense);
            let value = match save {
                Save::Undefined if *number == self.return_address => return Ok(None),
                Save::Undefined => Err(Failure::Nonsense),
                Save::At(offset) => word(plus(cfa, *offset)),
                Save::Is(offset) => Ok(plus(cfa, *offset)),
                Save::Register(other) => register(*other),
                Save::Constant(value) => Ok(*value),
                Save::AtRegister(other, offset) => register(*other).and_then(|base| word(plus(base, *offset))),
                Save::AtExpression(bytes) => evaluate(bytes).and_then(word),
                Save::IsExpression(bytes) => evaluate(bytes),
            };
            if *number == self.return_address {
                back = Some(value?);
            }
            match value {
                Ok(value) => caller.set(*number, value),
                Err(_) => caller.forget(*number),
            }
        }
        let Some(back) = back else { return Ok(None) };
        caller.set(spec.pc, back & spec.address_mask);
        Ok(Some(caller))
    }
}
