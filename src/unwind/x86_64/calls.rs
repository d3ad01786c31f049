//! Recognizing what stands before an address.

use crate::unwind::arch::Call;

/// Whether the bytes end with `call`.
pub(in crate::unwind) fn call_before(code: &[u8]) -> Option<Call> {
    // call rel32
    if let Some([0xe8, offset @ ..]) = code.last_chunk::<5>() {
        return Some(Call::Direct(i64::from(i32::from_le_bytes(*offset))));
    }
    // call *displacement(%rip), or *address in 32 bits
    if let Some([0xff, 0x15, ..]) = code.last_chunk::<6>() {
        return Some(Call::Slot);
    }
    // call r/m: ff /2, with a length that its ModRM and SIB bytes give.
    let indirect = (2..=7).any(|length: usize| {
        let Some(from) = code.len().checked_sub(length) else { return false };
        let Some([0xff, modrm, rest @ ..]) = code.get(from..) else { return false };
        (modrm >> 3) & 7 == 2 && operand_length(*modrm, rest.first().copied()) == Some(length.saturating_sub(2))
    });
    indirect.then_some(Call::Indirect)
}

/// The bytes behind the ModRM byte that belong to the operand.
fn operand_length(modrm: u8, sib: Option<u8>) -> Option<usize> {
    let (mode, register) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && register == 4;
    let displacement = match mode {
        0 if register == 5 || (has_sib && sib? & 7 == 5) => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    Some(displacement + usize::from(has_sib))
}

/// Whether the bytes end with `syscall`, `sysenter` or `int $0x80`.
pub(in crate::unwind) fn syscall_before(code: &[u8]) -> bool {
    matches!(code.last_chunk::<2>(), Some([0x0f, 0x05 | 0x34] | [0xcd, 0x80]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_other_bytes() {
        assert_eq!(call_before(&[0, 0, 0, 0xe8, 0xfb, 0xff, 0xff, 0xff]), Some(Call::Direct(-5)));
        for call in [
            &[0xff, 0xd0][..],               // call *%rax
            &[0x41, 0xff, 0xd4],             // call *%r12
            &[0xff, 0x10],                   // call *(%rax)
            &[0xff, 0x14, 0xc3],             // call *(%rbx,%rax,8)
            &[0xff, 0x54, 0x24, 0x08],       // call *8(%rsp)
            &[0xff, 0x50, 0x18],             // call *24(%rax)
            &[0xff, 0x90, 0, 1, 0, 0],       // call *256(%rax)
            &[0xff, 0x94, 0x24, 0, 1, 0, 0], // call *256(%rsp)
            &[0xff, 0x14, 0xc5, 0, 0, 0, 0], // call *0(,%rax,8)
        ] {
            assert_eq!(call_before(call), Some(Call::Indirect), "{call:x?}");
        }
        assert_eq!(call_before(&[0xff, 0x15, 1, 2, 3, 4]), Some(Call::Slot)); // call *0x4030201(%rip)
        for other in [&[][..], &[0xff], &[0xff, 0xe0], &[0xff, 0x14], &[0xff, 0x50, 0, 0], &[0x90; 8]] {
            assert_eq!(call_before(other), None, "{other:x?}");
        }
        assert!(syscall_before(&[0, 0x0f, 0x05]));
        assert!(!syscall_before(&[0x05]));
    }
}
