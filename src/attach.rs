//! `--pid` where what the process does is judged before it is done, not only watched.

use crate::backends;
use crate::config::Config;
use crate::output::feed::Feed;
use crate::output::ticker::Ticker;
use crate::pipeline::Pipeline;
use crate::run::{TALLIES, complain, ignore, plan, recorder, say};
use crate::watch;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use sockstrace_backend::{Backend, BackendError, Ended, Handler, signals};
use std::sync::Arc;

/// Attaches, by the best backend that can do what is asked, perhaps with somebody who looks on; sockstrace's exit
/// status.
pub fn attach(config: Config, pid: Pid, feed: Option<Feed>) -> u8 {
    if config.watching.is_some() {
        match why_not_watched() {
            None => return watch::watch_shown(config, feed),
            Some(why) => say(&format!("{why}; going on with --backend ptrace")),
        }
    }
    judge(config, pid, feed).unwrap_or_else(|error| complain(&error))
}

/// What the backend that watches lacks here.
fn why_not_watched() -> Option<String> {
    let Some(backend) = backends::all().into_iter().find(|backend| backend.capabilities().watch) else {
        return Some("no backend can watch what runs already".into());
    };
    let lack = backend.probe().into_iter().find(|finding| finding.works == Some(false))?;
    Some(format!("{}: {}: {}", backend.name(), lack.what, lack.detail))
}

fn judge(config: Config, pid: Pid, feed: Option<Feed>) -> Result<u8, BackendError> {
    let can = |backend: &dyn Backend| {
        let capabilities = backend.capabilities();
        capabilities.attach && capabilities.refuse && capabilities.perform
    };
    let backend = backends::all().into_iter().find(|backend| can(&**backend));
    let backend = backend.ok_or_else(|| BackendError::Unavailable("no backend can attach".into()))?;
    // A write past a limit on file sizes must be an error, not our end.
    ignore(Signal::SIGXFSZ)?;
    // Nor must files be that are cut off while their symbols are read.
    SigSet::from(Signal::SIGBUS).thread_unblock().map_err(BackendError::doing("unblocking a signal"))?;
    // The backend takes these, whichever threads there are.
    signals::ending().thread_block().map_err(BackendError::doing("blocking signals"))?;
    let is_shown = feed.is_some();
    let recorder = recorder(&config, feed)?;
    let plan = plan(&config);
    let pipeline = Pipeline::new(config, recorder, Box::new(|_| ()));
    let pipeline = pipeline.map_err(BackendError::doing("setting signals up"))?.share();
    let capabilities = backend.capabilities();
    pipeline.begin(backend.name(), plan.observe_results && capabilities.observes_results, capabilities);
    let handler: Arc<dyn Handler> = Arc::<Pipeline>::clone(&pipeline);
    let teller = is_shown.then(|| {
        let pipeline = Arc::clone(&pipeline);
        Ticker::start("teller", TALLIES, move |_| pipeline.tell_tally())
    });
    let attached = backend.attach(pid, &plan, handler);
    drop(teller);
    pipeline.settle();
    let status = match attached {
        // How the process ended is its parent's business.
        Ok(()) => pipeline.exit_status(Ended::Exited(0)),
        Err(error) => complain(&error),
    };
    pipeline.finish(i32::from(status));
    Ok(status)
}
