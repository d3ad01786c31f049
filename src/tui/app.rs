//! What the keys do: which pane has them, what is selected, the filter, and when to leave.

use super::keys::Key;
use super::model::Model;
use super::table::{Row, Table};
use super::text::plain;
use std::cell::Cell;

/// A part of the screen that takes keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Leaks,
    Connections,
    Processes,
    Output,
}

impl Pane {
    pub const ALL: [Self; 4] = [Self::Leaks, Self::Connections, Self::Processes, Self::Output];

    pub fn title(self) -> &'static str {
        match self {
            Self::Leaks => "Leaks",
            Self::Connections => "Connections",
            Self::Processes => "Processes",
            Self::Output => "Output",
        }
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).unwrap_or(0)
    }
}

/// What lies over the panes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlay {
    None,
    Help,
    /// Of the selected row.
    Details,
    /// What is to be ended.
    Ending(Ending),
}

/// How far the user's wish to end PROGRAM has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Is it to be ended?
    Asked,
    /// It was asked to end; is it to be killed?
    Terminated,
    /// It was killed.
    Killed,
}

/// What a key asks of the rest of sockstrace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing but to draw anew.
    Nothing,
    /// To leave.
    Leave,
    /// To send what the terminal sends for this character, to those in PROGRAM's foreground.
    Type(u8),
    /// To end PROGRAM: SIGTERM.
    Terminate,
    /// To kill it.
    Kill,
    /// To stop drawing, as Ctrl-Z does.
    Suspend,
}

/// A pane's place in its list.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// The number of the selected row; `None`: the last, whichever that is.
    pub selected: Option<u64>,
    /// The first row on the screen.
    pub top: Cell<usize>,
    /// Rows on the screen when it was last drawn.
    pub height: Cell<usize>,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub model: Model,
    /// What is shown while the view is paused.
    frozen: Option<Model>,
    pub focus: Pane,
    places: [Place; 4],
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub overlay: Overlay,
    /// The first line of help or details on the screen, and the last that makes sense.
    pub scroll: Cell<usize>,
    /// What is run, for the title.
    pub title: String,
    /// There is a PROGRAM to be ended; otherwise only the watching.
    pub runs_program: bool,
    /// The exit status, when all is over.
    pub ended: Option<u8>,
    pub colour: bool,
}

/// The longest filter.
const FILTER: usize = 100;

impl App {
    pub fn new(title: &str, runs_program: bool, colour: bool) -> Self {
        Self {
            model: Model::default(),
            frozen: None,
            focus: Pane::Leaks,
            places: Default::default(),
            filter: String::new(),
            typing: false,
            overlay: Overlay::None,
            scroll: Cell::new(0),
            title: plain(title, 200),
            runs_program,
            ended: None,
            colour,
        }
    }

    /// What the panes show.
    pub fn shown(&self) -> &Model {
        self.frozen.as_ref().unwrap_or(&self.model)
    }

    pub fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    pub fn place(&self, pane: Pane) -> &Place {
        let [leaks, connections, processes, output] = &self.places;
        match pane {
            Pane::Leaks => leaks,
            Pane::Connections => connections,
            Pane::Processes => processes,
            Pane::Output => output,
        }
    }

    /// The numbers of the rows of a pane that pass the filter.
    pub fn rows(&self, pane: Pane) -> Vec<u64> {
        let model = self.shown();
        let filter = self.filter.to_lowercase();
        match pane {
            Pane::Leaks => model.leaks.matching(&filter),
            Pane::Connections => model.connections.matching(&filter),
            Pane::Processes => model.processes.matching(&filter),
            Pane::Output => (0..model.output.len() as u64).collect(),
        }
    }

    /// Which of these rows is selected.
    pub fn selected(&self, pane: Pane, rows: &[u64]) -> usize {
        let last = rows.len().saturating_sub(1);
        self.place(pane).selected.map_or(last, |number| rows.partition_point(|row| *row < number).min(last))
    }

    /// All is over, with this exit status.
    pub fn end(&mut self, status: u8) {
        self.ended = Some(status);
        if matches!(self.overlay, Overlay::Ending(_)) {
            self.overlay = Overlay::None;
        }
    }

    /// Does what a key asks for.
    pub fn key(&mut self, key: Key) -> Wish {
        match (key, self.ended) {
            (Key::Control(b'c'), Some(_)) => return Wish::Leave,
            (Key::Control(b'c'), None) => return Wish::Type(0x03),
            (Key::Control(b'\\'), None) => return Wish::Type(0x1c),
            (Key::Control(b'z'), _) => return Wish::Suspend,
            _ => {}
        }
        if self.typing {
            self.type_filter(key);
            return Wish::Nothing;
        }
        match self.overlay {
            Overlay::None => self.on_pane(key),
            Overlay::Help | Overlay::Details => {
                self.on_text(key);
                Wish::Nothing
            }
            Overlay::Ending(ending) => self.on_question(key, ending),
        }
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.filter.clear();
            }
            Key::Backspace => self.typing = self.filter.pop().is_some(),
            Key::Control(b'u') => self.filter.clear(),
            Key::Char(character) if self.filter.chars().count() < FILTER => {
                self.filter.push_str(&plain(&character.to_string(), 10));
            }
            _ => {}
        }
    }

    fn on_pane(&mut self, key: Key) -> Wish {
        match key {
            Key::Char('q') => return self.leave(),
            Key::Char('?' | 'h') => self.open(Overlay::Help),
            Key::Char('/') => self.typing = true,
            Key::Char('p') => {
                self.frozen = if self.is_paused() { None } else { Some(self.model.clone()) };
            }
            Key::Escape => self.filter.clear(),
            Key::Enter if self.focus != Pane::Output => self.open(Overlay::Details),
            Key::Tab | Key::Right => self.turn(1),
            Key::BackTab | Key::Left => self.turn(3),
            Key::Up | Key::Char('k') => self.step(|at, _| at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.step(|at, _| at.saturating_add(1)),
            Key::PageUp => self.step(usize::saturating_sub),
            Key::PageDown | Key::Char(' ') => self.step(usize::saturating_add),
            Key::Home | Key::Char('g') => self.step(|_, _| 0),
            Key::End | Key::Char('G') => self.step(|_, _| usize::MAX),
            _ => {}
        }
        Wish::Nothing
    }

    fn on_text(&mut self, key: Key) {
        let scroll = self.scroll.get();
        // The view sets it back where it is too far.
        self.scroll.set(match key {
            Key::Up | Key::Char('k') => scroll.saturating_sub(1),
            Key::Down | Key::Char('j') => scroll.saturating_add(1),
            Key::PageUp => scroll.saturating_sub(10),
            Key::PageDown | Key::Char(' ') => scroll.saturating_add(10),
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => usize::MAX,
            Key::Escape | Key::Enter | Key::Char('q' | '?' | 'h') => {
                self.overlay = Overlay::None;
                0
            }
            _ => scroll,
        });
    }

    fn on_question(&mut self, key: Key, ending: Ending) -> Wish {
        match (key, ending) {
            (Key::Char('q' | 'y') | Key::Enter, Ending::Asked) => {
                self.overlay = Overlay::Ending(Ending::Terminated);
                return Wish::Terminate;
            }
            (Key::Char('q' | 'y') | Key::Enter, Ending::Terminated | Ending::Killed) => {
                self.overlay = Overlay::Ending(Ending::Killed);
                return Wish::Kill;
            }
            (Key::Escape | Key::Char('n'), _) => self.overlay = Overlay::None,
            _ => {}
        }
        Wish::Nothing
    }

    fn leave(&mut self) -> Wish {
        if self.ended.is_some() {
            return Wish::Leave;
        }
        if !self.runs_program {
            return Wish::Leave;
        }
        self.overlay = Overlay::Ending(Ending::Asked);
        Wish::Nothing
    }

    fn open(&mut self, overlay: Overlay) {
        self.overlay = overlay;
        self.scroll.set(0);
    }

    fn turn(&mut self, by: usize) {
        let next = self.focus.index().saturating_add(by) % Pane::ALL.len();
        self.focus = Pane::ALL.get(next).copied().unwrap_or(Pane::Leaks);
    }

    /// Selects another row: `to` is given the index of the selected one and how many rows the screen has.
    fn step(&mut self, to: impl Fn(usize, usize) -> usize) {
        let rows = self.rows(self.focus);
        let (at, last) = (self.selected(self.focus, &rows), rows.len().saturating_sub(1));
        let next = to(at, self.place(self.focus).height.get().max(1)).min(last);
        let selected = if next == last { None } else { rows.get(next).copied() };
        if let Some(place) = self.places.get_mut(self.focus.index()) {
            place.selected = selected;
        }
    }

    /// The selected row of a table.
    pub fn selected_row<'a, R: Row>(&self, pane: Pane, table: &'a Table<R>) -> Option<&'a R> {
        let rows = self.rows(pane);
        Some(&**table.get(*rows.get(self.selected(pane, &rows))?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{model, stacked};
    use super::*;
    use crate::event::tests::call;

    fn app() -> App {
        let mut app = App::new("curl", true, true);
        let events: Vec<_> = (0..9).map(stacked).collect();
        app.model = model(&events);
        app
    }

    fn press(app: &mut App, keys: &[Key]) -> Wish {
        keys.iter().map(|key| app.key(*key)).last().expect("a key")
    }

    fn selected(app: &App) -> Option<String> {
        let leak = app.selected_row(Pane::Leaks, &app.shown().leaks)?;
        leak.details.stack.frames.last().cloned()
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    #[test]
    fn the_last_row_is_followed_until_another_is_chosen() {
        let mut app = app();
        assert_eq!(selected(&app).as_deref(), Some("dial at /src/dial.c:8"));
        press(&mut app, &[Key::Up, Key::Up]);
        assert_eq!(selected(&app).as_deref(), Some("dial at /src/dial.c:6"));
        app.model.line(&serde_json::to_vec(&stacked(99)).unwrap());
        assert_eq!(selected(&app).as_deref(), Some("dial at /src/dial.c:6"));
        press(&mut app, &[Key::End]);
        assert_eq!(selected(&app).as_deref(), Some("dial at /src/dial.c:99"));
        press(&mut app, &[Key::Home, Key::Up, Key::PageUp]);
        assert_eq!(selected(&app).as_deref(), Some("dial at /src/dial.c:0"));
        app.places[0].height.set(4);
        press(&mut app, &[Key::PageDown]);
        assert_eq!(selected(&app).as_deref(), Some("dial at /src/dial.c:4"));
    }

    #[test]
    fn the_filter_is_typed_and_cleared() {
        let mut app = app();
        app.model.line(&serde_json::to_vec(&call(|call| call.address = Some("[::1]:53".into()))).unwrap());
        press(&mut app, &[&[Key::Char('/')], &typed("[::1]q?")[..]].concat());
        assert_eq!((app.filter.as_str(), app.rows(Pane::Leaks).len(), selected(&app)), ("[::1]q?", 0, None));
        press(&mut app, &[Key::Backspace, Key::Backspace, Key::Enter]);
        assert_eq!((app.typing, app.rows(Pane::Leaks), app.rows(Pane::Connections)), (false, vec![9], vec![1]));
        press(&mut app, &[Key::Escape]);
        assert_eq!((app.filter.as_str(), app.rows(Pane::Leaks).len()), ("", 10));
        press(&mut app, &[&[Key::Char('/')], &typed("OUTBOUND")[..], &[Key::Enter]].concat());
        assert_eq!(app.rows(Pane::Leaks).len(), 10);
        press(&mut app, &[Key::Char('/'), Key::Control(b'u'), Key::Backspace]);
        assert_eq!((app.typing, app.filter.as_str()), (false, ""));
    }

    #[test]
    fn a_paused_view_stands_and_nothing_is_lost() {
        let mut app = app();
        press(&mut app, &[Key::Char('p')]);
        app.model.line(&serde_json::to_vec(&stacked(99)).unwrap());
        assert_eq!((app.rows(Pane::Leaks).len(), app.is_paused()), (9, true));
        press(&mut app, &[Key::Char('p')]);
        assert_eq!((app.rows(Pane::Leaks).len(), app.is_paused()), (10, false));
    }

    #[test]
    fn a_running_program_is_ended_in_steps() {
        let mut app = app();
        assert_eq!(press(&mut app, &[Key::Char('q')]), Wish::Nothing);
        assert_eq!(press(&mut app, &[Key::Escape, Key::Char('x')]), Wish::Nothing);
        assert_eq!(app.overlay, Overlay::None);
        assert_eq!(press(&mut app, &[Key::Char('q'), Key::Char('q')]), Wish::Terminate);
        assert_eq!(press(&mut app, &[Key::Char('q')]), Wish::Kill);
        app.end(137);
        assert_eq!(app.overlay, Overlay::None);
        assert_eq!(press(&mut app, &[Key::Char('q')]), Wish::Leave);
        // What is only watched is left at once.
        assert_eq!(App::new("", false, true).key(Key::Char('q')), Wish::Leave);
    }

    #[test]
    fn keys_of_the_terminal_go_to_the_program_whatever_is_open() {
        let mut app = app();
        for open in [Key::Char('?'), Key::Char('/'), Key::Enter] {
            app.key(open);
            assert_eq!(app.key(Key::Control(b'c')), Wish::Type(3));
            assert_eq!(app.key(Key::Control(b'\\')), Wish::Type(0x1c));
            assert_eq!(app.key(Key::Control(b'z')), Wish::Suspend);
            app.key(Key::Escape);
        }
        app.end(0);
        assert_eq!(app.key(Key::Control(b'c')), Wish::Leave);
    }

    #[test]
    fn panes_in_turn() {
        let mut app = app();
        let mut seen = Vec::new();
        for _ in 0..5 {
            app.key(Key::Tab);
            seen.push(app.focus);
        }
        assert_eq!(seen, [Pane::Connections, Pane::Processes, Pane::Output, Pane::Leaks, Pane::Connections]);
        app.key(Key::BackTab);
        assert_eq!(app.focus, Pane::Leaks);
        for pane in Pane::ALL {
            app.focus = pane;
            press(&mut app, &[Key::Up, Key::PageDown, Key::Home, Key::End, Key::Enter, Key::PageDown, Key::Escape]);
            assert_eq!(app.overlay, Overlay::None);
        }
    }
}
