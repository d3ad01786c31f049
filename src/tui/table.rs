//! Rows that are kept: the last so many, each with a number of its own that it keeps.

use std::collections::VecDeque;
use std::rc::Rc;

/// A thing in a list.
pub(super) trait Row: Clone {
    /// What it takes up, in bytes, roughly.
    fn size(&self) -> usize;
    /// What a filter looks at, in lower case.
    fn haystack(&self) -> &str;
}

/// The last rows. A copy shares them.
#[derive(Debug, Clone)]
pub(super) struct Table<R> {
    rows: VecDeque<Rc<R>>,
    /// The number of the first row.
    first: u64,
    size: usize,
    limit: Limit,
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
}

impl<R: Row> Table<R> {
    pub fn new(limit: Limit) -> Self {
        Self { rows: VecDeque::new(), first: 0, size: 0, limit }
    }

    /// Adds a row and returns its number; the oldest ones go where there is no room.
    pub fn push(&mut self, row: R) -> u64 {
        self.size = self.size.saturating_add(row.size());
        self.rows.push_back(Rc::new(row));
        while self.rows.len() > self.limit.rows.max(1) || (self.size > self.limit.bytes && self.rows.len() > 1) {
            if let Some(gone) = self.rows.pop_front() {
                self.size = self.size.saturating_sub(gone.size());
                self.first = self.first.saturating_add(1);
            }
        }
        self.first.saturating_add(self.rows.len() as u64).saturating_sub(1)
    }

    /// The row of that number, if it is still kept, to be changed.
    pub fn change(&mut self, number: u64, change: impl FnOnce(&mut R)) -> bool {
        let Some(row) = self.index(number).and_then(|index| self.rows.get_mut(index)) else { return false };
        let before = row.size();
        change(Rc::make_mut(row));
        self.size = self.size.saturating_sub(before).saturating_add(row.size());
        true
    }

    /// The row of that number, if it is still kept.
    pub fn get(&self, number: u64) -> Option<&Rc<R>> {
        self.rows.get(self.index(number)?)
    }

    /// How many rows went.
    pub fn gone(&self) -> u64 {
        self.first
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The numbers of rows in which `filter` (in lower case) occurs, in order.
    pub fn matching(&self, filter: &str) -> Vec<u64> {
        let numbered = (self.first..).zip(&self.rows);
        let fits = |row: &R| filter.is_empty() || row.haystack().contains(filter);
        numbered.filter(|(_, row)| fits(row)).map(|(number, _)| number).collect()
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Text(String);

    impl Row for Text {
        fn size(&self) -> usize {
            self.0.len()
        }
        fn haystack(&self) -> &str {
            &self.0
        }
    }

    #[test]
    fn the_oldest_go_and_numbers_stay() {
        let mut table = Table::new(Limit { rows: 3, bytes: 100 });
        let numbers: Vec<u64> = ["aa", "ab", "b", "c"].map(|text| table.push(Text(text.into()))).into();
        assert_eq!((numbers, table.len(), table.gone()), (vec![0, 1, 2, 3], 3, 1));
        assert!(table.get(0).is_none() && !table.change(0, |_| panic!("it is gone")));
        assert_eq!((table.matching("b"), table.matching("").len()), (vec![1, 2], 3));
        let before = table.clone();
        assert!(table.change(3, |row| row.0.push('b')));
        assert_eq!((before.matching("b").len(), table.matching("b").len()), (2, 3));
        // Too big for the rest; but the last one is always kept.
        table.push(Text("x".repeat(99)));
        assert_eq!((table.len(), table.size), (1, 99));
        table.push(Text("y".repeat(1000)));
        assert_eq!((table.len(), table.size), (1, 1000));
    }
}
