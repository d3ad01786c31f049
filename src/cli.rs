//! The command line.

use crate::config::Options;
use crate::{capture::show, learn, report};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

/// The exit status of sockstrace's own failures.
pub const FAILURE: u8 = 125;

/// What the help ends with.
const NOTES: &str = "Every option can stand in the --config file under its long name (on-leak = \"log\"; an array \
     where it is repeatable), and in the environment as SOCKSTRACE_ON_LEAK (repeatable ones separated by commas; \
     SOCKSTRACE_CONFIG names the file). Flags override the environment, which overrides the file; a repeatable \
     option is replaced as a whole.\n\n\
     Exit status: PROGRAM's own (128+N where signal N ended it); --leak-exit-code where it ended with 0 and \
     something leaked; 125 where sockstrace failed, 126 where PROGRAM can't be executed, 127 where it is not found.";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run (or attach to) a program and judge it.
    Run(Box<Run>),
    /// Say what works here.
    Doctor,
    /// Turn recorded event streams into reports.
    Report(report::Options),
    /// Turn recorded event streams into a configuration.
    Learn(learn::Options),
    /// Show captured payloads.
    CaptureShow(show::Options),
    /// Write a page of the manual: that of a subcommand, or the main one.
    Manual(Option<String>),
    /// Write completions for a shell.
    Completions(Shell),
}

/// A run: its options aren't checked yet ([`crate::config::Config::load`]).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// `--config`
    pub config: Option<PathBuf>,
    /// Every other option.
    pub options: Options,
    /// PROGRAM and its arguments.
    pub program: Vec<OsString>,
}

/// Runs PROGRAM and judges every socket operation in its process tree: what goes past the proxy is a
/// leak, and refused.
#[derive(Debug, Parser)]
#[command(
    name = "sockstrace",
    version,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    override_usage = "sockstrace [OPTIONS] [--] PROGRAM [ARG]...\n       \
                      sockstrace [OPTIONS] --pid PID\n       \
                      sockstrace [OPTIONS] --all\n       \
                      sockstrace doctor\n       \
                      sockstrace report [OPTIONS] EVENTS.jsonl...\n       \
                      sockstrace learn [-o FILE] EVENTS.jsonl...",
    after_help = NOTES
)]
struct Cli {
    /// The same options as TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    options: Options,

    /// The program to run, and its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    program: Vec<OsString>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What this kernel and this user can do, backend by backend
    Doctor,
    /// Turn a recorded event stream into a report
    ///
    /// Without an option it is a summary on standard output. FILE may be - for standard output. The exit
    /// status is 0, 23 where --diff found new leaks, and 125 where something failed.
    Report(report::Options),
    /// Turn a recorded event stream into a --config file that allows just what was seen
    Learn(learn::Options),
    /// Look at what --capture has written
    #[command(disable_help_subcommand = true)]
    Capture {
        #[command(subcommand)]
        action: CaptureAction,
    },
    /// Write the manual page: sockstrace manual > sockstrace.1
    Manual {
        /// The subcommand that the page is about [default: sockstrace as a whole]
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
    /// Write completions for a shell: sockstrace completions bash
    Completions {
        /// bash, zsh, fish, elvish or powershell
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum CaptureAction {
    /// The conversations, both directions by time
    Show(show::Options),
}

/// Writes a page of the manual in roff.
///
/// # Errors
/// Where there is no such subcommand, or writing fails.
pub fn manual(subcommand: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let mut whole = Cli::command();
    whole.build();
    let Some(name) = subcommand else {
        return clap_mangen::Man::new(whole).render(out);
    };
    let Some(command) = whole.find_subcommand(name) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no subcommand {name:?}")));
    };
    // As `man sockstrace-report` finds it.
    let page = clap_mangen::Man::new(command.clone()).title(format!("sockstrace-{name}"));
    page.render(out)
}

/// Writes completions.
pub fn completions(shell: Shell, out: &mut dyn Write) {
    clap_complete::generate(shell, &mut Cli::command(), "sockstrace", out);
}

/// Reads the command line.
///
/// # Errors
/// The exit status, where there is nothing to run: 0 after `--help` and `--version`, [`FAILURE`] after a
/// mistake, which has been told.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, u8> {
    try_parse(arguments).map_err(|error| {
        // Nothing is left to be done if even that can't be written.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
            _ => FAILURE,
        }
    })
}

fn try_parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let cli = Cli::try_parse_from(arguments)?;
    Ok(match cli.command {
        Some(Command::Doctor) => Invocation::Doctor,
        Some(Command::Report(options)) => Invocation::Report(options),
        Some(Command::Learn(options)) => Invocation::Learn(options),
        Some(Command::Capture { action: CaptureAction::Show(options) }) => Invocation::CaptureShow(options),
        Some(Command::Manual { command }) => Invocation::Manual(command),
        Some(Command::Completions { shell }) => Invocation::Completions(shell),
        None => Invocation::Run(Box::new(Run { config: cli.config, options: cli.options, program: cli.program })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Invocation, ErrorKind> {
        let line = std::iter::once("sockstrace").chain(line.iter().copied());
        try_parse(line.map(OsString::from)).map_err(|error| error.kind())
    }

    fn run(line: &[&str]) -> Run {
        match parsed(line) {
            Ok(Invocation::Run(run)) => *run,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_programs_arguments_are_its_own() {
        for line in [
            &["--allow-loopback", "curl", "-o", "x", "--allow", "y", "--help", "doctor"][..],
            &["--allow-loopback", "--", "curl", "-o", "x", "--allow", "y", "--help", "doctor"],
        ] {
            let run = run(line);
            assert_eq!(run.options.allow_loopback, Some(true));
            assert_eq!((run.options.allow, run.options.output), (None, None));
            assert_eq!(run.program, ["curl", "-o", "x", "--allow", "y", "--help", "doctor"]);
        }
        assert_eq!(run(&["sh", "--", "-c"]).program, ["sh", "--", "-c"]);
        assert_eq!(run(&["--", "--odd"]).program, ["--odd"]);
        assert_eq!(run(&["--", "doctor"]).program, ["doctor"]);
        assert_eq!(run(&["help", "me"]).program, ["help", "me"]);
    }

    #[test]
    fn options() {
        let run = run(&["--allow", "::1", "--allow=1.2.3.4", "--isolate=false", "-o", "f", "--config", "c", "p"]);
        assert_eq!(run.options.allow, Some(vec!["::1".into(), "1.2.3.4".into()]));
        assert_eq!(run.options.isolate, Some(false));
        assert_eq!(run.options.output, Some("f".into()));
        assert_eq!(run.config, Some("c".into()));
        assert_eq!(run.program, ["p"]);
    }

    #[test]
    fn subcommands() {
        assert_eq!(parsed(&["doctor"]), Ok(Invocation::Doctor));
        let report = parsed(&["report", "a", "b", "--html", "x", "--diff=y"]);
        let options = report::Options {
            events: vec!["a".into(), "b".into()],
            html: Some("x".into()),
            diff: Some("y".into()),
            ..report::Options::default()
        };
        assert_eq!(report, Ok(Invocation::Report(options)));
        assert!(parsed(&["report", "a", "--any-destination"]).is_err());
        assert!(matches!(parsed(&["learn", "-", "-o", "x"]), Ok(Invocation::Learn(_))));
        assert_eq!(parsed(&["completions", "fish"]), Ok(Invocation::Completions(Shell::Fish)));
        assert!(parsed(&["report"]).is_err());
    }

    #[test]
    fn mistakes_end_with_our_status() {
        for line in [
            &["--allow"][..],
            &["--no-such-option", "p"],
            &["--on-leek", "log", "p"],
            &["--isolate=perhaps", "p"],
            &["report"],
        ] {
            let line = std::iter::once("sockstrace").chain(line.iter().copied());
            assert_eq!(parse(line.map(OsString::from)), Err(FAILURE));
        }
        for flag in ["--help", "-h", "--version", "-V"] {
            assert_eq!(parse(["sockstrace", flag].map(OsString::from)), Err(0));
        }
    }
}
