//! How runs end: exit statuses, actions, descendants that outlive PROGRAM, sockstrace's own sudden end,
//! output that can't be written, a hundred thousand calls, job control.

use super::support::backends;
use super::support::cases::{root_is_alone, run_all, with_privilege};
use super::support::programs::programs;
use super::support::run::{Outcome, Run, Status, pipe, sockstrace};
use super::support::stage::Stage;
use super::support::terminal::Terminal;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

fn hostile(words: &[&str]) -> Vec<String> {
    let program = programs().hostile.to_str().unwrap().to_owned();
    std::iter::once(program).chain(words.iter().map(|word| (*word).to_owned())).collect()
}

/// Fails with everything that is known when `fits` is false or a general complaint exists.
fn expect(outcome: &Outcome, what: &str, fits: bool) -> Result<(), String> {
    let complaints = outcome.complaints();
    if fits && complaints.is_empty() { Ok(()) } else { Err(format!("{what}: {complaints:?}\n  {outcome:?}")) }
}

/// Each case with each backend that has its action: a core is nothing that programs in the kernel can make.
fn pairs<C: Copy + std::fmt::Debug>(cases: &[C]) -> Vec<(&'static str, C)> {
    let all = backends().into_iter().flat_map(|backend| cases.iter().map(move |case| (backend, *case)));
    all.filter(|(backend, case)| *backend != "ebpf" || !format!("{case:?}").contains("core")).collect()
}

#[test]
fn exit_statuses() {
    // Guest, further options, expected status.
    let cases: &[(&[&str], &[&str], i32)] = &[
        (&["exit", "0"], &[], 0),
        (&["exit", "7"], &[], 7),
        (&["exit", "255"], &[], 255),
        (&["die", "9"], &[], 137),
        (&["die", "15"], &[], 143),
        (&["die", "6"], &[], 134),
        (&["die", "11"], &[], 139),
        (&["die", "34"], &[], 162),
        (&["leak-then", "0"], &[], 23),
        (&["leak-then", "0"], &["--leak-exit-code=5"], 5),
        (&["leak-then", "0"], &["--leak-exit-code=0"], 0),
        (&["leak-then", "7"], &[], 7),
        (&["leak-then", "0"], &["--on-leak=log"], 23),
        (&["leak-then", "0"], &["--on-leak=kill"], 137),
        (&["leak-then", "0"], &["--on-leak=kill-tree"], 137),
        (&["leak-then", "0"], &["--on-leak=core"], 134),
    ];
    with_privilege("ends::exit_statuses", || {
        let all: Vec<_> = pairs(cases);
        run_all(
            &all,
            |(backend, (guest, options, _))| format!("{guest:?} {options:?} {backend}"),
            |(backend, (guest, options, status))| {
                let stage = Stage::new();
                let outcome =
                    Run::new(backend, &stage.dir).allow_stage().args(*options).program(hostile(guest)).run();
                expect(&outcome, "status", outcome.code() == Some(*status))
            },
        );
    });
}

#[test]
fn programs_that_cannot_run() {
    with_privilege("ends::programs_that_cannot_run", || {
        run_all(
            &backends(),
            |backend| (*backend).to_owned(),
            |backend| {
                let stage = Stage::new();
                fs::write(stage.dir.join("plain"), "no program").unwrap();
                fs::create_dir(stage.dir.join("folder")).unwrap();
                for (program, status) in [
                    ("/nonexistent/program", 127),
                    ("no-such-program-in-path", 127),
                    ("./plain", 126),
                    ("./folder", 126),
                ] {
                    let outcome = Run::new(backend, &stage.dir).program([program]).run();
                    expect(&outcome, program, outcome.code() == Some(status) && outcome.stdout.is_empty())?;
                }
                let outcome = Run::new(backend, &stage.dir).arg("--proxy=nonsense").program(["true"]).run();
                expect(&outcome, "bad option", outcome.code() == Some(125) && outcome.stdout.is_empty())
            },
        );
    });
}

/// kill and core end the process that leaks; its parent goes on.
#[test]
fn killed_alone() {
    let cases =
        [("kill", "child ended -> 137"), ("core", "child ended -> 134"), ("block", "child went on; ended -> 143")];
    with_privilege("ends::killed_alone", || {
        let all: Vec<_> = pairs(&cases);
        run_all(
            &all,
            |(backend, (action, _))| format!("{action} {backend}"),
            |(backend, (action, printed))| {
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).allow_stage().on_leak(action);
                let outcome = run.program(hostile(&["leaking-child"])).run();
                let truth = stage.truth();
                let fits =
                    outcome.stdout.contains(printed) && outcome.code() == Some(23) && truth.foreign().is_empty();
                expect(&outcome, &format!("{truth:?}"), fits)
            },
        );
    });
}

#[test]
fn block_errno() {
    with_privilege("ends::block_errno", || {
        run_all(
            &backends(),
            |backend| (*backend).to_owned(),
            |backend| {
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).allow_stage().arg("--block-errno=ECONNREFUSED");
                let outcome = run.program([programs().vectors.as_os_str(), "tcp4".as_ref()]).run();
                let told = outcome.leaks().all(|event| event.text("errno") == "ECONNREFUSED");
                let fits = outcome.stderr.contains("connect: ECONNREFUSED") && outcome.code() == Some(1) && told;
                expect(&outcome, "errno", fits)
            },
        );
    });
}

/// A daemon connects some time after PROGRAM has ended.
#[test]
fn leftovers() {
    let all: Vec<_> = backends()
        .into_iter()
        .flat_map(|backend| ["wait", "kill", "background"].map(|way| (backend, way)))
        .collect();
    with_privilege("ends::leftovers", || {
        run_all(
            &all,
            |(backend, way)| format!("{way} {backend}"),
            |(backend, way)| {
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).allow_stage().arg(format!("--leftover={way}"));
                let started = Instant::now();
                let background = *way == "background";
                let linger = Duration::from_millis(if background { 4000 } else { 0 });
                // Longer than it takes to start at the worst of times.
                let later = if *way == "kill" { "3000" } else { "600" };
                let running = run.linger(linger).program(hostile(&["daemon-later", later, "0"])).start();
                // The keeper tells of the end of sockstrace itself before it waits for the others.
                let outcome = running.finish();
                let (truth, elapsed) = (stage.truth(), started.elapsed());
                let told = fs::read_to_string(stage.dir.join("daemon")).unwrap_or_default();
                let saw_daemon = told.trim() == "EPERM";
                let fits = match *way {
                    "wait" => outcome.code() == Some(23) && saw_daemon && elapsed >= Duration::from_millis(550),
                    "kill" => outcome.code() == Some(0) && told.is_empty() && elapsed < Duration::from_millis(2500),
                    // The daemon was judged to its end, behind PROGRAM's status.
                    _ => outcome.code() == Some(0) && saw_daemon && outcome.leaks().count() == 1,
                };
                let what = format!("after {elapsed:?}, the daemon got {told:?}, {truth:?}");
                expect(&outcome, &what, fits && truth.foreign().is_empty())
            },
        );
    });
}

/// In the background the status comes at once.
#[test]
fn background_returns_at_once() {
    with_privilege("ends::background_returns_at_once", || {
        run_all(
            &backends(),
            |backend| (*backend).to_owned(),
            |backend| {
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).allow_stage().arg("--leftover=background");
                // What is left behind is expected, and ended by the keeper.
                let outcome = run.program(hostile(&["daemon-later", "9000", "7"])).run();
                let fits = outcome.code() == Some(7)
                    && outcome.elapsed < Duration::from_secs(5)
                    && !outcome.left.is_empty();
                if fits && outcome.zombies.is_empty() { Ok(()) } else { Err(format!("{outcome:?}")) }
            },
        );
    });
}

/// Whatever ends sockstrace ends the tree's network: threads, daemons, calls under way. Signals that it
/// hands on to PROGRAM don't end it: then it goes on judging what is left.
#[test]
fn sudden_end_of_sockstrace() {
    let fatal = [libc::SIGKILL, libc::SIGABRT];
    let handed_on = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    let blocked = fatal.iter().chain(&handed_on).map(|signal| (*signal, "block"));
    let ways: Vec<_> = blocked.chain(fatal.iter().map(|signal| (*signal, "log"))).collect();
    let all: Vec<_> = backends()
        .into_iter()
        .flat_map(|backend| ways.iter().map(move |(signal, action)| (backend, *signal, *action)))
        .collect();
    with_privilege("ends::sudden_end_of_sockstrace", || {
        run_all(
            &all,
            |(backend, signal, action)| format!("signal {signal} {action} {backend}"),
            |(backend, signal, action)| {
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).allow_stage().arg("--allow=203.0.113.9").on_leak(action);
                let running =
                    run.linger(Duration::from_millis(1200)).program(hostile(&["leak-everywhere"])).start();
                running.wait_for_stdout("leaking");
                thread::sleep(Duration::from_millis(50));
                // SAFETY: sockstrace runs and is a child of our keeper, which has not waited for it.
                assert_eq!(unsafe { libc::kill(running.pid, *signal) }, 0);
                // Calls that were let go before may still be under way.
                thread::sleep(Duration::from_millis(if *action == "log" { 150 } else { 0 }));
                let before = stage.truth();
                let outcome = running.finish();
                let mut truth = stage.truth();
                // What acknowledges, ends or repeats earlier connections is no new traffic.
                truth.packets.clear();
                let mut wrong = truth.foreign();
                if *action == "block" {
                    wrong.extend(before.foreign());
                }
                if outcome.status == Status::Deadline {
                    wrong.push("hangs".into());
                }
                if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}\n  {outcome:?}")) }
            },
        );
    });
}

/// At whatever moment sockstrace is killed, from its first instruction on: nothing of what is to be blocked leaves,
/// neither before nor afterwards, and no part of sockstrace stays behind.
#[test]
fn killed_at_any_moment() {
    const MOMENTS: u64 = 40;
    let all: Vec<_> = backends()
        .into_iter()
        .flat_map(|backend| (0..MOMENTS).map(move |moment| (backend, moment * moment / 4)))
        .collect();
    with_privilege("ends::killed_at_any_moment", || {
        run_all(
            &all,
            |(backend, moment)| format!("{moment} ms {backend}"),
            |(backend, moment)| {
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).allow_stage().linger(Duration::from_millis(300));
                let running = run.program(hostile(&["leak-on"])).start();
                thread::sleep(Duration::from_millis(*moment));
                // SAFETY: sockstrace runs and is a child of our keeper, which has not waited for it.
                assert_eq!(unsafe { libc::kill(running.pid, libc::SIGKILL) }, 0);
                let outcome = running.finish();
                let mut wrong = stage.truth().foreign();
                if outcome.status == Status::Deadline {
                    wrong.push("hangs".into());
                }
                wrong.extend(
                    outcome
                        .left
                        .iter()
                        .filter(|line| line.contains("sockstrace") || line.contains("sst-"))
                        .cloned(),
                );
                if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}\n  {outcome:?}")) }
            },
        );
    });
}

/// Events can't be written: the disk is full, nobody reads, standard error is closed.
#[test]
fn unwritable_output() {
    const WAYS: [&str; 6] = ["full jsonl", "full human", "tmpfs", "broken pipe", "broken pipe jsonl", "closed"];
    let all: Vec<_> = backends().into_iter().flat_map(|backend| WAYS.map(|way| (backend, way))).collect();
    with_privilege("ends::unwritable_output", || {
        run_all(
            &all,
            |(backend, way)| format!("{way} {backend}"),
            |(backend, way)| {
                let stage = Stage::new();
                let count = "1500";
                let mut run = Run::new(backend, &stage.dir).own_output().allow_stage();
                let format = if way.ends_with("jsonl") { "jsonl" } else { "human" };
                run = run.args(["--format", format]);
                match way.split(' ').next().unwrap() {
                    "full" => run = run.args(["-o", "/dev/full"]),
                    "tmpfs" => {
                        let disk = stage.dir.join("disk");
                        fs::create_dir(&disk).unwrap();
                        let mount = format!("mount -t tmpfs -o size=16k none {} && exec \"$@\"", disk.display());
                        run = run
                            .arg("-o")
                            .arg(disk.join("events"))
                            .wrap(["unshare", "-m", "sh", "-c", &mount, "sh"]);
                    }
                    "broken" => {
                        let (reader, writer) = pipe();
                        drop(reader);
                        run = run.stderr(writer);
                    }
                    _ => run = run.wrap(["sh", "-c", "exec \"$@\" 2>&-", "sh"]),
                }
                let outcome = run.program(hostile(&["leak-many", count])).deadline(Duration::from_secs(30)).run();
                let truth = stage.truth();
                // Either the program goes on and is refused each time, or sockstrace gives up, and the tree with it.
                let went_on = outcome.stdout.contains("refused 1500") && outcome.code() == Some(23);
                let gave_up = outcome.code() == Some(125);
                expect(&outcome, &format!("{truth:?}"), (went_on || gave_up) && truth.foreign().is_empty())
            },
        );
    });
}

/// Descriptors, threads and memory (kB, without files that are mapped) of a process.
fn possessions(pid: i32) -> (usize, u64, u64) {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (descriptors, field("Threads:"), field("RssAnon:"))
}

#[test]
fn a_hundred_thousand_calls() {
    let all: Vec<_> =
        backends().into_iter().flat_map(|backend| ["log", "block"].map(|action| (backend, action))).collect();
    with_privilege("ends::a_hundred_thousand_calls", || {
        run_all(
            &all,
            |(backend, action)| format!("{action} {backend}"),
            |(backend, action)| {
                let mut stage = Stage::new();
                stage.serve();
                let run = Run::new(backend, &stage.dir).allow_stage().on_leak(action);
                let guest = hostile(&["endless", "50000"]);
                let running = run.program(guest).deadline(Duration::from_secs(120)).start();
                running.wait_for_stdout("go?");
                let before = possessions(running.pid);
                let start = Instant::now();
                fs::write(stage.dir.join("go"), "").unwrap();
                running.wait_for_stdout("end?");
                let took = start.elapsed();
                let after = possessions(running.pid);
                fs::write(stage.dir.join("end"), "").unwrap();
                let outcome = running.finish();
                println!("{backend} {action}: 100,000 calls in {took:?}; before {before:?}, after {after:?}");
                // Threads that look at stacks stay for a while.
                let leaked = after.0 > before.0 + 2 || after.1 > before.1 + 8 || after.2 > before.2 + 6_000;
                // In log mode every twentieth connect goes through, which the guest counts.
                let counted = if *action == "log" { "failures -> 2600" } else { "failures -> 0" };
                let fits = !leaked && outcome.stdout.contains(counted);
                expect(&outcome, &format!("{before:?} {after:?}"), fits)
            },
        );
    });
}

/// A thousand pipelines of a shell: no hang, no lost child, no stray EINTR.
#[test]
fn pipelines() {
    const SCRIPT: &str =
        "i=0; while [ $i -lt 1000 ]; do echo $i | cat | tail -n 1 >/dev/null || exit 9; i=$((i+1)); done; echo $i";
    let all: Vec<_> =
        backends().into_iter().flat_map(|backend| ["log", "block"].map(|action| (backend, action))).collect();
    with_privilege("ends::pipelines", || {
        run_all(
            &all,
            |(backend, action)| format!("{action} {backend}"),
            |(backend, action)| {
                let stage = Stage::new();
                let run = Run::new(backend, &stage.dir).on_leak(action).deadline(Duration::from_secs(90));
                let outcome = run.program(["/bin/sh", "-c", SCRIPT]).run();
                expect(&outcome, "pipelines", outcome.stdout == "1000\n" && outcome.code() == Some(0))
            },
        );
    });
}

/// Ctrl-Z, fg, bg, Ctrl-C and reading from the terminal, as a shell sees them.
fn use_terminal(command: &str, dir: &Path) {
    let mut terminal = Terminal::new(dir);
    terminal.type_line(&format!("{command} tick 60"));
    terminal.expect("tick 3 connected");
    terminal.type_raw("\x1a");
    terminal.expect("Stopped");
    let rest = terminal.rest(Duration::from_millis(400));
    assert!(!rest.contains("connected"), "goes on though stopped: {rest:?}");
    terminal.type_line("echo al''ive");
    terminal.expect("alive");
    terminal.type_line("fg");
    // Not "tick": the shell shows the command before it hands the terminal over.
    terminal.expect(" connected");
    terminal.type_raw("\x1a");
    terminal.expect("Stopped");
    terminal.type_line("bg; echo in the back''ground");
    terminal.expect("in the background");
    terminal.expect(" connected");
    terminal.type_line("fg");
    terminal.expect("all ticked");
    terminal.type_line("echo status $?");
    terminal.expect("status 0");
    // The foreground may read; the background is stopped when it tries.
    terminal.type_line(&format!("{command} read-line"));
    terminal.expect("say something");
    terminal.type_line("hello");
    terminal.expect("heard hello");
    terminal.type_line(&format!("{command} read-line &"));
    terminal.expect("say something");
    terminal.repeat_until("jobs", "Stopped");
    terminal.type_line("fg");
    terminal.rest(Duration::from_millis(200));
    terminal.type_line("again");
    terminal.expect("heard again");
    terminal.type_line(&format!("{command} tick 200"));
    terminal.expect("tick 3 connected");
    terminal.type_raw("\x03");
    terminal.type_line("echo status $?");
    terminal.expect("status 130");
    terminal.type_line("exit");
}

/// Whoever types into the shell's terminal makes the shell act, which nobody judges.
#[test]
fn typing_for_the_shell() {
    with_privilege("ends::typing_for_the_shell", || {
        let runs =
            backends().into_iter().flat_map(|backend| ["log", "block"].map(|action| (Some(backend), action)));
        // From its own session, or from another.
        let all: Vec<_> = std::iter::once((None, ""))
            .chain(runs)
            .flat_map(|(backend, action)| ["", " apart"].map(|from| (backend, action, from)))
            .collect();
        run_all(
            &all,
            |(backend, action, from)| format!("{} {action}{from}", backend.unwrap_or("natively")),
            |(backend, action, from)| {
                let stage = Stage::new();
                let guest = programs().hostile.display().to_string();
                let mut terminal = Terminal::new(&stage.dir);
                let command = backend.map_or_else(
                    || guest.clone(),
                    |backend| {
                        let options = format!("--backend={backend} --on-leak={action} --format=jsonl -o events");
                        format!("{} {options} -- {guest}", sockstrace().display())
                    },
                );
                terminal.type_line(&format!("{command} type-in{from}; echo en''ded"));
                terminal.expect("ioctl -> ");
                terminal.expect("ended");
                let typed = terminal.rest(Duration::from_millis(300)).contains("typed by a program");
                let events = fs::read_to_string(stage.dir.join("events")).unwrap_or_default();
                let told = events.contains("\"syscall\":\"ioctl\"") && events.contains("\"verdict\":\"leak\"");
                // Administrators may have forbidden it altogether.
                let forbidden = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|on| on == "0\n");
                // Root may all the same, and into any terminal.
                let possible = !root_is_alone() || (!forbidden && from.is_empty());
                match *action {
                    "block" if typed || !told => Err(format!("typed: {typed}; {events}")),
                    "log" if typed != possible || !told => Err(format!("typed: {typed}; {events}")),
                    "" if typed != possible => Err(format!("natively typed: {typed}")),
                    _ => Ok(()),
                }
            },
        );
    });
}

#[test]
fn job_control() {
    with_privilege("ends::job_control", || {
        let ways = [None, Some("seccomp"), Some("ptrace")];
        run_all(
            &ways,
            |backend| backend.unwrap_or("natively").to_owned(),
            |backend| {
                let mut stage = Stage::new();
                stage.serve();
                let guest = programs().hostile.display().to_string();
                let command = backend.map_or_else(
                    || guest.clone(),
                    |backend| {
                        let options = "--proxy=socks5://203.0.113.9:9050 -o events";
                        format!("{} --backend={backend} {options} -- {guest}", sockstrace().display())
                    },
                );
                use_terminal(&command, &stage.dir);
                Ok(())
            },
        );
    });
}
