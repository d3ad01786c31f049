//! DWARF expressions in call frame information.

use super::Slice;
use crate::unwind::{Memory, Registers};
use gimli::{EndianSlice, Evaluation, EvaluationResult, Expression, LittleEndian, Location, Operation, Value};

/// Longer expressions are nobody's, and no honest one takes so many steps.
pub(super) const LONGEST: usize = 4096;
const STEPS: u32 = 2000;

fn encoding(word: u8) -> gimli::Encoding {
    gimli::Encoding { address_size: word, format: gimli::Format::Dwarf32, version: 4 }
}

/// An expression that is just a register and an offset, and perhaps what stands there: nearly all are.
pub(super) fn simple(bytes: &[u8], word: u8) -> Option<(u8, i64, bool)> {
    let mut operations = Expression(EndianSlice::new(bytes, LittleEndian)).operations(encoding(word));
    let Ok(Some(Operation::RegisterOffset { register, offset, base_type })) = operations.next() else {
        return None;
    };
    if base_type.0 != 0 {
        return None;
    }
    let register = u8::try_from(register.0).ok()?;
    match (operations.next(), operations.next()) {
        (Ok(None), _) => Some((register, offset, false)),
        (Ok(Some(Operation::Deref { size, space: false, base_type })), Ok(None))
            if size == word && base_type.0 == 0 =>
        {
            Some((register, offset, true))
        }
        _ => None,
    }
}

/// Evaluates an expression. `bias` is what to add to addresses as linked.
pub(super) fn evaluate(
    bytes: &[u8],
    initial: Option<u64>,
    registers: &Registers,
    memory: &dyn Memory,
    bias: u64,
) -> Option<u64> {
    let word = registers.arch().word();
    let mut evaluation: Evaluation<Slice<'_>> =
        Expression(EndianSlice::new(bytes, LittleEndian)).evaluation(encoding(word));
    evaluation.set_max_iterations(STEPS);
    if let Some(value) = initial {
        evaluation.set_initial_value(value);
    }
    let mut result = evaluation.evaluate().ok()?;
    // Each pause follows a step, and those are counted.
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, space: None, base_type } if base_type.0 == 0 => {
                if size > 8 {
                    return None;
                }
                evaluation.resume_with_memory(Value::Generic(memory.word(address, size)?))
            }
            EvaluationResult::RequiresRegister { register, base_type } if base_type.0 == 0 => {
                let value = registers.get(u8::try_from(register.0).ok()?)?;
                evaluation.resume_with_register(Value::Generic(value))
            }
            EvaluationResult::RequiresRelocatedAddress(address) => {
                evaluation.resume_with_relocated_address(address.wrapping_add(bias))
            }
            _ => return None,
        }
        .ok()?;
    }
    match evaluation.as_result() {
        [piece] => match piece.location {
            Location::Address { address } => Some(address),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::{Arch, StackCopy};

    #[test]
    fn what_plt_stubs_say() {
        // DW_OP_breg7 8, breg16 0, lit15, and, lit11, ge, lit3, shl, plus: what ld writes for .plt.
        let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        let mut registers = Registers::of_pc_and_sp(Arch::X86_64, 0x1006, 0x7000);
        let memory = StackCopy::of(0, Vec::new());
        assert_eq!(evaluate(&plt, None, &registers, &memory, 0), Some(0x7008));
        registers.set(16, 0x100b);
        assert_eq!(evaluate(&plt, None, &registers, &memory, 0), Some(0x7010));
        assert_eq!(simple(&plt, 8), None);
    }

    #[test]
    fn what_drap_and_signal_frames_say() {
        assert_eq!(simple(&[0x76, 0x78, 0x06], 8), Some((6, -8, true)));
        assert_eq!(simple(&[0x77, 0xa0, 0x01], 8), Some((7, 160, false)));
    }

    #[test]
    fn endless_ones_end() {
        let registers = Registers::of_pc_and_sp(Arch::X86_64, 1, 1);
        let memory = StackCopy::of(0, Vec::new());
        assert_eq!(evaluate(&[0x2f, 0xfd, 0xff], None, &registers, &memory, 0), None); // skip -3
        assert_eq!(evaluate(&[0x30, 0x2f, 0xfc, 0xff], None, &registers, &memory, 0), None); // lit0; skip -4
        assert_eq!(evaluate(&[], None, &registers, &memory, 0), None);
        assert_eq!(evaluate(&[0x06], Some(8), &registers, &memory, 0), None); // deref of nothing
    }
}
