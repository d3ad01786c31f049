//! Comparing traces.

use super::guest::Guest;
use nix::unistd::Pid;
use sockstrace::symbols::{Frame, Stack};
use sockstrace::unwind::{How, Limits};

/// What is compared of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub function: Option<String>,
    pub location: Option<String>,
    pub inlined: bool,
    pub signal: bool,
    /// The function had ended, by jumping into the one before.
    pub tail: bool,
}

impl Line {
    /// A line of the script above: kind, function, file:line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("FRAME\t")?.split('\t');
        let (kind, function, at) = (fields.next()?, fields.next()?, fields.next()?);
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let location = text(at.rsplit('/').next()?);
        let (inlined, signal, tail) = (kind == "inlined", kind == "signal", kind == "tail");
        Some(Self { function: text(&plain(function)), location, inlined, signal, tail })
    }

    pub fn of(frame: &Frame) -> Self {
        if frame.signal {
            return Self { function: None, location: None, inlined: false, signal: true, tail: false };
        }
        let file = frame.file.as_deref().and_then(|file| file.rsplit('/').next());
        let location = file.zip(frame.line).map(|(file, line)| format!("{file}:{line}"));
        let (inlined, tail) = (frame.inlined, frame.how == How::TailCall);
        Self { function: frame.function.as_deref().map(plain), location, inlined, signal: false, tail }
    }
}

/// A function's name without its parameters, and without what two demanglers write differently.
fn plain(function: &str) -> String {
    let function = function.replace("(anonymous namespace)", "{anonymous}").replace("long int", "long");
    // gdb doesn't name the class of a lambda.
    let function = function.rsplit_once("(anonymous class)::").map_or(&*function, |pair| pair.1);
    function.split_once('(').map_or(function, |pair| pair.0).to_owned()
}

pub fn lines(stack: &Stack) -> Vec<Line> {
    lines_of(&stack.frames)
}

pub fn lines_of(frames: &[Frame]) -> Vec<Line> {
    let mut frames: Vec<_> = frames.iter().collect();
    // Of a function that has ended gdb shows the innermost of what was inlined, and says nothing of the others.
    frames
        .dedup_by(|outer, inner| outer.how == How::TailCall && inner.how == How::TailCall && outer.ip == inner.ip);
    let mut lines: Vec<_> = frames.into_iter().map(Line::of).collect();
    for line in &mut lines {
        line.inlined &= !line.tail;
    }
    lines
}

/// Whether the lines are the same, but for which of several names a symbol table has for one address.
pub fn same(ours: &[Line], gdbs: &[Line]) -> bool {
    let name = |line: &Line| {
        let name = line.function.as_deref()?.trim_start_matches('_');
        Some(name.split('.').next()?.trim_end_matches("_impl").to_owned())
    };
    ours.len() == gdbs.len()
        && ours.iter().zip(gdbs).all(|(ours, gdbs)| {
            let alias = ours.location.is_none() && name(ours) == name(gdbs);
            (alias || ours.function == gdbs.function)
                && (&ours.location, ours.inlined, ours.signal, ours.tail)
                    == (&gdbs.location, gdbs.inlined, gdbs.signal, gdbs.tail)
        })
}

#[track_caller]
pub fn compare(guest: &Guest, tid: Pid) -> Stack {
    let (stack, _) = guest.trace(tid, Limits { frames: 5000, ..Limits::default() });
    assert_eq!(stack.truncated, None, "{stack:#?}");
    let (ours, gdbs) = (lines(&stack), guest.gdb(tid));
    let show = |lines: &[Line]| lines.iter().fold(String::new(), |text, line| text + &format!("  {line:?}\n"));
    assert!(same(&ours, &gdbs), "ours:\n{}gdb's:\n{}", show(&ours), show(&gdbs));
    assert!(stack.frames.iter().all(|frame| matches!(frame.how, How::Cfi | How::TailCall)), "{stack:#?}");
    stack
}
