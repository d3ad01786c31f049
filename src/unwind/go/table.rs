//! The table itself.

/// The forms that there are, each named after the first version of Go that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Go116,
    Go118,
    Go120,
}

/// The whole table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    version: Version,
    word: u8,
    quantum: u32,
    text: u64,
    count: usize,
    names: &'a [u8],
    units: &'a [u8],
    files: &'a [u8],
    values: &'a [u8],
    functions: &'a [u8],
}

/// A function in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function<'a> {
    table: Table<'a>,
    bytes: &'a [u8],
    /// Its address, as linked.
    pub entry: u64,
}

/// Longer tables of one function are nobody's.
const STEPS: usize = 1 << 20;

/// Which of a function's tables is meant (internal/abi/symtab.go).
const PCDATA_INL_TREE_INDEX: usize = 2;
const FUNCDATA_INL_TREE: usize = 3;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word_at(bytes: &[u8], at: usize, word: u8) -> Option<u64> {
    match word {
        8 => Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)),
        _ => u32_at(bytes, at).map(u64::from),
    }
}

fn text_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(at..)?.split(|byte| *byte == 0).next()
}

impl<'a> Table<'a> {
    /// The version, and where the program's code begins (0 where it isn't said).
    pub fn version(bytes: &[u8], word: u8) -> Option<(Version, u64)> {
        let version = match u32_at(bytes, 0)? {
            0xffff_fffa => Version::Go116,
            0xffff_fff0 => Version::Go118,
            0xffff_fff1 => Version::Go120,
            _ => return None,
        };
        let quantum = bytes.get(6)?;
        if bytes.get(4..6)? != [0, 0] || !matches!(quantum, 1 | 2 | 4) || bytes.get(7) != Some(&word) {
            return None;
        }
        let text = match version {
            Version::Go116 => 0,
            _ => word_at(bytes, 8 + 2 * usize::from(word), word)?,
        };
        Some((version, text))
    }

    /// Reads the header.
    pub fn of(bytes: &'a [u8], version: Version, text: u64, word: u8) -> Option<Self> {
        let number = |index: usize| word_at(bytes, index.checked_mul(word.into())?.checked_add(8)?, word);
        let first: usize = if version == Version::Go116 { 2 } else { 3 };
        let part = |index: usize| bytes.get(usize::try_from(number(first.checked_add(index)?)?).ok()?..);
        Some(Self {
            version,
            word,
            quantum: (*bytes.get(6)?).into(),
            text,
            count: usize::try_from(number(0)?).ok()?,
            names: part(0)?,
            units: part(1)?,
            files: part(2)?,
            values: part(3)?,
            functions: part(4)?,
        })
    }

    /// (address, place of the function) in the index of functions.
    fn row(&self, index: usize) -> Option<(u64, usize)> {
        if self.version == Version::Go116 {
            let word = usize::from(self.word);
            let at = index.checked_mul(word.checked_mul(2)?)?;
            let place = word_at(self.functions, at.checked_add(word)?, self.word)?;
            return Some((word_at(self.functions, at, self.word)?, usize::try_from(place).ok()?));
        }
        let at = index.checked_mul(8)?;
        let entry = self.text.checked_add(u32_at(self.functions, at)?.into())?;
        Some((entry, u32_at(self.functions, at.checked_add(4)?)? as usize))
    }

    /// The function that has the code at an address.
    pub fn function(&self, address: u64) -> Option<Function<'a>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.row(middle)?.0 <= address {
                low = middle.checked_add(1)?;
            } else {
                high = middle;
            }
        }
        let (entry, place) = self.row(low.checked_sub(1)?)?;
        // The last row has only an address, where the code ends.
        let end = if self.version == Version::Go116 {
            word_at(self.functions, low.checked_mul(2 * usize::from(self.word))?, self.word)?
        } else {
            self.text.checked_add(u32_at(self.functions, low.checked_mul(8)?)?.into())?
        };
        (address < end).then_some(())?;
        Some(Function { table: *self, bytes: self.functions.get(place..)?, entry })
    }

    /// The value that a table of (difference of value, difference of address) has for an address.
    fn value(&self, table: usize, entry: u64, address: u64) -> Option<i32> {
        if table == 0 {
            return None;
        }
        let mut bytes = self.values.get(table..)?.iter();
        let mut number = || {
            let mut value = 0_u32;
            for shift in (0..35).step_by(7) {
                let byte = *bytes.next()?;
                value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                if byte & 0x80 == 0 {
                    return Some(value);
                }
            }
            None
        };
        let (mut value, mut at) = (-1_i32, entry);
        for step in 0..STEPS {
            let change = number()?;
            if change == 0 && step > 0 {
                return None;
            }
            let half = (change >> 1).cast_signed();
            value = value.wrapping_add(if change & 1 != 0 { !half } else { half });
            at = at.checked_add(u64::from(number()?).checked_mul(self.quantum.into())?)?;
            if address < at {
                return Some(value);
            }
        }
        None
    }

    /// The name of an inlined function, and where in the function around it (from its entry) the call stood.
    pub fn inlined(&self, tree: &[u8], index: i32) -> Option<(&'a [u8], u32)> {
        let index = usize::try_from(index).ok()?;
        let (size, name, parent) = match self.version {
            // parent, funcID, file, line, func, parentPc
            Version::Go116 | Version::Go118 => (20, 12, 16),
            // funcID, nameOff, parentPc, startLine
            Version::Go120 => (16, 4, 8),
        };
        let entry = tree.get(index.checked_mul(size)?..)?.get(..size)?;
        let name = text_at(self.names, u32_at(entry, name)? as usize)?;
        let parent = u32_at(entry, parent).filter(|parent| parent.cast_signed() >= 0)?;
        Some((name, parent))
    }
}

impl<'a> Function<'a> {
    /// A field of `_func`, which begins with the address.
    fn field(&self, index: usize) -> Option<u32> {
        let first = if self.table.version == Version::Go116 { usize::from(self.table.word) } else { 4 };
        u32_at(self.bytes, index.checked_mul(4)?.checked_add(first)?)
    }

    /// Where its flags stand, behind the numbers: funcID, flag, nothing, nfuncdata.
    fn flags(&self) -> Option<[u8; 4]> {
        let index = if self.table.version == Version::Go120 { 9 } else { 8 };
        self.field(index).map(u32::to_le_bytes)
    }

    pub fn name(&self) -> &'a [u8] {
        self.field(0).and_then(|at| text_at(self.table.names, at as usize)).unwrap_or_default()
    }

    /// A goroutine or a thread begins here. (Go 1.17 and later say so.)
    pub fn is_top(&self) -> bool {
        self.flags().is_some_and(|[_, flag, _, _]| flag & 1 != 0)
    }

    /// It sets the stack pointer to what it likes.
    pub fn writes_sp(&self) -> bool {
        self.flags().is_some_and(|[_, flag, _, _]| flag & 2 != 0)
    }

    fn value(&self, field: usize, address: u64) -> Option<i32> {
        self.table.value(self.field(field)? as usize, self.entry, address)
    }

    /// How far the return address is from the stack pointer.
    pub fn frame_size(&self, address: u64) -> Option<i32> {
        self.value(3, address)
    }

    pub fn file(&self, address: u64) -> Option<&'a [u8]> {
        let number = u32::try_from(self.value(4, address)?).ok()?;
        let index = usize::try_from(self.field(7)?.checked_add(number)?).ok()?;
        let at = u32_at(self.table.units, index.checked_mul(4)?)?;
        text_at(self.table.files, at as usize).filter(|path| !path.is_empty())
    }

    pub fn line(&self, address: u64) -> Option<u32> {
        self.value(5, address).and_then(|line| u32::try_from(line).ok())
    }

    /// The first of the tables that differ from function to function.
    fn tail(&self) -> Option<usize> {
        let first = if self.table.version == Version::Go116 { usize::from(self.table.word) } else { 4 };
        let numbers = if self.table.version == Version::Go120 { 10_usize } else { 9 };
        numbers.checked_mul(4)?.checked_add(first)
    }

    fn pcdata_count(&self) -> Option<usize> {
        Some(self.field(6)? as usize)
    }

    /// Which of the inlined functions an address belongs to.
    pub fn inlined(&self, address: u64) -> Option<i32> {
        if PCDATA_INL_TREE_INDEX >= self.pcdata_count()? {
            return None;
        }
        let at = self.tail()?.checked_add(4 * PCDATA_INL_TREE_INDEX)?;
        let table = u32_at(self.bytes, at)? as usize;
        self.table.value(table, self.entry, address).filter(|index| *index >= 0)
    }

    /// The address of the tree of inlined functions. `base`: what such places are relative to.
    pub fn inline_tree(&self, base: u64) -> Option<u64> {
        let [_, _, _, count] = self.flags()?;
        if FUNCDATA_INL_TREE >= usize::from(count) {
            return None;
        }
        let at = self.tail()?.checked_add(self.pcdata_count()?.checked_mul(4)?)?;
        if self.table.version == Version::Go116 {
            // Pointers, aligned as such: the function's own place in the table is.
            let word = usize::from(self.table.word);
            let at = at.checked_next_multiple_of(word)?.checked_add(FUNCDATA_INL_TREE.checked_mul(word)?)?;
            return word_at(self.bytes, at, self.table.word).filter(|address| *address != 0);
        }
        let offset = u32_at(self.bytes, at.checked_add(4 * FUNCDATA_INL_TREE)?)?;
        if offset == u32::MAX { None } else { base.checked_add(offset.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_address() {
        let table = Table {
            version: Version::Go118,
            word: 8,
            quantum: 1,
            text: 0,
            count: 0,
            names: &[],
            units: &[],
            files: &[],
            // 0 from 10 to 14, 200 to 20, 199 to 21.
            values: &[0, 2, 4, 0x90, 3, 6, 1, 1, 0],
            functions: &[],
        };
        let values: Vec<_> = [10, 13, 14, 19, 20, 21].iter().map(|at| table.value(1, 10, *at)).collect();
        assert_eq!(values, [Some(0), Some(0), Some(200), Some(200), Some(199), None]);
        assert_eq!(table.value(0, 10, 10), None);
        assert_eq!(table.value(99, 10, 10), None);
    }
}
