//! One run: choose a backend, judge, and answer with an exit status.

use crate::action::end;
use crate::backends;
use crate::capture::{self, Recording};
use crate::cli::FAILURE;
use crate::config::{BackendChoice, Config, Leftover, OnLeak, Stack, Trace};
use crate::dns::Mode;
use crate::isolate::{Isolation, covers};
use crate::operation::interest::{self, Interest};
use crate::output::Recorder;
use crate::output::feed::Feed;
use crate::output::live;
use crate::output::ticker::Ticker;
use crate::pipeline::{OnProgramEnd, Pipeline, lands_connections};
use crate::policy::strict;
use crate::redirect::datagrams::Datagrams;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use sockstrace_backend::signals::Inherited;
use sockstrace_backend::{Backend, BackendError, Capabilities, Command, Ended, Handler, Plan};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// The status for a program that can't be executed, and for one that isn't there: as shells have it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How often whoever looks on is told how far it is.
pub(crate) const TALLIES: Duration = Duration::from_millis(200);

/// Runs PROGRAM under judgement and returns sockstrace's exit status. `program_ended` is told the status
/// as soon as PROGRAM has ended, before its descendants have.
pub fn run(config: Config, inherited: Inherited, program_ended: impl Fn(u8) + Send + Sync + 'static) -> u8 {
    try_run(config, inherited, Box::new(program_ended), None).unwrap_or_else(|error| complain(&error))
}

/// As [`run`], with somebody who looks on.
pub(crate) fn run_shown(config: Config, inherited: Inherited, feed: Feed) -> u8 {
    try_run(config, inherited, Box::new(|_| ()), Some(feed)).unwrap_or_else(|error| complain(&error))
}

/// Says why there was no run; the exit status for that.
pub(crate) fn complain(error: &BackendError) -> u8 {
    say(&error.to_string());
    match error {
        BackendError::NotFound(_) => NOT_FOUND,
        BackendError::NotExecutable(..) => NOT_EXECUTABLE,
        BackendError::Failed(..) | BackendError::Unavailable(_) => FAILURE,
    }
}

/// Tells the user something on standard error.
pub(crate) fn say(what: &str) {
    // Not eprintln!, which panics where standard error is closed.
    let _: std::io::Result<()> = writeln!(std::io::stderr(), "sockstrace: {what}");
}

fn try_run(
    mut config: Config,
    inherited: Inherited,
    program_ended: OnProgramEnd,
    feed: Option<Feed>,
) -> Result<u8, BackendError> {
    if config.on_leak == OnLeak::Core
        && let Some(warning) = end::core_warning()
    {
        say(warning);
    }
    // A write past a limit on file sizes must be an error, not our end.
    ignore(Signal::SIGXFSZ)?;
    // Reading mapped files that the program cuts off must not be our end either: where the signal is blocked,
    // its handler isn't asked. PROGRAM's mask is what we inherited.
    SigSet::from(Signal::SIGBUS).thread_unblock().map_err(BackendError::doing("unblocking a signal"))?;
    let is_shown = feed.is_some();
    let recorder = recorder(&config, feed)?;
    let is_live = live::is_wanted(config.live);
    if is_live && config.output.is_none() {
        recorder.share_line();
    }
    let mut plan = plan(&config);
    let judged = plan.traps.clone();
    let wish = config.capture.take();
    if wish.is_some() {
        can_capture(config.backend)?;
        plan.traps = capture::traps(&judged);
    }
    let (program, arguments) = match config.program.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => return Err(BackendError::Failed("running nothing".into(), Errno::EINVAL)),
    };
    let choice = config.backend;
    let isolation =
        if config.isolate { Some(Isolation::new(config.policy.networks(), covers(&config.policy))?) } else { None };
    plan.namespaces = isolation.as_ref().map(Isolation::namespaces);
    let pipeline = Pipeline::new(config, recorder, program_ended);
    let mut pipeline = pipeline.map_err(BackendError::doing("setting signals up"))?;
    if let Some(isolation) = isolation {
        pipeline.isolate(isolation).map_err(BackendError::doing("making sockets inside --isolate"))?;
    }
    if let Some(wish) = wish {
        pipeline.capture(Recording::start(wish).map_err(BackendError::Unavailable)?, judged);
    }
    let pipeline = pipeline.share();
    let mut command = Command { program, arguments, inherited, severed: Vec::new() };
    let line = is_live.then(|| {
        let pipeline = Arc::clone(&pipeline);
        live::start(move || pipeline.tally())
    });
    let teller = is_shown.then(|| {
        let pipeline = Arc::clone(&pipeline);
        Ticker::start("teller", TALLIES, move |_| pipeline.tell_tally())
    });
    let ended = run_on(choice, &pipeline, &mut command, &plan);
    drop((line, teller));
    // The last handshakes may be judged yet.
    pipeline.settle();
    let status = match ended {
        Ok(ended) => pipeline.exit_status(ended),
        Err(error) => complain(&error),
    };
    pipeline.finish(i32::from(status));
    Ok(status)
}

/// Opens what events are written to, and tells whoever looks on.
pub(crate) fn recorder(config: &Config, feed: Option<Feed>) -> Result<Recorder, BackendError> {
    let covered = config.output.is_none() && feed.as_ref().is_some_and(Feed::covers_stderr);
    let recorder =
        if covered { Recorder::silent() } else { Recorder::open(config.format, config.output.as_deref()) };
    let recorder = recorder.map_err(|error| {
        let name = config.output.as_deref().map_or("standard error".into(), |path| path.display().to_string());
        BackendError::Failed(format!("opening {name} for events"), sockstrace_backend::filter::errno_of(&error))
    })?;
    if let Some(feed) = feed {
        recorder.show(feed, config.trace);
    }
    Ok(recorder)
}

pub(crate) fn plan(config: &Config) -> Plan {
    let policy = &config.policy;
    let redirects = config.on_leak == OnLeak::Redirect;
    let interest = Interest {
        incoming: policy.judges_incoming() || config.trace == Trace::All,
        disclosure: policy.judges_disclosure(),
        peers: config.dns != Mode::Judge
            || (redirects && policy.first_proxy().is_some_and(Datagrams::may_be_offered)),
        redirects: lands_connections(config),
        hooked: None,
    };
    Plan {
        traps: interest::traps(interest),
        allowed_syscalls: config.strict.then(strict::allowed),
        leftover: match config.leftover {
            Leftover::Kill => sockstrace_backend::Leftover::Kill,
            Leftover::Wait | Leftover::Background => sockstrace_backend::Leftover::Wait,
        },
        observe_results: config.on_leak == OnLeak::Log,
        heeds_sharing: config.on_leak != OnLeak::Log,
        user_namespace: config.user_namespace,
        namespaces: None,
        hooks: None,
    }
}

/// The name of a backend that was asked for.
fn name_of(choice: BackendChoice) -> Option<&'static str> {
    match choice {
        BackendChoice::Auto => None,
        BackendChoice::Seccomp => Some("seccomp"),
        BackendChoice::Ptrace => Some("ptrace"),
        BackendChoice::Ebpf => Some("ebpf"),
    }
}

/// Whether a backend that may be chosen sees what calls read and write.
fn can_capture(choice: BackendChoice) -> Result<(), BackendError> {
    let name = name_of(choice);
    let able = |backend: &dyn Backend| may_capture(backend, name);
    if backends::all().iter().any(|backend| name.is_none_or(|name| backend.name() == name) && able(&**backend)) {
        return Ok(());
    }
    let name = name.unwrap_or_default();
    Err(BackendError::Unavailable(format!(
        "the {name} backend can't capture: it doesn't see what calls have read, nor how much they have written; \
         use --backend ptrace or ebpf"
    )))
}

/// Whether the backend can capture; one that loses bytes in a flood must be asked for.
fn may_capture(backend: &dyn Backend, name: Option<&str>) -> bool {
    let capabilities = backend.capabilities();
    capabilities.holds_at_exit || (capabilities.captures && name.is_some())
}

/// Runs on the chosen backend; `auto` tries the next one where one can't be had.
fn run_on(
    choice: BackendChoice,
    pipeline: &Arc<Pipeline>,
    command: &mut Command,
    plan: &Plan,
) -> Result<Ended, BackendError> {
    let name = name_of(choice);
    let captures = pipeline.captures();
    let able = |backend: &dyn Backend| !captures || may_capture(backend, name);
    let mut candidates = backends::all()
        .into_iter()
        .filter(|backend| backend.capabilities().launch)
        .filter(|backend| name.is_none_or(|name| backend.name() == name) && able(&**backend))
        .peekable();
    let kills = matches!(pipeline.on_leak(), OnLeak::Kill | OnLeak::KillTree | OnLeak::Core);
    let mut first = true;
    let mut unavailable = BackendError::Unavailable("no backend works here: see `sockstrace doctor`".into());
    while let Some(backend) = candidates.next() {
        let capabilities = backend.capabilities();
        if let Err(why) = check(&*backend, capabilities, pipeline) {
            if name.is_some() || candidates.peek().is_none() {
                // What the better ones lack is the user's to mend, not what this one can't do.
                return Err(if first { why } else { unavailable });
            }
            continue;
        }
        if first && name.is_none() && pipeline.tells_people() {
            say(&format!("backend {}: the first of --backend auto that can do all that is asked", backend.name()));
        }
        let shows_results = plan.observe_results && capabilities.observes_results;
        let awaits = captures && capabilities.holds_at_exit;
        let plan = Plan { observe_results: shows_results || awaits, ..plan.clone() };
        let plan = if capabilities.hooks { pipeline.plan_with_hooks(plan)? } else { plan };
        pipeline.begin(backend.name(), shows_results, capabilities);
        if first {
            command.severed = pipeline.judge_inherited();
            if kills && !command.severed.is_empty() {
                say("PROGRAM was not started: it would have inherited a connection that leaks");
                return Ok(Ended::Signaled(libc::SIGKILL));
            }
            first = false;
        }
        let handler: Arc<dyn Handler> = Arc::<Pipeline>::clone(pipeline);
        match backend.run(command, &plan, handler) {
            Err(BackendError::Unavailable(why)) if name.is_none() => {
                if let Some(next) = candidates.peek() {
                    say(&format!("{}: {why}; going on with --backend {}", backend.name(), next.name()));
                }
                unavailable = BackendError::Unavailable(why);
            }
            other => return other,
        }
    }
    Err(unavailable)
}

/// Options are held against what the backend can do before the program starts.
fn check(backend: &dyn Backend, capabilities: Capabilities, pipeline: &Pipeline) -> Result<(), BackendError> {
    let acts = match pipeline.on_leak() {
        OnLeak::Log => true,
        OnLeak::Block | OnLeak::Kill | OnLeak::KillTree => {
            capabilities.refuse && (capabilities.perform || capabilities.hooks)
        }
        OnLeak::Redirect => capabilities.diverts || (capabilities.refuse && capabilities.perform),
        OnLeak::Core => capabilities.refuse && capabilities.perform,
    };
    if !acts {
        let able = if capabilities.hooks { "log, block, redirect, kill or kill-tree" } else { "log" };
        let what = format!("the {} backend can't do that to leaks: use --on-leak {able}", backend.name());
        return Err(BackendError::Unavailable(what));
    }
    let carried = [
        ("--isolate", pipeline.isolates()),
        ("--dns redirect", pipeline.redirects_dns()),
        ("--socks-auth, --socks-isolation and --socks-names", pipeline.inspects()),
    ];
    if let Some((option, _)) = carried.iter().find(|(_, asked)| *asked && !capabilities.perform) {
        let what =
            format!("the {} backend can't carry traffic for {option}: use another --backend", backend.name());
        return Err(BackendError::Unavailable(what));
    }
    if pipeline.stack() == Stack::Always && !capabilities.looks {
        let what = format!("the {} backend can't take stack traces: use --stack never", backend.name());
        return Err(BackendError::Unavailable(what));
    }
    Ok(())
}

pub(crate) fn ignore(signal: Signal) -> Result<(), BackendError> {
    // SAFETY: ignoring is no handler.
    let result = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
    result.map(drop).map_err(BackendError::doing("ignoring a signal"))
}
