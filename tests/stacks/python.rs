//! Python functions, compared with what the program itself says that it runs.

use super::guest::Guest;
use sockstrace::symbols::{Frame, Stack};
use sockstrace::unwind::{How, Limits};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreters that are here: the system's, those in PATH by version, and what pyenv has.
fn interpreters() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/usr/bin/python3")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    for minor in 8..=13 {
        all.extend(std::env::split_paths(&path).map(|folder| folder.join(format!("python3.{minor}"))));
    }
    if let Some(home) = std::env::var_os("HOME")
        && let Ok(versions) = std::fs::read_dir(Path::new(&home).join(".pyenv/versions"))
    {
        all.extend(versions.map(|version| version.unwrap().path().join("bin/python3")));
    }
    let mut all: Vec<_> =
        all.iter().filter_map(|path| path.canonicalize().ok()).filter(|path| knows(path)).collect();
    all.sort();
    all.dedup();
    all
}

/// Whether it is a CPython of a version that is read.
fn knows(python: &Path) -> bool {
    let script = "import sys; print(sys.implementation.name, *sys.version_info[:2])";
    let Ok(output) = Command::new(python).args(["-c", script]).output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = text.trim().strip_prefix("cpython 3 ").and_then(|minor| minor.parse().ok());
    output.status.success() && minor.is_some_and(|minor: u32| (8..=13).contains(&minor))
}

fn program() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/stacks/frames.py").to_owned()
}

fn is_evaluation(frame: &Frame) -> bool {
    frame.function.as_deref().is_some_and(|name| name.split('.').next() == Some("_PyEval_EvalFrameDefault"))
}

fn scripts(stack: &Stack) -> Vec<String> {
    let interpreted = stack.frames.iter().filter(|frame| frame.how == How::Interpreter);
    let text = |frame: &Frame| {
        let (function, file) = (frame.function.as_deref().unwrap(), frame.file.as_deref().unwrap());
        format!("{function}\t{file}\t{}", frame.line.unwrap_or(0))
    };
    interpreted.map(text).collect()
}

fn check(what: &str) {
    let all = interpreters();
    assert!(!all.is_empty());
    for python in all {
        eprintln!("{} {what}", python.display());
        let guest = Guest::of(Command::new(&python).arg(program()).arg(what).env("PYTHONIOENCODING", "utf8"));
        let tid = guest.threads().pop().unwrap();
        let (stack, _) = guest.trace(tid, Limits::default());
        assert_eq!(scripts(&stack), guest.said, "{stack:#?}");
        assert_eq!(stack.truncated, None);
        // Each run of them stands before the native function that runs it.
        let runs =
            stack.frames.windows(2).filter(|pair| pair[0].how == How::Interpreter && is_evaluation(&pair[1]));
        let evaluations = stack.frames.iter().filter(|frame| is_evaluation(frame)).count();
        assert!(evaluations > 0);
        assert_eq!(runs.count(), evaluations, "{stack:#?}");
        let ends = stack
            .frames
            .windows(2)
            .filter(|pair| pair[0].how == How::Interpreter)
            .all(|pair| pair[1].how == How::Interpreter || is_evaluation(&pair[1]));
        assert!(ends, "{stack:#?}");
    }
}

#[test]
fn functions_and_generators() {
    check("plain");
}

#[test]
fn coroutines() {
    check("coroutines");
}

#[test]
fn a_thread() {
    check("thread");
}

#[test]
fn lines_far_down() {
    check("long");
}

#[test]
fn imports() {
    check("imported");
}
