//! Lists in columns. One column takes the room that is left; where there is little, others go first.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use std::cell::Cell;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub title: &'static str,
    /// Its width; 0 for the one that takes what is left.
    pub width: u16,
    /// Those with the least go first where there is no room.
    pub worth: u8,
}

/// What the flexible column needs at least before others go.
const ENOUGH: u16 = 24;

/// The widths of the columns in an area; 0 for those that aren't shown.
pub(super) fn widths(columns: &[Column], room: u16) -> Vec<u16> {
    let mut widths: Vec<u16> = columns.iter().map(|column| column.width).collect();
    let fixed = |widths: &[u16]| {
        widths
            .iter()
            .filter(|width| **width > 0)
            .fold(0_u16, |sum, width| sum.saturating_add(*width).saturating_add(1))
    };
    while fixed(&widths).saturating_add(ENOUGH) > room {
        let shown = columns.iter().zip(&mut widths).filter(|(_, width)| **width > 0);
        let Some((_, width)) = shown.min_by_key(|(column, _)| column.worth) else { break };
        *width = 0;
    }
    let left = room.saturating_sub(fixed(&widths));
    for (column, width) in columns.iter().zip(&mut widths) {
        if column.width == 0 {
            *width = left;
        }
    }
    widths
}

/// Draws texts side by side into one line.
pub(super) fn line(buffer: &mut Buffer, area: Rect, widths: &[u16], texts: &[&str], style: Style) {
    if area.is_empty() {
        return;
    }
    buffer.set_style(Rect { height: 1, ..area }, style);
    let mut x = area.x;
    for (width, text) in widths.iter().zip(texts).filter(|(width, _)| **width > 0) {
        let room = (*width).min(area.right().saturating_sub(x));
        if room == 0 {
            return;
        }
        buffer.set_stringn(x, area.y, text, usize::from(room), style);
        x = x.saturating_add(*width).saturating_add(1);
    }
}

/// The index of the first row to be shown, so that the selected one is.
pub(super) fn top(place: &Cell<usize>, selected: usize, height: usize, count: usize) -> usize {
    let most = count.saturating_sub(height);
    let least = selected.saturating_add(1).saturating_sub(height);
    let top = place.get().clamp(least.min(selected), selected).min(most);
    place.set(top);
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column { title: "a", width: 12, worth: 1 },
        Column { title: "b", width: 10, worth: 3 },
        Column { title: "c", width: 0, worth: 9 },
        Column { title: "d", width: 20, worth: 2 },
    ];

    #[test]
    fn columns_go_where_there_is_no_room() {
        assert_eq!(widths(&COLUMNS, 100), [12, 10, 55, 20]);
        assert_eq!(widths(&COLUMNS, 60), [0, 10, 28, 20]);
        assert_eq!(widths(&COLUMNS, 40), [0, 10, 29, 0]);
        assert_eq!(widths(&COLUMNS, 30), [0, 0, 30, 0]);
        assert_eq!(widths(&COLUMNS, 0), [0, 0, 0, 0]);
    }

    #[test]
    fn the_selected_row_is_on_the_screen() {
        let place = Cell::new(0);
        assert_eq!(top(&place, 9, 4, 10), 6);
        assert_eq!(top(&place, 7, 4, 10), 6);
        assert_eq!(top(&place, 2, 4, 10), 2);
        assert_eq!(top(&place, 0, 4, 1), 0);
        assert_eq!(top(&place, 0, 0, 0), 0);
        assert_eq!(top(&place, 5, 0, 10), 5);
    }
}
