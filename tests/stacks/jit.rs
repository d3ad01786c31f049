//! Code that was compiled while the program ran, by what its compiler writes to /tmp/perf-PID.map.

use super::guest::{Folder, Guest, is_left_out, run};
use sockstrace::symbols::{Frame, Stack};
use sockstrace::unwind::{How, Limits};
use std::fs;
use std::process::Command;

/// The file, which whoever wrote it leaves behind.
struct Map(String);

impl Drop for Map {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn place_of(stack: &Stack, is_it: impl Fn(&Frame) -> bool, function: &str) -> usize {
    let found = stack.frames.iter().position(|frame| frame.function.as_deref() == Some(function) && is_it(frame));
    found.unwrap_or_else(|| panic!("{function} in {stack:#?}"))
}

#[test]
fn javascript() {
    if is_left_out("node") {
        return;
    }
    let folder = Folder::new();
    let script = folder.file("program.js");
    let source = "const cell = new Int32Array(new SharedArrayBuffer(4));\n\
        function innermost() { require('fs').writeSync(1, 'ready\\n'); Atomics.wait(cell, 0, 0, 1e6); }\n\
        function outer(values) { return values.map(function callback() { return innermost(); }); }\n\
        \n\
        outer([1]);\n";
    fs::write(&script, source).unwrap();
    let mut command = Command::new("node");
    command.args(["--perf-basic-prof", "--interpreted-frames-native-stack", &script]);
    // It leaves a log where it is.
    command.current_dir(&folder.0);
    let guest = Guest::of(&mut command);
    let _map = Map(format!("/tmp/perf-{}.map", guest.pid()));
    let (stack, _) = guest.trace(guest.pid(), Limits::default());
    let in_script = |line| {
        let script = script.clone();
        move |frame: &Frame| frame.file.as_deref() == Some(&script) && frame.line == Some(line)
    };
    let innermost = place_of(&stack, in_script(2), "innermost");
    let callback = place_of(&stack, in_script(3), "callback");
    let outer = place_of(&stack, in_script(3), "outer");
    let script = place_of(&stack, in_script(1), "(anonymous)");
    assert!(innermost < callback && callback < outer && outer < script, "{stack:#?}");
    assert_eq!(stack.truncated, None);
    assert!(stack.frames.iter().all(|frame| frame.how != How::Guess));
}

#[test]
fn java() {
    if is_left_out("java") {
        return;
    }
    let folder = Folder::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/stacks/Frames.java");
    run("javac", &["-d", folder.0.to_str().unwrap(), source]);
    let mut command = Command::new("java");
    command.args(["-Xcomp", "-XX:+PreserveFramePointer", "-XX:CompileCommand=quiet"]);
    command.args(["-XX:CompileCommand=compileonly,Frames::*", "-XX:CompileCommand=dontinline,Frames::*"]);
    command.arg("-cp").arg(&folder.0).arg("Frames");
    let guest = Guest::of(&mut command);
    let _map = Map(format!("/tmp/perf-{}.map", guest.pid()));
    // The program's own thread is the first that the launcher makes.
    let tid = guest.threads()[1];
    let (before, _) = guest.trace(tid, Limits::default());
    assert!(before.frames.iter().all(|frame| frame.function.as_deref() != Some("void Frames.innermost()")));
    run("jcmd", &[&guest.pid().to_string(), "Compiler.perfmap"]);
    let (stack, _) = guest.trace(tid, Limits::default());
    let at = |function| place_of(&stack, |_| true, function);
    let innermost = at("void Frames.innermost()");
    let (outer, main) = (at("void Frames.outer(int)"), at("void Frames.main(java.lang.String[])"));
    assert!(innermost < outer && outer < main, "{stack:#?}");
    assert!(stack.frames.iter().all(|frame| frame.how != How::Guess), "{stack:#?}");
    assert_eq!(stack.truncated, None, "{stack:#?}");
}
