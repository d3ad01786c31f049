//! `--tui`: processes, connections and leaks on the terminal, while they happen.
//!
//! There are two processes. The one that the user has started draws, and takes the keys. Its child is the
//! supervisor, in a session of its own on a pseudo-terminal of its own: what PROGRAM and sockstrace would write to
//! the user's terminal goes there, and into a pane. The supervisor tells what happens through a pipe, as
//! JSON lines, and waits for nobody at its end ([`crate::output::feed`]). So the drawing can't hold a judged call up,
//! nor end the judging; where it is killed, the supervisor is too, and the tree is without network.
//!
//! In the new session job control is as PROGRAM knows it: it and the supervisor are the pseudo-terminal's
//! foreground, Ctrl-C goes there as the character that it is, and becomes a signal as its modes have it. Where the
//! user's terminal goes away, so does the pseudo-terminal.

mod app;
mod front;
mod keys;
mod model;
mod output;
mod screen;
mod table;
mod text;
mod view;

use crate::attach;
use crate::cli::FAILURE;
use crate::config::Config;
use crate::output::feed::Feed;
use crate::run::{run_shown, say};
use crate::watch;
use front::Front;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2, setsid};
use screen::Screen;
use sockstrace_backend::reach;
use sockstrace_backend::signals::Inherited;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The pipe holds this much, where the kernel lets it: fcntl(2), pipe-max-size.
const PIPE: i32 = 1 << 20;

/// Signals that the drawing process takes one by one.
const TAKEN: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// Runs or watches with a screen; sockstrace's exit status.
pub fn run(config: Config, inherited: Inherited) -> u8 {
    try_run(config, inherited).unwrap_or_else(|why| {
        say(&why);
        FAILURE
    })
}

fn try_run(config: Config, inherited: Inherited) -> Result<u8, String> {
    let doing = |what: &'static str| move |errno: Errno| format!("--tui: {what}: {}", errno.desc());
    let mut screen = Screen::open()?;
    let OpenptyResult { master, slave } =
        openpty(Some(&screen.size()), None).map_err(doing("making a pseudo-terminal"))?;
    for end in [&master, &slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(doing("making a pseudo-terminal"))?;
    }
    let (events, feed) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(doing("making a pipe"))?;
    // Smaller, it is good for less.
    let _: Result<i32, Errno> = fcntl(&feed, FcntlArg::F_SETPIPE_SZ(PIPE));
    let title = config.program.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let title = if title.is_empty() { "watching".into() } else { title };
    let runs_program = !config.program.is_empty();
    let standard: Vec<i32> = (0..3).filter(|fd| screen.is(*fd)).collect();
    screen.enter().map_err(doing("taking the terminal over"))?;
    let (mut taken, mut blocked) = (SigSet::empty(), SigSet::empty());
    for signal in TAKEN {
        taken.add(signal);
        blocked.add(signal);
    }
    // From the background nothing of ours stops us: we ask first.
    blocked.add(Signal::SIGTTIN);
    blocked.add(Signal::SIGTTOU);
    let before = blocked.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
    let before = before.map_err(doing("blocking signals"));
    let front = Pid::this();
    // SAFETY: no other thread exists yet, so that the child may do as it likes.
    let forked = before
        .and_then(|before| unsafe { fork() }.map(|side| (side, before)).map_err(doing("starting the supervisor")));
    match forked {
        Ok((ForkResult::Child, before)) => {
            drop((events, master));
            let covers_stderr = standard.contains(&libc::STDERR_FILENO);
            let settled = before.thread_set_mask().and_then(|()| settle(front, &slave, &standard));
            // The descriptor of the user's terminal goes with this; its modes are the other process's business.
            std::mem::forget(screen);
            let status = match settled {
                Ok(()) => supervise(config, inherited, Feed::new(File::from(feed), covers_stderr)),
                Err(errno) => {
                    say(&format!("--tui: setting the supervisor up: {}", errno.desc()));
                    FAILURE
                }
            };
            // Open to the very end: where nobody has it, the other end closes, and that is a hang-up for us.
            std::mem::forget(slave);
            std::process::exit(i32::from(status));
        }
        Ok((ForkResult::Parent { child }, _)) => {
            drop((feed, slave));
            reach::leave();
            let shows_end = standard.contains(&libc::STDERR_FILENO);
            let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let app = app::App::new(&title, runs_program, colour);
            Front::new(screen, app, child, File::from(events), master).run(&taken, shows_end)
        }
        Err(why) => {
            screen.leave();
            Err(why)
        }
    }
}

fn supervise(config: Config, inherited: Inherited, feed: Feed) -> u8 {
    if let Some(pid) = config.attach {
        attach::attach(config, pid, Some(feed))
    } else if config.watching.is_some() {
        watch::watch_shown(config, Some(feed))
    } else {
        run_shown(config, inherited, feed)
    }
}

/// Makes the child the leader of a session on the pseudo-terminal, with what was the user's terminal there too.
fn settle(front: Pid, slave: &OwnedFd, standard: &[i32]) -> Result<(), Errno> {
    // Who kills what the user has started means all of it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != front {
        return Err(Errno::ESRCH);
    }
    setsid()?;
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    for fd in standard {
        let from = if *fd == libc::STDIN_FILENO { null.as_fd() } else { slave.as_fd() };
        // SAFETY: takes integers only; a standard stream is nobody's `OwnedFd`.
        Errno::result(unsafe { libc::dup2(from.as_raw_fd(), *fd) })?;
    }
    Ok(())
}
