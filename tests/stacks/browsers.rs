//! Browsers: all threads of the first process, compared with gdb's view of the same stop. They come without debug
//! information, so that what is compared are the frames and the names that symbol tables have.

use super::guest::{Folder, is_left_out};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid};
use sockstrace::symbols::{Stack, Symbolizer};
use sockstrace::unwind::{How, LiveMemory, Registers, Unwinder};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Threads that are looked at.
const THREADS: usize = 24;

struct Browser(Child);

impl Browser {
    /// Starts it without a network, and waits until it listens for a debugger of pages.
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.arg("-n").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("HOME", std::env::temp_dir()).env("MOZ_DISABLE_AUTO_SAFE_MODE", "1");
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(" listening on ")), "{arguments:?}");
        // What else it has to say must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        std::thread::sleep(Duration::from_secs(3));
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    fn threads(&self) -> Vec<Pid> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let mut tids: Vec<i32> =
            tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        tids.sort_unstable();
        tids.into_iter().take(THREADS).map(Pid::from_raw).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stack of a thread, if it still lives.
fn trace(unwinder: &Unwinder, symbolizer: &Symbolizer, pid: Pid, tid: Pid) -> Option<Stack> {
    ptrace::seize(tid, ptrace::Options::empty()).ok()?;
    ptrace::interrupt(tid).ok()?;
    waitpid(tid, Some(WaitPidFlag::__WALL)).ok()?;
    let trace = ptrace::getregs(tid).ok().and_then(|registers| {
        let image = unwinder.image(pid).ok()?;
        Some(unwinder.unwind(&image, &Registers::from(&registers), &LiveMemory::new(tid)))
    });
    ptrace::detach(tid, None).ok()?;
    Some(symbolizer.symbolize(&trace?))
}

/// gdb's frames by thread: address and name.
fn gdb(pid: Pid) -> HashMap<i32, Vec<(u64, Option<String>)>> {
    let script = r#"
import gdb
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame = gdb.newest_frame()
    try:
        while frame is not None:
            if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
                print("FRAME\t%d\t%d\t%s" % (thread.ptid[1], frame.pc(), frame.name() or ""))
            frame = frame.older()
    except gdb.error:
        pass
"#;
    let file = std::env::temp_dir().join(format!("browsers-{pid}.py"));
    fs::write(&file, script).unwrap();
    let mut command = Command::new("gdb");
    command.env_remove("DEBUGINFOD_URLS").args(["-nx", "-batch", "-ex", "set backtrace past-main on"]);
    command.args(["-ex", "set backtrace past-entry on", "-ex", &format!("attach {pid}"), "-x"]).arg(&file);
    let output = command.output().expect("gdb is needed");
    fs::remove_file(file).unwrap();
    let mut all = HashMap::<i32, Vec<_>>::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some(line) = line.strip_prefix("FRAME\t") else { continue };
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap();
        let (tid, ip, name) = (next().parse().unwrap(), next().parse().unwrap(), next());
        all.entry(tid).or_default().push((ip, Some(name.to_owned()).filter(|name| !name.is_empty())));
    }
    all
}

/// A name without parameters and decoration.
fn plain(name: &str) -> &str {
    let name = name.split(['(', '<', '@']).next().unwrap_or(name).trim_start_matches('_');
    name.split('.').next().unwrap_or(name)
}

/// Compares, and gives how many threads were the same to the end, and how many as far as there are rules for
/// unwinding.
fn compare(browser: &Browser) -> (usize, usize) {
    let (unwinder, symbolizer) = (Unwinder::default(), Symbolizer::default());
    // Nobody moves between our look and gdb's.
    kill(browser.pid(), Signal::SIGSTOP).unwrap();
    let threads = browser.threads();
    let is_stopped = |tid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
        status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    while !threads.iter().all(is_stopped) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let all: Vec<_> =
        threads.iter().map(|tid| (tid, trace(&unwinder, &symbolizer, browser.pid(), *tid).unwrap())).collect();
    let gdbs = gdb(browser.pid());
    let (mut whole, mut partly) = (0, 0);
    for (tid, ours) in &all {
        let gdbs = &gdbs[&tid.as_raw()];
        let frames: Vec<_> =
            ours.frames.iter().filter(|frame| !frame.inlined && frame.how != How::TailCall).collect();
        let certain = frames.iter().take_while(|frame| frame.how == How::Cfi).count();
        let all_certain = certain == frames.len() && ours.truncated.is_none();
        // The caller that the last rule gives is certain too, though by which rule to leave it isn't.
        for (number, (frame, (ip, name))) in frames.iter().zip(gdbs).take(certain).enumerate() {
            assert_eq!(frame.ip, *ip, "thread {tid}, frame {number}: {ours:#?} {gdbs:#x?}");
            if let (Some(function), Some(name)) = (&frame.function, name) {
                let same = plain(function) == plain(name) || plain(function).ends_with(plain(name));
                assert!(same, "{function} {name}: {ours:#?} {gdbs:#x?}");
            }
            assert!(frame.function.is_some() || name.is_none(), "{name:?}: {frame:#?}");
        }
        if all_certain {
            assert_eq!(frames.len(), gdbs.len(), "thread {tid}: {ours:#?} {gdbs:#x?}");
            whole += 1;
        }
        partly += usize::from(certain > 1);
    }
    (whole, partly)
}

#[test]
fn firefox() {
    if is_left_out("firefox") || !Uid::effective().is_root() {
        return;
    }
    let folder = Folder::new();
    let profile = folder.0.to_str().unwrap();
    let arguments = ["firefox", "--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", profile];
    let browser = Browser::start(&arguments);
    let (whole, partly) = compare(&browser);
    eprintln!("{whole} threads the same to the end, {partly} as far as can be said");
    assert!(whole >= 10 && partly >= whole, "{whole} {partly}");
}

#[test]
fn chromium() {
    if is_left_out("chromium") || !Uid::effective().is_root() {
        return;
    }
    let folder = Folder::new();
    let profile = format!("--user-data-dir={}", folder.0.display());
    let arguments = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        &profile,
        "about:blank",
    ];
    let browser = Browser::start(&arguments);
    let (whole, partly) = compare(&browser);
    eprintln!("{whole} threads the same to the end, {partly} as far as can be said");
    // Its own code has next to no unwind information.
    assert!(partly >= 8, "{whole} {partly}");
}
