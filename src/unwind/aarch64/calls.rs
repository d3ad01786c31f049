//! Recognizing what stands before an address.

use crate::unwind::arch::Call;

/// Whether the bytes end with `bl`, `blr` or one of the authenticating `blra*`.
pub(super) fn call_before(code: &[u8]) -> Option<Call> {
    let word = u32::from_le_bytes(*code.last_chunk::<4>()?);
    if word >> 26 == 0b10_0101 {
        // 26 bits of signed offset in words, from the instruction itself.
        let offset = i64::from((word << 6) as i32 >> 6).saturating_mul(4).saturating_sub(4);
        return Some(Call::Direct(offset));
    }
    let blr = word & 0xffff_fc1f == 0xd63f_0000;
    let authenticating = word & 0xfeff_f800 == 0xd63f_0800;
    (blr || authenticating).then_some(Call::Indirect)
}

/// Whether the bytes end with `svc #0`.
pub(super) fn syscall_before(code: &[u8]) -> bool {
    code.last_chunk::<4>().is_some_and(|word| u32::from_le_bytes(*word) == 0xd400_0001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_other_words() {
        assert_eq!(call_before(&0x9400_0001_u32.to_le_bytes()), Some(Call::Direct(0)));
        assert_eq!(call_before(&0x97ff_ffff_u32.to_le_bytes()), Some(Call::Direct(-8)));
        assert_eq!(call_before(&0xd63f_0100_u32.to_le_bytes()), Some(Call::Indirect));
        assert_eq!(call_before(&0xd65f_03c0_u32.to_le_bytes()), None); // ret
        assert!(syscall_before(&0xd400_0001_u32.to_le_bytes()));
    }
}
