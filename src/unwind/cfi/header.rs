//! The table of `.eh_frame_hdr`, in the form that every linker writes.

/// Entries ordered by address: two 32-bit numbers each, relative to the section.
pub(super) struct Table<'a> {
    start: u64,
    rows: &'a [u8],
    /// Where `.eh_frame` begins.
    pub eh_frame: u64,
}

const ROW: usize = 8;

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'a> Table<'a> {
    /// Of the bytes from the section's start, which is at this address. `None` for other forms.
    pub fn of(bytes: &'a [u8], start: u64) -> Option<Self> {
        // Version 1; the pointer to .eh_frame pcrel sdata4, the count udata4, the table datarel sdata4.
        if bytes.get(..4)? != [1, 0x1b, 0x03, 0x3b] {
            return None;
        }
        let eh_frame = start.checked_add(4)?.wrapping_add_signed(i32_at(bytes, 4)?.into());
        let count = usize::try_from(i32_at(bytes, 8)?).ok().filter(|count| *count > 0)?;
        let rows = bytes.get(12..)?.get(..count.checked_mul(ROW)?)?;
        Some(Self { start, rows, eh_frame })
    }

    /// Where in `.eh_frame` the entry is that may cover the address.
    pub fn find(&self, address: u64) -> Option<usize> {
        let wanted = address.wrapping_sub(self.start).cast_signed();
        let (mut low, mut high) = (0, self.rows.len() / ROW);
        while low < high {
            let middle = low.midpoint(high);
            if i64::from(i32_at(self.rows, middle.checked_mul(ROW)?)?) <= wanted {
                low = middle.checked_add(1)?;
            } else {
                high = middle;
            }
        }
        let row = low.checked_sub(1)?.checked_mul(ROW)?;
        let entry = self.start.wrapping_add_signed(i32_at(self.rows, row.checked_add(4)?)?.into());
        usize::try_from(entry.checked_sub(self.eh_frame)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found() {
        let mut bytes = vec![1, 0x1b, 3, 0x3b];
        for number in [0x100 - 4, 2, -0x500, 0x110, -0x400, 0x120] {
            bytes.extend_from_slice(&i32::to_le_bytes(number));
        }
        let table = Table::of(&bytes, 0x2000).unwrap();
        assert_eq!(table.eh_frame, 0x2100);
        assert_eq!(table.find(0x1aff), None);
        assert_eq!(table.find(0x1b00), Some(0x10));
        assert_eq!(table.find(0x1bff), Some(0x10));
        assert_eq!(table.find(0x9000), Some(0x20));
        bytes.truncate(20);
        assert!(Table::of(&bytes, 0x2000).is_none());
    }
}
