//! The lists.

use super::grid::{self, Column};
use super::{FAINT, Theme, border};
use crate::tui::app::{App, Pane};
use crate::tui::table::{Row, Table};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

const LEAKS: [Column; 6] = [
    Column { title: "TIME", width: 12, worth: 1 },
    Column { title: "CLASS", width: 10, worth: 5 },
    Column { title: "CALL", width: 10, worth: 3 },
    Column { title: "DESTINATION", width: 0, worth: 9 },
    Column { title: "PROCESS", width: 20, worth: 4 },
    Column { title: "DONE", width: 16, worth: 2 },
];

const CONNECTIONS: [Column; 6] = [
    Column { title: "PROCESS", width: 20, worth: 4 },
    Column { title: "CALL", width: 10, worth: 3 },
    Column { title: "DESTINATION", width: 0, worth: 9 },
    Column { title: "CALLS", width: 6, worth: 2 },
    Column { title: "LAST", width: 12, worth: 1 },
    Column { title: "STATE", width: 16, worth: 5 },
];

const PROCESSES: [Column; 7] = [
    Column { title: "PID", width: 7, worth: 8 },
    Column { title: "PARENT", width: 7, worth: 1 },
    Column { title: "NAME", width: 15, worth: 3 },
    Column { title: "PROGRAM", width: 0, worth: 9 },
    Column { title: "CALLS", width: 7, worth: 2 },
    Column { title: "LEAKS", width: 7, worth: 6 },
    Column { title: "STATE", width: 15, worth: 5 },
];

/// What a row says, and whether it is about leaks.
struct Shown {
    texts: Vec<String>,
    leaks: bool,
    faint: bool,
}

/// Draws a pane.
pub(super) fn pane(buffer: &mut Buffer, area: Rect, app: &App, pane: Pane, theme: Theme) {
    if area.is_empty() {
        return;
    }
    let model = app.shown();
    let rows = app.rows(pane);
    let all = match pane {
        Pane::Leaks => model.leaks.len(),
        Pane::Connections => model.connections.len(),
        Pane::Processes => model.processes.len(),
        Pane::Output => rows.len(),
    };
    let gone = match pane {
        Pane::Leaks => model.leaks.gone(),
        Pane::Connections => model.connections.gone(),
        Pane::Processes => model.processes.gone(),
        Pane::Output => 0,
    };
    let of = if rows.len() == all { String::new() } else { format!(" of {all}") };
    let earlier = if gone == 0 { String::new() } else { format!(", {gone} earlier ones gone") };
    let title = format!(" {} {}{of}{earlier} ", pane.title(), rows.len());
    let has_keys = app.focus == pane;
    let style = if has_keys { theme.focus() } else { FAINT };
    let inside = border(buffer, area, &title, style);
    match pane {
        Pane::Leaks => list(buffer, inside, app, pane, &LEAKS, &rows, theme, |number| {
            with(&model.leaks, number, |leak| Shown {
                texts: vec![
                    leak.time.clone(),
                    leak.class.clone(),
                    leak.call.clone(),
                    leak.destination.clone(),
                    leak.who.clone(),
                    leak.done.clone(),
                ],
                leaks: true,
                faint: false,
            })
        }),
        Pane::Connections => list(buffer, inside, app, pane, &CONNECTIONS, &rows, theme, |number| {
            with(&model.connections, number, |connection| Shown {
                texts: vec![
                    connection.who.clone(),
                    connection.call.clone(),
                    connection.destination.clone(),
                    connection.count.to_string(),
                    connection.last.clone(),
                    connection.state.clone(),
                ],
                leaks: connection.leaks,
                faint: false,
            })
        }),
        Pane::Processes => list(buffer, inside, app, pane, &PROCESSES, &rows, theme, |number| {
            with(&model.processes, number, |process| Shown {
                texts: vec![
                    process.pid.to_string(),
                    process.parent.map_or_else(String::new, |parent| parent.to_string()),
                    process.name.clone(),
                    process.program.clone(),
                    process.calls.to_string(),
                    process.leaks.to_string(),
                    process.state.clone(),
                ],
                leaks: process.leaks > 0,
                faint: process.state != "runs",
            })
        }),
        Pane::Output => lines(buffer, inside, app, &rows),
    }
}

fn with<R: Row>(table: &Table<R>, number: u64, shown: impl FnOnce(&R) -> Shown) -> Option<Shown> {
    table.get(number).map(|row| shown(row))
}

#[allow(clippy::too_many_arguments, reason = "called three times, above")]
fn list(
    buffer: &mut Buffer,
    area: Rect,
    app: &App,
    pane: Pane,
    columns: &[Column],
    rows: &[u64],
    theme: Theme,
    shown: impl Fn(u64) -> Option<Shown>,
) {
    let widths = grid::widths(columns, area.width);
    let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
    // Titles go where there is hardly room for a row.
    let (head, body) = super::cut_top(area, u16::from(area.height > 2));
    grid::line(buffer, head, &widths, &titles, FAINT);
    let (place, height) = (app.place(pane), usize::from(body.height));
    place.height.set(height);
    let selected = app.selected(pane, rows);
    let top = grid::top(&place.top, selected, height, rows.len());
    for ((index, number), y) in rows.iter().enumerate().skip(top).zip(body.y..body.bottom()) {
        let Some(shown) = shown(*number) else { continue };
        let mut style = match (shown.leaks, shown.faint) {
            (true, _) => theme.leak(),
            (false, true) => FAINT,
            (false, false) => Style::new(),
        };
        if index == selected && app.focus == pane {
            style = style.add_modifier(Modifier::REVERSED);
        }
        let texts: Vec<&str> = shown.texts.iter().map(String::as_str).collect();
        grid::line(buffer, Rect { y, height: 1, ..body }, &widths, &texts, style);
    }
}

/// What PROGRAM wrote.
fn lines(buffer: &mut Buffer, area: Rect, app: &App, rows: &[u64]) {
    let (place, height) = (app.place(Pane::Output), usize::from(area.height));
    place.height.set(height);
    let selected = app.selected(Pane::Output, rows);
    // It is the last line on the screen.
    let top = selected.saturating_add(1).saturating_sub(height);
    for (line, y) in app.shown().output.from(top).zip(area.y..area.bottom()) {
        buffer.set_stringn(area.x, y, &line, usize::from(area.width), Style::new());
    }
}
