//! What is read: stacks, details, help.

use super::{FAINT, Theme, border, centred};
use crate::tui::app::{App, Pane};
use crate::tui::model::{Details, Stack};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::widgets::{Clear, Widget};
use unicode_width::UnicodeWidthChar;

const HELP: &[&str] = &[
    "Tab, Shift-Tab     the next pane, the one before",
    "arrows, PgUp, PgDn  another row; Home and End: the first,",
    "                   the last, which is then followed",
    "Enter              details of the row, with its stack",
    "/                  show only rows in which a text occurs:",
    "                   process, program, call, address, class",
    "Esc                clear the filter, close a window",
    "p                  pause the view; nothing is missed by it",
    "q                  end the program (asks first); when it",
    "                   has ended: leave",
    "Ctrl-C, Ctrl-\\     go to the program",
    "Ctrl-Z             back to the shell; the program runs on",
    "",
    "The program's input is empty, and what it writes to the",
    "terminal stands in the pane Output. Rows in red leaked.",
];

/// A window over the panes; what is within.
pub(super) fn window(buffer: &mut Buffer, area: Rect, title: &str, theme: Theme) -> Rect {
    Clear.render(area, buffer);
    border(buffer, area, title, theme.focus())
}

pub(super) fn help(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let place = centred(area, 64, HELP.len() as u16 + 2);
    let inside = window(buffer, place, " Help ", theme);
    let lines = HELP.iter().map(|line| (Style::new(), (*line).to_owned()));
    scrolled(buffer, inside, app, lines);
}

/// Everything about the selected row.
pub(super) fn details(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let inside = window(buffer, area, " Details ", theme);
    let mut lines = Vec::new();
    if app.focus == Pane::Processes {
        if let Some(process) = app.selected_row(Pane::Processes, &app.shown().processes) {
            let facts = [
                ("pid", process.pid.to_string()),
                ("parent", process.parent.map_or_else(String::new, |parent| parent.to_string())),
                ("name", process.name.clone()),
                ("program", process.program.clone()),
                ("state", process.state.clone()),
                ("calls", format!("{} (as far as they were shown)", process.calls)),
                ("leaks", process.leaks.to_string()),
            ];
            lines.extend(facts.iter().map(|(name, value)| fact(name, value)));
        }
    } else if let Some(details) = selected(app) {
        lines.extend(details.facts.iter().map(|(name, value)| fact(name, value)));
        if !details.stack.frames.is_empty() {
            lines.push((Style::new(), String::new()));
            lines.push((FAINT, "stack, innermost frame first".into()));
        }
        lines.extend(frames(&details.stack, theme));
    }
    if lines.is_empty() {
        lines.push((FAINT, "nothing is selected".into()));
    }
    scrolled(buffer, inside, app, lines);
}

/// The stack of the selected row.
pub(super) fn stack(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let inside = border(buffer, area, " Stack ", FAINT);
    let details = selected(app);
    let stack = details.map(|details| frames(&details.stack, theme)).unwrap_or_default();
    let lines = if stack.is_empty() { vec![(FAINT, "none".into())] } else { stack };
    for ((style, text), y) in lines.iter().zip(inside.y..inside.bottom()) {
        buffer.set_stringn(inside.x, y, text, usize::from(inside.width), *style);
    }
}

/// The details of the selected leak or connection.
fn selected(app: &App) -> Option<&Details> {
    let model = app.shown();
    match app.focus {
        Pane::Connections => app.selected_row(Pane::Connections, &model.connections).map(|row| &row.details),
        _ => app.selected_row(Pane::Leaks, &model.leaks).map(|row| &row.details),
    }
}

fn fact(name: &str, value: &str) -> (Style, String) {
    (Style::new(), format!("{name:<14}{value}"))
}

fn frames(stack: &Stack, theme: Theme) -> Vec<(Style, String)> {
    let numbered = stack.frames.iter().enumerate();
    let line = numbered.map(|(index, frame)| {
        if stack.blamed == Some(index) {
            (theme.leak(), format!("> {frame}"))
        } else {
            (Style::new(), format!("  {frame}"))
        }
    });
    line.collect()
}

/// Lines that are broken where they are too long, from the one on to which was scrolled.
fn scrolled(buffer: &mut Buffer, area: Rect, app: &App, lines: impl IntoIterator<Item = (Style, String)>) {
    if area.is_empty() {
        return;
    }
    let broken: Vec<(Style, String)> = lines
        .into_iter()
        .flat_map(|(style, line)| {
            wrapped(&line, usize::from(area.width)).into_iter().map(move |part| (style, part))
        })
        .collect();
    let most = broken.len().saturating_sub(usize::from(area.height));
    let top = app.scroll.get().min(most);
    app.scroll.set(top);
    for ((style, line), y) in broken.iter().skip(top).zip(area.y..area.bottom()) {
        buffer.set_stringn(area.x, y, line, usize::from(area.width), *style);
    }
    if top < most && area.width > 1 {
        let (x, y) = (area.right().saturating_sub(1), area.bottom().saturating_sub(1));
        buffer.set_stringn(x, y, "↓", 1, Style::new().add_modifier(Modifier::REVERSED));
    }
}

fn wrapped(line: &str, width: usize) -> Vec<String> {
    let (mut parts, mut part, mut taken) = (Vec::new(), String::new(), 0_usize);
    for character in line.chars() {
        let wide = character.width().unwrap_or(0);
        if taken.saturating_add(wide) > width && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            taken = 0;
        }
        part.push(character);
        taken = taken.saturating_add(wide);
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken() {
        assert_eq!(wrapped("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(wrapped("漢字漢", 4), ["漢字", "漢"]);
        assert_eq!(wrapped("", 4), [""]);
        assert_eq!(wrapped("漢a", 1), ["漢", "a"]);
    }
}
