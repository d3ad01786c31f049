//! `--all` and `--pid`: what runs already is watched until somebody ends that, or it ends itself.

use crate::backends;
use crate::capture::Recording;
use crate::cli::FAILURE;
use crate::config::{Config, Format};
use crate::output::feed::Feed;
use crate::pipeline::Witness;
use crate::run::{complain, ignore, recorder, say};
use nix::sys::signal::Signal;
use sockstrace_backend::BackendError;

/// Watches; sockstrace's exit status.
pub fn watch(config: Config) -> u8 {
    watch_shown(config, None)
}

/// As [`watch`], perhaps with somebody who looks on.
pub(crate) fn watch_shown(config: Config, feed: Option<Feed>) -> u8 {
    try_watch(config, feed).unwrap_or_else(|error| complain(&error))
}

fn try_watch(mut config: Config, feed: Option<Feed>) -> Result<u8, BackendError> {
    let Some(watching) = config.watching.take() else { return Ok(FAILURE) };
    let backend = backends::all().into_iter().find(|backend| backend.capabilities().watch);
    let backend = backend.ok_or_else(|| BackendError::Unavailable("no backend can watch the machine".into()))?;
    // A write past a limit on file sizes must be an error, not our end.
    ignore(Signal::SIGXFSZ)?;
    let recorder = recorder(&config, feed)?;
    // On standard error among lines that a machine reads, words for a person would be in the way.
    let tell = if config.output.is_some() || config.format == Format::Human { say } else { |_: &str| () };
    let scope = watching.scope.clone();
    let leaked = config.leak_exit_code as u8;
    let wish = config.capture.take();
    let mut witness = Witness::new(config, watching, backend.name(), recorder, tell);
    if let Some(wish) = wish {
        witness.capture(Recording::start(wish).map_err(BackendError::Unavailable)?);
    }
    let status = match backend.watch(&scope, &witness) {
        Ok(()) if scope.attaches && witness.saw_leaks() => leaked,
        Ok(()) => 0,
        Err(error) => complain(&error),
    };
    witness.finish(i32::from(status));
    Ok(status)
}
