//! The screen: a title, the panes, a line of help; on a small one only the pane that has the keys.

mod grid;
mod panes;
mod text;

use super::app::{App, Ending, Overlay, Pane};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Widget};

/// From this size on all panes are shown at once.
const WIDE: u16 = 80;
const HIGH: u16 = 20;

const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const BAR: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Colours, as far as somebody wants to see any (<https://no-color.org>).
#[derive(Debug, Clone, Copy)]
struct Theme {
    colour: bool,
}

impl Theme {
    fn in_colour(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
    fn leak(self) -> Style {
        self.in_colour(Color::Red).add_modifier(Modifier::BOLD)
    }
    fn focus(self) -> Style {
        self.in_colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    let theme = Theme { colour: app.colour };
    let buffer = frame.buffer_mut();
    let (title, rest) = cut_top(area, u16::from(area.height > 1));
    let (body, help) = cut_bottom(rest, u16::from(area.height > 2));
    bar(buffer, title, &head(app));
    draw_body(buffer, body, app, theme);
    match app.overlay {
        Overlay::None => {}
        Overlay::Help => text::help(buffer, body, app, theme),
        Overlay::Details => text::details(buffer, body, app, theme),
        Overlay::Ending(ending) => question(buffer, body, ending, theme),
    }
    bar(buffer, help, &foot(app));
    if app.typing && !help.is_empty() {
        let x = help.x.saturating_add(2).saturating_add(width(&app.filter));
        frame.set_cursor_position((x.min(help.right().saturating_sub(1)), help.y));
    }
}

fn draw_body(buffer: &mut Buffer, body: Rect, app: &App, theme: Theme) {
    if body.width < WIDE || body.height < HIGH {
        panes::pane(buffer, body, app, app.focus, theme);
        return;
    }
    let output_height =
        if app.shown().output.is_empty() && app.focus != Pane::Output { 0 } else { body.height / 5 };
    let (upper, output) = cut_bottom(body, output_height);
    let (lists, below) = cut_bottom(upper, upper.height / 2);
    let (processes, connections) = cut_left(lists, lists.width.saturating_mul(2) / 5);
    let (leaks, stack) = cut_left(below, below.width.saturating_mul(3) / 5);
    for (pane, area) in [
        (Pane::Processes, processes),
        (Pane::Connections, connections),
        (Pane::Leaks, leaks),
        (Pane::Output, output),
    ] {
        panes::pane(buffer, area, app, pane, theme);
    }
    text::stack(buffer, stack, app, theme);
}

/// The title: what runs, and the counts.
fn head(app: &App) -> String {
    let model = app.shown();
    let tally = model.tally;
    let mut parts = vec![format!("sockstrace {}", app.title)];
    if !model.backend.is_empty() {
        parts.push(model.backend.clone());
    }
    parts.push(format!(
        "{} judged, {}, {}",
        count(tally.calls, "call", "calls"),
        count(tally.leaks, "leak", "leaks"),
        count(tally.processes, "process", "processes")
    ));
    match app.ended {
        Some(status) => parts.push(format!("ended, exit status {status}")),
        None => parts.push("running".into()),
    }
    if app.is_paused() {
        parts.push("PAUSED".into());
    }
    if tally.unshown > 0 {
        parts.push(format!("{} not shown", count(tally.unshown, "event", "events")));
    }
    if tally.lost > 0 {
        parts.push(format!("{} lost", count(tally.lost, "event", "events")));
    }
    parts.join(" | ")
}

fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn foot(app: &App) -> String {
    if app.typing {
        return format!("/ {}", app.filter);
    }
    let leave = if app.ended.is_some() { "q leave" } else { "q end" };
    let filter =
        if app.filter.is_empty() { "/ filter".into() } else { format!("/ filter: {} (Esc clears)", app.filter) };
    let pause = if app.is_paused() { "p go on" } else { "p pause" };
    format!("{leave}  ? help  Tab pane  Enter details  {pause}  {filter}")
}

/// Asks whether PROGRAM is to be ended.
fn question(buffer: &mut Buffer, area: Rect, ending: Ending, theme: Theme) {
    let (what, keys) = match ending {
        Ending::Asked => ("The program is still running.", "q: end it (SIGTERM)  Esc: go on"),
        Ending::Terminated => ("It was asked to end (SIGTERM).", "q: kill it  Esc: go on"),
        Ending::Killed => ("It was killed; others of its tree may run on.", "q: again  Esc: go on"),
    };
    let place = centred(area, 50, 4);
    let inside = text::window(buffer, place, " End? ", theme);
    for (line, text) in (0_u16..).zip([what, keys]) {
        let y = inside.y.saturating_add(line);
        if y < inside.bottom() {
            buffer.set_stringn(inside.x, y, text, usize::from(inside.width), Style::new());
        }
    }
}

/// A line over the whole width.
fn bar(buffer: &mut Buffer, area: Rect, text: &str) {
    if !area.is_empty() {
        buffer.set_style(area, BAR);
        buffer.set_stringn(area.x, area.y, text, usize::from(area.width), BAR);
    }
}

/// A border with a title; what is within. Without room for it there is none.
fn border(buffer: &mut Buffer, area: Rect, title: &str, style: Style) -> Rect {
    if area.width < 4 || area.height < 4 {
        return area;
    }
    let block = Block::bordered().title(title.to_owned()).border_style(style).title_style(style);
    let inside = block.inner(area);
    block.render(area, buffer);
    inside
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x.saturating_add(area.width.saturating_sub(width) / 2),
        y: area.y.saturating_add(area.height.saturating_sub(height) / 2),
        width,
        height,
    }
}

fn cut_top(area: Rect, height: u16) -> (Rect, Rect) {
    let height = height.min(area.height);
    let below = Rect { y: area.y.saturating_add(height), height: area.height.saturating_sub(height), ..area };
    (Rect { height, ..area }, below)
}

fn cut_bottom(area: Rect, height: u16) -> (Rect, Rect) {
    let height = height.min(area.height);
    cut_top(area, area.height.saturating_sub(height))
}

fn cut_left(area: Rect, width: u16) -> (Rect, Rect) {
    let width = width.min(area.width);
    let right = Rect { x: area.x.saturating_add(width), width: area.width.saturating_sub(width), ..area };
    (Rect { width, ..area }, right)
}

/// Columns that a text takes.
fn width(text: &str) -> u16 {
    u16::try_from(unicode_width::UnicodeWidthStr::width(text)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
