//! The program: parse, run, exit status.

use sockstrace::cli::{self, Invocation};
use sockstrace::config::{Config, Leftover};
use sockstrace::{attach, backends, background, capture, doctor, learn, report, run, tui, watch};
use sockstrace_backend::signals::Inherited;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    end_where_a_thread_panics();
    let inherited = match Inherited::capture() {
        Ok(inherited) => inherited,
        Err(errno) => return complain(&format!("reading the signal mask: {}", errno.desc())),
    };
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(status) => return ExitCode::from(status),
    };
    match invocation {
        Invocation::Run(run) => {
            let config = match Config::load(*run, &|name| std::env::var_os(name)) {
                Ok(config) => config,
                Err(error) => return complain(&error.to_string()),
            };
            if config.tui {
                return ExitCode::from(tui::run(config, inherited));
            }
            if let Some(pid) = config.attach {
                return ExitCode::from(attach::attach(config, pid, None));
            }
            if config.watching.is_some() {
                return ExitCode::from(watch::watch(config));
            }
            ExitCode::from(match config.leftover {
                Leftover::Background => background::run(config, inherited),
                Leftover::Wait | Leftover::Kill => run::run(config, inherited, |_| ()),
            })
        }
        Invocation::Doctor => {
            let backends = backends::all();
            let findings: Vec<_> =
                backends.iter().map(|it| (it.name(), it.capabilities().launch, it.probe())).collect();
            match doctor::print(&findings, &mut std::io::stdout().lock()) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => complain(&format!("writing: {error}")),
            }
        }
        Invocation::Report(options) => match report::run(&options) {
            Ok(status) => ExitCode::from(status),
            Err(error) => complain(&error),
        },
        Invocation::Learn(options) => match learn::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        },
        Invocation::CaptureShow(options) => match capture::show::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        },
        Invocation::Manual(command) => print(|out| cli::manual(command.as_deref(), out)),
        Invocation::Completions(shell) => print(|out| {
            cli::completions(shell, out);
            Ok(())
        }),
    }
}

/// A supervisor without one of its threads could let go of what that thread should have judged: a panic ends the
/// whole process, and with it the tree's network, however the program was built.
fn end_where_a_thread_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

/// Prints what `write` writes, or tells why not.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> ExitCode {
    let mut text = Vec::new();
    match write(&mut text).and_then(|()| io::stdout().write_all(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("writing to standard output: {error}")),
    }
}

fn complain(what: &str) -> ExitCode {
    // Not eprintln!, which panics where standard error is closed.
    let _: std::io::Result<()> = writeln!(std::io::stderr(), "sockstrace: {what}");
    ExitCode::from(cli::FAILURE)
}
