//! Stacks for a person: each kind once, with the frame to blame pointed out, and by its number after that.

use super::escape::escaped;
use crate::blame;
use crate::event::{Frame, Stack};
use crate::unwind::How;
use anstyle::Style;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Kinds of stacks that get a number: a hostile program could have millions.
const KINDS: usize = 10_000;
/// Stacks whose number is known without looking at them again.
const RECENT: usize = 1000;
/// Of a deep stack, how many of the innermost and of the outermost frames are shown.
const INNERMOST: usize = 40;
const OUTERMOST: usize = 10;
/// Characters of a name; those of C++ templates can be pages.
const LONGEST: usize = 160;

const DIM: Style = Style::new().dimmed();
const BLAMED: Style = Style::new().bold();

/// The kinds of stacks that were shown.
#[derive(Debug)]
pub(super) struct Stacks {
    colour: bool,
    paths: Paths,
    kinds: HashMap<String, usize>,
    /// By the address of the stack, which is kept so that it stays that one's.
    recent: HashMap<usize, (Arc<Stack>, Option<String>, usize)>,
    /// The blamed frame of each kind.
    blamed: Vec<String>,
}

/// How a stack is to be shown.
pub(super) enum Shown {
    /// It is a new kind, or there is no number left: its lines. They end with a newline.
    New(Option<usize>, String),
    /// It is the same as one that was shown under this number.
    Known(usize),
}

impl Stacks {
    pub fn new(colour: bool, paths: Paths) -> Self {
        let (kinds, recent, blamed) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { colour, paths, kinds, recent, blamed }
    }

    /// Numbers a stack. Numbers begin with 1.
    pub fn number(&mut self, stack: &Arc<Stack>, exe: Option<&str>) -> Shown {
        let address = Arc::as_ptr(stack) as usize;
        if let Some((_, same_exe, number)) = self.recent.get(&address)
            && same_exe.as_deref() == exe
        {
            return Shown::Known(*number);
        }
        let mut lines = String::new();
        // Writing to a String can't fail.
        let _: fmt::Result = self.write(stack, exe, &mut lines);
        let next = self.blamed.len().saturating_add(1);
        let number = match self.kinds.get(&lines) {
            Some(number) => *number,
            None if next > KINDS => return Shown::New(None, lines),
            None => {
                let blamed = blame::blamed(&stack.frames, exe).and_then(|index| stack.frames.get(index));
                self.blamed.push(blamed.map_or_else(String::new, |frame| self.place(frame).to_string()));
                next
            }
        };
        if self.recent.len() >= RECENT {
            self.recent.clear();
        }
        self.recent.insert(address, (Arc::clone(stack), exe.map(str::to_owned), number));
        if number < next {
            return Shown::Known(number);
        }
        self.kinds.insert(lines.clone(), number);
        Shown::New(Some(number), lines)
    }

    /// The frame to blame for a stack of this number, in words; empty where there is none.
    pub fn blamed(&self, number: usize) -> &str {
        self.blamed.get(number.wrapping_sub(1)).map_or("", String::as_str)
    }

    fn place<'a>(&'a self, frame: &'a Frame) -> Place<'a> {
        Place { frame, paths: &self.paths }
    }

    fn style(&self, style: Style) -> Style {
        if self.colour { style } else { Style::new() }
    }

    fn write(&self, stack: &Stack, exe: Option<&str>, lines: &mut dyn fmt::Write) -> fmt::Result {
        if let Some(why) = &stack.partial {
            writeln!(lines, "      (best effort: {})", escaped(why))?;
        }
        let frames = &stack.frames;
        let (blamed, own) = (blame::blamed(frames, exe), blame::own(frames, exe));
        let mut rest = frames.iter().enumerate().peekable();
        while let Some((index, frame)) = rest.next() {
            let hidden = hidden_from(frames, index);
            let holds_blamed = blamed.is_some_and(|blamed| (index..index.saturating_add(hidden)).contains(&blamed));
            if hidden > 1 && !holds_blamed {
                writeln!(lines, "      {}... {hidden} more ...{:#}", self.style(DIM), self.style(DIM))?;
                rest.nth(hidden.saturating_sub(2));
                continue;
            }
            let (mark, style) = match blamed {
                Some(blamed) if blamed == index => ("  >", BLAMED),
                _ if own.get(index) == Some(&true) => ("", Style::new()),
                _ => ("", DIM),
            };
            let style = self.style(style);
            writeln!(lines, "  {mark:<3} {style}{}{style:#}", self.place(frame))?;
        }
        match &stack.truncated {
            Some(why) if frames.is_empty() => writeln!(lines, "      (no stack: {})", escaped(why)),
            Some(why) => writeln!(lines, "      (cut here: {})", escaped(why)),
            None => Ok(()),
        }
    }
}

/// How many frames from this one on aren't worth showing: the middle of a deep stack, code without names, and
/// what an interpreter does to run the program.
fn hidden_from(frames: &[Frame], index: usize) -> usize {
    let deep = frames.len().saturating_sub(INNERMOST.saturating_add(OUTERMOST));
    if deep > 0 && index == INNERMOST {
        return deep;
    }
    let after = frames.get(index..).unwrap_or_default();
    // Code of which nothing is known.
    let unnamed = after.iter().take_while(|frame| {
        frame.function.is_none() && after.first().is_some_and(|first| first.module == frame.module)
    });
    let unnamed = unnamed.count();
    if unnamed > 2 {
        return unnamed;
    }
    let is_script = |frame: &&Frame| frame.how == How::Interpreter;
    let scripts_before = frames.get(..index).unwrap_or_default().iter().any(|frame| is_script(&frame));
    if !scripts_before {
        return 0;
    }
    after.iter().take_while(|frame| !is_script(frame)).count()
}

/// What paths are shortened by.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    directory: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl Paths {
    /// The working directory and the user's home.
    #[must_use]
    pub fn of_this_process() -> Self {
        let root = Path::new("/");
        let directory = std::env::current_dir().ok().filter(|directory| directory != root);
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute() && home != root);
        Self { directory, home }
    }

    fn shorten(&self, path: &str) -> String {
        let path = &*plain(path);
        let within = |base: &Option<PathBuf>| {
            let rest = Path::new(path).strip_prefix(base.as_deref()?).ok()?;
            rest.to_str().filter(|rest| !rest.is_empty()).map(str::to_owned)
        };
        within(&self.directory)
            .or_else(|| within(&self.home).map(|rest| format!("~/{rest}")))
            .unwrap_or_else(|| path.to_owned())
    }
}

/// The path without `.`, and without what `..` takes back: compilers note `./csu/../csu/libc-start.c`.
fn plain(path: &str) -> Cow<'_, str> {
    if !path.split('/').any(|part| matches!(part, "." | "..")) {
        return path.into();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match (part, parts.last()) {
            (".", _) => {}
            ("..", Some(&last)) if !matches!(last, "" | "..") => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/").into()
}

/// `fetch at src/net.c:57, inlined`
struct Place<'a> {
    frame: &'a Frame,
    paths: &'a Paths,
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.frame;
        let module = frame.module.as_deref().map(|module| cut(module.rsplit('/').next().unwrap_or(module)));
        match (frame.function.as_deref(), &module, frame.offset) {
            (Some(function), ..) => write!(f, "{}", escaped(&cut(function)))?,
            // The address would be another one in each process.
            (None, Some(module), Some(offset)) => write!(f, "{}+{offset:#x}", escaped(module))?,
            (None, ..) => write!(f, "{:#x}", frame.ip)?,
        }
        if let Some(file) = &frame.file {
            write!(f, " at {}", escaped(&cut(&self.paths.shorten(file))))?;
            if let Some(line) = frame.line {
                write!(f, ":{line}")?;
            }
        } else if let (Some(_), Some(module)) = (&frame.function, &module) {
            write!(f, " in {}", escaped(module))?;
        }
        if frame.inlined {
            f.write_str(", inlined")?;
        }
        if frame.signal {
            f.write_str(", where a signal's handler returns to")?;
        }
        match frame.how {
            How::Guess => f.write_str(", a guess")?,
            How::TailCall => f.write_str(", which ended with this call")?,
            How::Cfi | How::FramePointer | How::Interpreter => {}
        }
        Ok(())
    }
}

fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::frame;

    fn stacks(colour: bool) -> Stacks {
        let paths = Paths { directory: Some("/home/me/work".into()), home: Some("/home/me".into()) };
        Stacks::new(colour, paths)
    }

    fn stack() -> Stack {
        let mut inlined = frame("/opt/p", "dial", Some(("/home/me/work/src/net.c", 42)));
        inlined.inlined = true;
        let frames = vec![
            frame("/usr/lib/x/libc.so.6", "connect", None),
            inlined,
            frame("/opt/p", "main", Some(("/home/me/lib/main.c", 7))),
        ];
        Stack { frames, ..Stack::default() }
    }

    fn lines(stacks: &mut Stacks, stack: Stack) -> String {
        match stacks.number(&Arc::new(stack), Some("/opt/p")) {
            Shown::New(_, lines) => lines,
            Shown::Known(number) => panic!("{number} is known"),
        }
    }

    #[test]
    fn a_stack_in_lines() {
        let shown = lines(&mut stacks(false), stack());
        let expected =
            "      connect in libc.so.6\n    > dial at src/net.c:42, inlined\n      main at ~/lib/main.c:7\n";
        assert_eq!(shown, expected);
        let coloured = lines(&mut stacks(true), stack());
        assert!(coloured.contains("\u{1b}[2mconnect") && coloured.contains("\u{1b}[1mdial"), "{coloured:?}");
    }

    #[test]
    fn what_is_not_certain_is_said() {
        let mut stack = stack();
        (stack.frames[2].how, stack.frames[2].signal) = (How::Guess, true);
        (stack.frames[0].function, stack.frames[0].offset) = (None, Some(0x99));
        (stack.truncated, stack.partial) = (Some("too many frames".into()), Some("traced\nby 7".into()));
        let shown = lines(&mut stacks(false), stack);
        for part in [
            "(best effort: traced\\nby 7)\n",
            "      libc.so.6+0x99\n",
            "main.c:7, where a signal's handler returns to, a guess\n",
            "(cut here: too many frames)\n",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let none = lines(&mut stacks(false), Stack::missing("the thread ended"));
        assert_eq!(none, "      (no stack: the thread ended)\n");
    }

    #[test]
    fn an_interpreters_own_frames_are_passed_over() {
        let script = |name| Frame { how: How::Interpreter, ..frame("/opt/p", name, Some(("/x/a.py", 3))) };
        let native = |name| frame("/opt/p", name, None);
        let frames = vec![
            native("sock_connect"),
            script("fetch"),
            native("_PyEval_EvalFrameDefault"),
            native("call"),
            script("<module>"),
            native("run"),
        ];
        let shown = lines(&mut stacks(false), Stack { frames, ..Stack::default() });
        let expected = "      sock_connect in p\n    > fetch at /x/a.py:3\n      ... 2 more ...\n      \
                        <module> at /x/a.py:3\n      run in p\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn code_without_names_is_counted() {
        let unnamed = || Frame { function: None, ..frame("/usr/lib/libx.so", "", None) };
        let named = |name| frame("/opt/p", name, None);
        let frames = vec![unnamed(), named("a"), unnamed(), unnamed(), unnamed(), named("main")];
        let shown = lines(&mut stacks(false), Stack { frames, ..Stack::default() });
        assert_eq!(shown, "      libx.so+0x1004\n    > a in p\n      ... 3 more ...\n      main in p\n");
    }

    #[test]
    fn paths_are_tidied() {
        assert_eq!(plain("./csu/../sysdeps/x.h"), "sysdeps/x.h");
        assert_eq!(plain("../a/./b"), "../a/b");
        assert_eq!(plain("/a/b/../../c"), "/c");
        assert_eq!(plain("/../c"), "/../c");
        assert_eq!(plain("src/a..b.c"), "src/a..b.c");
    }

    #[test]
    fn the_same_stack_has_the_same_number() {
        let mut stacks = stacks(false);
        let exe = Some("/opt/p");
        let first = Arc::new(stack());
        assert!(matches!(stacks.number(&first, exe), Shown::New(Some(1), _)));
        assert!(matches!(stacks.number(&first, exe), Shown::Known(1)));
        // In another process, elsewhere in memory.
        let mut moved = stack();
        moved.frames[0].ip = 5;
        assert!(matches!(stacks.number(&Arc::new(moved), exe), Shown::Known(1)));
        let mut other = stack();
        other.frames[1].line = Some(43);
        assert!(matches!(stacks.number(&Arc::new(other), exe), Shown::New(Some(2), _)));
        assert_eq!(stacks.blamed(1), "dial at src/net.c:42, inlined");
        assert_eq!(stacks.blamed(2), "dial at src/net.c:43, inlined");
        assert_eq!((stacks.blamed(0), stacks.blamed(3)), ("", ""));
    }

    #[test]
    fn deep_and_hostile_stacks_are_bounded() {
        let mut deep = stack();
        let hostile = format!("x\n\u{1b}[2J{}", "y".repeat(5000));
        deep.frames = (0..600).map(|n| frame("/opt/p", &format!("{n}{hostile}"), Some((&hostile, n)))).collect();
        let shown = lines(&mut stacks(false), deep);
        assert_eq!(shown.lines().count(), INNERMOST + OUTERMOST + 1);
        assert!(shown.contains("... 550 more ...") && !shown.contains('\u{1b}'));
        assert!(shown.len() < (INNERMOST + OUTERMOST + 1) * 500);
    }
}
