//! Whether this kernel lets this user trace, found out by doing it.

use crate::control::{self, Resume};
use crate::frame::Place;
use crate::stops::Change;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::ptrace::Options;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, pipe2, write};
use sockstrace_backend::filter::{Filter, Interception};
use sockstrace_backend::proc::Status;
use sockstrace_backend::{Ended, Finding, Syscall, Trap};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// What `sockstrace doctor` shows.
pub fn findings() -> Vec<Finding> {
    let mut findings = vec![scope()];
    match Trial::run() {
        Ok(trial) => findings.extend(trial.findings()),
        Err((what, errno)) => findings.push(finding(
            "PTRACE_SEIZE",
            Some(false),
            format!("{what}: {}; see ptrace_scope, and what the container's seccomp profile allows", errno.desc()),
        )),
    }
    findings.push(privileges());
    findings
}

fn finding(what: &str, works: Option<bool>, detail: impl Into<String>) -> Finding {
    Finding { what: what.into(), works, detail: detail.into() }
}

fn scope() -> Finding {
    const PATH: &str = "/proc/sys/kernel/yama/ptrace_scope";
    let may_always = capabilities() & (1 << 19) != 0; // CAP_SYS_PTRACE
    let text = std::fs::read_to_string(PATH).unwrap_or_default();
    let (works, detail) = match (text.trim(), may_always) {
        ("", _) => (Some(true), "no Yama on this kernel: own processes may be traced".to_owned()),
        ("0", _) => (Some(true), "0: own processes may be traced".into()),
        ("1", true) => {
            (Some(true), "1: other processes than descendants only with CAP_SYS_PTRACE, which this user has".into())
        }
        ("1", false) => {
            (Some(true), "1: own descendants may be traced, which is enough to run a program, not for --pid".into())
        }
        ("2", true) => (Some(true), "2: only with CAP_SYS_PTRACE, which this user has".into()),
        ("2", false) => (Some(false), format!("2: only with CAP_SYS_PTRACE: run as root, or write 1 to {PATH}")),
        (other, _) => {
            (Some(false), format!("{other}: nobody may trace until the next boot (set it to 1 in sysctl.d)"))
        }
    };
    finding("ptrace_scope", works, detail)
}

fn privileges() -> Finding {
    if has_sys_admin() {
        finding("privileges", Some(true), "CAP_SYS_ADMIN: the program runs without no_new_privs")
    } else {
        let detail = "without CAP_SYS_ADMIN the program runs with no_new_privs: set-user-ID programs in it (sudo, \
                      ping) gain nothing; run as root if they must";
        finding("privileges", None, detail)
    }
}

fn capabilities() -> u64 {
    Status::of(Pid::this()).map_or(0, |status| status.capabilities)
}

fn has_sys_admin() -> bool {
    capabilities() & (1 << 21) != 0
}

/// A child that was traced through one call.
#[derive(Debug, Default)]
struct Trial {
    /// The filter's stop came, and with it the call's number and arguments.
    seen: Option<Result<Place, Errno>>,
    /// The step at which the child gave up, 0 for none.
    step: i32,
}

/// The child's steps, as its exit status when they fail.
const NO_PRIVILEGES: i32 = 1;
const NO_FILTER: i32 = 2;

impl Trial {
    fn run() -> Result<Self, (&'static str, Errno)> {
        let at = |what| move |errno| (what, errno);
        let trap = [Trap::always(Syscall::Listen)];
        let filter =
            Filter::intercepting(&trap, Interception::Trace).map_err(|_| ("building a filter", Errno::EINVAL))?;
        let needs_no_new_privs = !has_sys_admin();
        let (wait, go) = pipe2(OFlag::O_CLOEXEC).map_err(at("making a pipe"))?;
        // SAFETY: the child makes only async-signal-safe calls, and ends in `child`.
        match unsafe { fork() }.map_err(at("forking"))? {
            ForkResult::Child => child(wait.as_raw_fd(), &filter, needs_no_new_privs),
            ForkResult::Parent { child } => {
                let trial = Self::trace(child, &go);
                if trial.is_err() {
                    // ESRCH, ECHILD: gone already.
                    let _: Result<(), Errno> = kill(child, Signal::SIGKILL);
                    let _: Result<Change, Errno> = control::wait_one(child);
                }
                trial
            }
        }
    }

    fn trace(child: Pid, go: &OwnedFd) -> Result<Self, (&'static str, Errno)> {
        let at = |what| move |errno| (what, errno);
        control::seize(child, Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACESECCOMP)
            .map_err(at("tracing a child"))?;
        write(go, b"g").map_err(at("releasing a child"))?;
        let mut trial = Self::default();
        loop {
            let signal = match control::wait_one(child).map_err(at("waiting for a child"))? {
                Change::Ended(Ended::Exited(step)) => {
                    trial.step = step;
                    return Ok(trial);
                }
                Change::Ended(Ended::Signaled(_)) => return Err(("a child was killed", Errno::ECHILD)),
                Change::Seccomp => {
                    trial.seen = Some(control::place(child));
                    0
                }
                Change::Signal(signal) => signal,
                _ => 0,
            };
            control::resume(child, Resume::Continue, signal).map_err(at("continuing a child"))?;
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let slow = "; every call of the program will be stopped instead, which is slow";
        let filter = match (self.step, self.seen) {
            (NO_PRIVILEGES, _) => finding("SECCOMP_RET_TRACE", None, format!("no_new_privs can't be set{slow}")),
            (NO_FILTER, _) => finding(
                "SECCOMP_RET_TRACE",
                None,
                format!("a filter can't be installed (CONFIG_SECCOMP_FILTER? a container's profile?){slow}"),
            ),
            (_, Some(_)) => {
                finding("SECCOMP_RET_TRACE", Some(true), "a filter stops just the calls that are judged")
            }
            (_, None) => {
                finding("SECCOMP_RET_TRACE", Some(false), "a filter was installed but did not stop the call")
            }
        };
        let info = match self.seen {
            Some(Ok(Place::Seccomp(_))) => {
                Some(finding("PTRACE_GET_SYSCALL_INFO", Some(true), "calls can be read"))
            }
            Some(_) => Some(finding("PTRACE_GET_SYSCALL_INFO", Some(false), "needs Linux 5.3")),
            None => None,
        };
        [finding("PTRACE_SEIZE", Some(true), "a child could be traced"), filter].into_iter().chain(info).collect()
    }
}

/// Async-signal-safe calls only.
fn child(wait: RawFd, filter: &Filter, needs_no_new_privs: bool) -> ! {
    let mut byte = 0_u8;
    let instructions = filter.instructions();
    let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: system calls on integers, one byte of our own, and a program that lives until they return.
    unsafe {
        if libc::read(wait, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(0);
        }
        if needs_no_new_privs && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            libc::_exit(NO_PRIVILEGES);
        }
        if libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) != 0 {
            libc::_exit(NO_FILTER);
        }
        libc::listen(-1, 0);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_trace() {
        for finding in findings() {
            assert_ne!(finding.works, Some(false), "{finding:?}");
        }
    }
}
