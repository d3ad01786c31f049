//! Line tables of code objects.

use super::layout::Lines;

/// The line of the instruction at this offset (in bytes) from the code's start. `None` where it has none.
pub(super) fn line(format: Lines, table: &[u8], first: u32, at: u32) -> Option<u32> {
    match format {
        Lines::Pairs => pairs(table, first, at),
        Lines::Ranges => ranges(table, first, at),
        Lines::Locations => locations(table, first, at),
    }
}

fn add(line: u32, delta: i64) -> Option<u32> {
    u32::try_from(i64::from(line).checked_add(delta)?).ok()
}

fn pairs(table: &[u8], mut line: u32, at: u32) -> Option<u32> {
    let mut address = 0_u32;
    for pair in table.chunks_exact(2) {
        let [bytes, lines] = *pair else { break };
        address = address.checked_add(bytes.into())?;
        if address > at {
            break;
        }
        line = add(line, i64::from(lines.cast_signed()))?;
    }
    Some(line)
}

fn ranges(table: &[u8], mut line: u32, at: u32) -> Option<u32> {
    const NO_LINE: i8 = -128;
    let mut end = 0_u32;
    for pair in table.chunks_exact(2) {
        let [bytes, lines] = *pair else { break };
        let lines = lines.cast_signed();
        end = end.checked_add(bytes.into())?;
        if lines != NO_LINE {
            line = add(line, lines.into())?;
        }
        if at < end {
            return (lines != NO_LINE).then_some(line);
        }
    }
    None
}

fn locations(table: &[u8], mut line: u32, at: u32) -> Option<u32> {
    let mut rest = table.iter().copied().peekable();
    let mut end = 0_u32;
    while let Some(head) = rest.next() {
        let units = u32::from(head & 7).checked_add(1)?;
        end = end.checked_add(units.checked_mul(2)?)?;
        let (has_line, delta) = match (head >> 3) & 15 {
            15 => (false, 0),
            13 | 14 => (true, signed(&mut rest)?),
            short @ 10..=12 => (true, i64::from(short).checked_sub(10)?),
            _ => (true, 0),
        };
        line = add(line, delta)?;
        if at < end {
            return has_line.then_some(line);
        }
        // The columns; the next entry's first byte has its highest bit set.
        while rest.next_if(|byte| byte & 0x80 == 0).is_some() {}
    }
    None
}

/// Six bits a byte, the lowest first; the lowest of all is the sign.
fn signed(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Option<i64> {
    let (mut value, mut shift) = (0_u64, 0_u32);
    loop {
        let byte = bytes.next_if(|byte| byte & 0x80 == 0)?;
        value |= u64::from(byte & 63).checked_shl(shift)?;
        if byte & 64 == 0 {
            break;
        }
        shift = shift.checked_add(6).filter(|shift| *shift < 60)?;
    }
    let magnitude = (value >> 1).cast_signed();
    Some(if value & 1 != 0 { magnitude.wrapping_neg() } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_each_kind() {
        // 6 bytes on the first line, 50 on the next, then one line back.
        let table = [6, 1, 50, 0xff];
        let lines: Vec<_> = [0, 5, 6, 55, 56, 999].iter().map(|at| line(Lines::Pairs, &table, 100, *at)).collect();
        assert_eq!(lines, [100, 100, 101, 101, 100, 100].map(Some));
        let table = [4, 0, 2, 0x80, 6, 2];
        let lines: Vec<_> = [0, 3, 4, 6, 11, 12].iter().map(|at| line(Lines::Ranges, &table, 10, *at)).collect();
        assert_eq!(lines, [Some(10), Some(10), None, Some(12), Some(12), None]);
        // Short form; one line on; a signed number with two bytes of columns; none.
        let table = [0x80, 0x11, 0xd9, 5, 6, 0xe8, 0x41, 1, 0xf8];
        let lines: Vec<_> = [0, 2, 4, 6, 8, 10].iter().map(|at| line(Lines::Locations, &table, 7, *at)).collect();
        assert_eq!(lines, [Some(7), Some(8), Some(8), None, None, None]);
    }

    #[test]
    fn nonsense_ends() {
        for format in [Lines::Pairs, Lines::Ranges, Lines::Locations] {
            for byte in 0..=255_u8 {
                for length in 0..40 {
                    let _ = line(format, &vec![byte; length], u32::from(byte), u32::MAX);
                    let _ = line(format, &vec![byte; length], u32::MAX, 3);
                }
            }
        }
    }
}
