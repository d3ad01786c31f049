//! Starting PROGRAM under filters, with everything else as it would have been untraced.
//!
//! The child shares the supervisor's descriptor table until just before exec (`CLONE_FILES`), so that the
//! seccomp listener that it makes is the supervisor's too, without passing it through a call that the
//! filter traps. After the fork the child makes only async-signal-safe calls on what was prepared before.

use crate::filter::Filter;
use crate::signals::{self, Inherited};
use crate::{BackendError, Namespaces, reach};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, pipe2, read, write};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program, searched in PATH when it has no slash, as execvp(3) does.
    pub program: OsString,
    /// Its arguments, without its name.
    pub arguments: Vec<OsString>,
    /// What it inherits.
    pub inherited: Inherited,
    /// Descriptors of ours that it must not inherit: it gets /dev/null in their place.
    pub severed: Vec<RawFd>,
}

/// How the child is prepared before it runs PROGRAM.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The filter that intercepts calls, if one can be installed.
    pub intercepting: Option<&'a Filter>,
    /// The intercepting filter gets a listener (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
    pub listener: bool,
    /// A filter for calls that the start itself makes ([`crate::filter::is_of_start`]), installed behind the
    /// last of them.
    pub late: Option<&'a Filter>,
    /// A further filter, installed last (`--syscalls strict`).
    pub strict: Option<&'a Filter>,
    /// Run it in a user namespace of its own.
    pub user_namespace: bool,
    /// Run it in these namespaces instead.
    pub namespaces: Option<&'a Namespaces>,
}

/// A child that waits, filters installed, for [`Waiting::exec`].
#[derive(Debug)]
pub struct Waiting {
    pid: Pid,
    report: OwnedFd,
    go: OwnedFd,
    shared: Vec<OwnedFd>,
    listener: Option<OwnedFd>,
    program: OsString,
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19): once received, only a fatal signal ends the wait.
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// What the child tells: a stage and a value.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Stage {
    Ready = 1,
    Filtered,
    Unshared,
    NamespaceFailed,
    EnteringFailed,
    PrivilegesFailed,
    FilterFailed,
    StrictFailed,
    UnshareFailed,
    ExecFailed,
}

/// Starts the child up to the point where `attach` may take hold of it (ptrace), then lets it install its
/// filters.
///
/// # Errors
/// Where a step fails; the child is gone then.
pub fn start(
    command: &Command,
    setup: &Setup<'_>,
    attach: impl FnOnce(Pid) -> Result<(), BackendError>,
) -> Result<Waiting, BackendError> {
    let plan = ChildPlan::prepare(command, setup)?;
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(BackendError::doing("making a pipe"));
    let ((report, child_report), (child_go, go)) = (pipe()?, pipe()?);
    let before = signals::block_all().map_err(BackendError::doing("blocking signals"))?;
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork; the child makes only async-signal-safe calls (`ChildPlan::run`).
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    if pid == 0 {
        plan.run(child_report.as_raw_fd(), child_go.as_raw_fd());
    }
    let forked = Errno::result(pid).map_err(BackendError::doing("forking"));
    before.thread_set_mask().map_err(BackendError::doing("restoring signals"))?;
    let pid = Pid::from_raw(forked? as i32);
    raise_descriptor_limit();
    reach::leave();
    let mut child = Waiting {
        pid,
        report,
        go,
        shared: vec![child_report, child_go],
        listener: None,
        program: command.program.clone(),
    };
    let prepared = child.expect(Stage::Ready).and_then(|_| attach(child.pid)).and_then(|()| {
        child.release()?;
        child.expect(Stage::Filtered)
    });
    match prepared {
        Ok(fd) => {
            if setup.listener {
                // SAFETY: the child made it in the table that it shares with us, for us to own.
                child.listener = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
            Ok(child)
        }
        Err(error) => {
            child.end();
            Err(error)
        }
    }
}

impl Waiting {
    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The listener that was asked for; once.
    pub fn take_listener(&mut self) -> Option<OwnedFd> {
        self.listener.take()
    }

    /// Lets the child run PROGRAM; returns when it does. Calls that PROGRAM's start makes trap from now on:
    /// somebody must answer them on another thread, or afterwards.
    ///
    /// # Errors
    /// Where PROGRAM can't be executed; the child is gone then, and reaped.
    pub fn exec(mut self) -> Result<Pid, BackendError> {
        let started = self.release().and_then(|()| self.expect(Stage::Unshared)).and_then(|_| {
            self.shared.clear();
            match self.hear()? {
                None => Ok(()),
                Some((stage, value)) => Err(self.failure(stage, value)),
            }
        });
        match started {
            Ok(()) => Ok(self.pid),
            Err(error) => {
                self.end();
                Err(error)
            }
        }
    }

    /// Lets the child run PROGRAM without waiting for it: for a tracer, whose child stops in its exec.
    /// [`Started::outcome`] tells what became of it.
    pub fn exec_without_waiting(mut self) -> Result<Started, BackendError> {
        match self.release().and_then(|()| self.expect(Stage::Unshared)) {
            Ok(_) => {
                self.shared.clear();
                Ok(Started(self))
            }
            Err(error) => {
                self.end();
                Err(error)
            }
        }
    }

    fn release(&self) -> Result<(), BackendError> {
        write(&self.go, b"g").map(drop).map_err(BackendError::doing("releasing the program"))
    }

    /// The next report; `None` when the child has executed PROGRAM.
    fn hear(&self) -> Result<Option<(i32, i32)>, BackendError> {
        let failed = |errno| BackendError::Failed("hearing from the program's start".into(), errno);
        let mut message = [0; 8];
        loop {
            // While the table is shared, the child's death doesn't close the pipe: watch for it too.
            let mut fds = [PollFd::new(self.report.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(100_u8)) {
                Ok(0) if has_ended(self.pid) => {
                    return Err(BackendError::Failed(format!("{} died at its start", self.name()), Errno::ECHILD));
                }
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(failed(errno)),
            }
            return match read(&self.report, &mut message) {
                Ok(8) => {
                    let [s0, s1, s2, s3, v0, v1, v2, v3] = message;
                    Ok(Some((i32::from_ne_bytes([s0, s1, s2, s3]), i32::from_ne_bytes([v0, v1, v2, v3]))))
                }
                Ok(_) => Ok(None),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(failed(errno)),
            };
        }
    }

    fn expect(&self, expected: Stage) -> Result<i32, BackendError> {
        match self.hear()? {
            Some((stage, value)) if stage == expected as i32 => Ok(value),
            Some((stage, value)) => Err(self.failure(stage, value)),
            None => Err(BackendError::Failed(format!("{} vanished at its start", self.name()), Errno::ECHILD)),
        }
    }

    fn failure(&self, stage: i32, value: i32) -> BackendError {
        let errno = Errno::from_raw(value);
        let failed = |what: &str| BackendError::Failed(what.into(), errno);
        if stage == Stage::NamespaceFailed as i32 {
            failed("making a user namespace (is /proc/sys/user/max_user_namespaces 0?)")
        } else if stage == Stage::EnteringFailed as i32 {
            failed("entering the network namespace of --isolate")
        } else if stage == Stage::PrivilegesFailed as i32 {
            failed("setting no_new_privs")
        } else if stage == Stage::FilterFailed as i32 {
            match errno {
                Errno::EBUSY => BackendError::Unavailable(
                    "another supervisor already listens to this process tree's seccomp filter \
                     (a container runtime?): use --backend ptrace"
                        .into(),
                ),
                _ => failed("installing the seccomp filter"),
            }
        } else if stage == Stage::StrictFailed as i32 {
            failed("installing the strict seccomp filter")
        } else if stage == Stage::UnshareFailed as i32 {
            failed("unsharing the descriptor table")
        } else if errno == Errno::ENOENT && !Path::new(&self.program).exists() {
            BackendError::NotFound(self.name())
        } else {
            BackendError::NotExecutable(self.name(), errno)
        }
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// Ends and reaps the child.
    fn end(&mut self) {
        // ESRCH and ECHILD: it is gone already, as it should be.
        let _: Result<(), Errno> = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        while nix::sys::wait::waitpid(self.pid, Some(nix::sys::wait::WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
    }
}

/// A child that was told to execute PROGRAM.
#[derive(Debug)]
pub struct Started(Waiting);

impl Started {
    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Call when the child has executed PROGRAM or has ended: which of the two, and why.
    pub fn outcome(&self) -> Result<(), BackendError> {
        match self.0.hear()? {
            None => Ok(()),
            Some((stage, value)) => Err(self.0.failure(stage, value)),
        }
    }
}

/// The supervisor holds a duplicate for every call that waits: as many as it may. To be called when PROGRAM
/// has inherited the limits as they were.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // It can't fail: anybody may raise the soft limit to the hard one.
        let _: Result<(), Errno> = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn has_ended(pid: Pid) -> bool {
    crate::proc::Status::of(pid).map_or(true, |status| matches!(status.state, b'Z' | b'X'))
}

/// The way into namespaces that exist.
struct Entrance {
    holder: RawFd,
    covered: Vec<CString>,
    user: RawFd,
    network: RawFd,
}

impl Entrance {
    fn to(namespaces: &Namespaces) -> Self {
        let Namespaces { holder, covered, user, network } = namespaces;
        let [holder, user, network] = [holder, user, network].map(AsRawFd::as_raw_fd);
        Self { holder, covered: covered.clone(), user, network }
    }

    /// In this order: each gives the right to enter the next. Async-signal-safe.
    fn enter(&self) -> Result<(), Errno> {
        // SAFETY: takes integers only.
        let into = |fd, kind| check(unsafe { libc::setns(fd, kind) });
        into(self.holder, libc::CLONE_NEWUSER)?;
        if !self.covered.is_empty() {
            // Root and working directory stay what they are, in mounts of our own.
            // SAFETY: takes integers only.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        }
        for file in &self.covered {
            let (null, kind) = (c"/dev/null".as_ptr(), std::ptr::null());
            // SAFETY: C strings; without a type and data.
            match check(unsafe { libc::mount(null, file.as_ptr(), kind, libc::MS_BIND, std::ptr::null()) }) {
                // It is gone, or out of reach for PROGRAM too.
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
        into(self.user, libc::CLONE_NEWUSER)?;
        into(self.network, libc::CLONE_NEWNET)
    }
}

/// Everything that the child needs, made before the fork.
struct ChildPlan {
    supervisor: Pid,
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    argument_pointers: Vec<*const libc::c_char>,
    shell_pointers: Vec<*const libc::c_char>,
    environment: Vec<CString>,
    environment_pointers: Vec<*const libc::c_char>,
    intercepting: Option<Vec<libc::sock_filter>>,
    late: Option<Vec<libc::sock_filter>>,
    strict: Option<Vec<libc::sock_filter>>,
    listener: bool,
    no_new_privs: bool,
    maps: Option<[(CString, Vec<u8>); 3]>,
    namespaces: Option<Entrance>,
    inherited: Inherited,
    severed: Vec<RawFd>,
}

impl ChildPlan {
    fn prepare(command: &Command, setup: &Setup<'_>) -> Result<Self, BackendError> {
        let name = command.program.to_string_lossy();
        let c_string = |text: &OsStr| {
            CString::new(text.as_bytes())
                .map_err(|_| BackendError::NotExecutable(name.clone().into_owned(), Errno::EINVAL))
        };
        let candidates = candidates(&command.program, std::env::var_os("PATH").as_deref());
        let candidates = candidates.iter().map(|path| c_string(path)).collect::<Result<Vec<_>, _>>()?;
        let mut arguments = vec![c_string(&command.program)?];
        for argument in &command.arguments {
            arguments.push(c_string(argument)?);
        }
        let environment = std::env::vars_os()
            .map(|(mut entry, value)| {
                entry.push("=");
                entry.push(value);
                c_string(&entry)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        // For a script without `#!`: /bin/sh SCRIPT ARGUMENTS, as execvp(3); SCRIPT is filled in later.
        let mut shell_pointers = vec![c"sh".as_ptr(), std::ptr::null()];
        shell_pointers.extend(pointers(&arguments).into_iter().skip(1));
        let own = |filter: &Filter| filter.instructions().to_vec();
        Ok(Self {
            supervisor: Pid::this(),
            argument_pointers: pointers(&arguments),
            shell_pointers,
            environment_pointers: pointers(&environment),
            candidates,
            arguments,
            environment,
            intercepting: setup.intercepting.map(own),
            late: setup.late.map(own),
            strict: setup.strict.map(own),
            listener: setup.listener,
            no_new_privs: !setup.user_namespace && setup.namespaces.is_none() && !has_sys_admin(),
            maps: (setup.user_namespace && setup.namespaces.is_none()).then(identity_maps),
            namespaces: setup.namespaces.map(Entrance::to),
            inherited: command.inherited,
            severed: command.severed.clone(),
        })
    }

    /// The child's whole life. Async-signal-safe calls only.
    fn run(mut self, report: RawFd, go: RawFd) -> ! {
        if let Err((stage, errno)) = self.steps(report, go) {
            tell(report, stage, errno as i32);
        }
        // SAFETY: ends the process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }

    fn steps(&mut self, report: RawFd, go: RawFd) -> Result<(), (Stage, Errno)> {
        let at = |stage| move |errno| (stage, errno);
        // Where one was started before: see `reach`. It may be traced, and write its own maps of ids.
        // SAFETY: takes integers only. It can't fail with this value.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
        if let Some(entrance) = &self.namespaces {
            entrance.enter().map_err(at(Stage::EnteringFailed))?;
        }
        if let Some(maps) = &self.maps {
            // SAFETY: takes integers only.
            check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }).map_err(at(Stage::NamespaceFailed))?;
            for (path, content) in maps {
                write_file(path, content).map_err(at(Stage::NamespaceFailed))?;
            }
        }
        tell(report, Stage::Ready, 0);
        await_go(go, self.supervisor);
        if self.no_new_privs {
            // SAFETY: takes integers only.
            check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
                .map_err(at(Stage::PrivilegesFailed))?;
        }
        let mut listener = -1;
        if let Some(filter) = &self.intercepting {
            let flags = if self.listener { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE_RECV } else { 0 };
            listener = match install(filter, flags) {
                // Before 5.19 there is no WAIT_KILLABLE_RECV.
                Err(Errno::EINVAL) if self.listener => install(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
                other => other,
            }
            .map_err(at(Stage::FilterFailed))?;
        }
        tell(report, Stage::Filtered, listener);
        await_go(go, self.supervisor);
        // SAFETY: takes integers only.
        check(unsafe { libc::unshare(libc::CLONE_FILES) }).map_err(at(Stage::UnshareFailed))?;
        tell(report, Stage::Unshared, 0);
        self.restore_descriptors();
        self.restore_signals();
        if let Some(filter) = &self.late {
            install(filter, 0).map_err(at(Stage::FilterFailed))?;
        }
        if let Some(filter) = &self.strict {
            install(filter, 0).map_err(at(Stage::StrictFailed))?;
        }
        Err((Stage::ExecFailed, self.exec()))
    }

    fn restore_descriptors(&self) {
        if !self.severed.is_empty() {
            // SAFETY: a constant path; integers otherwise. Where /dev/null is missing, closing serves.
            unsafe {
                let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
                for fd in &self.severed {
                    if null < 0 || libc::dup2(null, *fd) < 0 {
                        libc::close(*fd);
                    }
                }
            }
        }
        for fd in 0..3 {
            if self.inherited.closed_standard_fds & (1_u8 << fd) != 0 {
                // SAFETY: closes what Rust's runtime opened in place of a closed descriptor.
                unsafe { libc::close(fd) };
            }
        }
    }

    fn restore_signals(&self) {
        for signal in 1..=signals::HIGHEST {
            let handler =
                if self.inherited.ignored & signals::bit(signal) == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
            // SAFETY: both are valid dispositions; fails with EINVAL for SIGKILL, SIGSTOP and the C
            // library's own signals, which need nothing.
            unsafe { libc::signal(signal, handler) };
        }
        // SAFETY: a mask that sigprocmask gave.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.inherited.mask, std::ptr::null_mut()) };
    }

    /// execvp(3) over what was prepared. Returns only where it failed.
    fn exec(&mut self) -> Errno {
        let mut result = Errno::ENOENT;
        for candidate in &self.candidates {
            let (arguments, environment) = (self.argument_pointers.as_ptr(), self.environment_pointers.as_ptr());
            // SAFETY: NUL-terminated strings and null-terminated arrays that live until exec.
            unsafe { libc::execve(candidate.as_ptr(), arguments, environment) };
            match Errno::last() {
                Errno::ENOEXEC => {
                    if let Some(script) = self.shell_pointers.get_mut(1) {
                        *script = candidate.as_ptr();
                    }
                    // SAFETY: as above.
                    unsafe { libc::execve(c"/bin/sh".as_ptr(), self.shell_pointers.as_ptr(), environment) };
                    return Errno::ENOEXEC;
                }
                Errno::EACCES => result = Errno::EACCES,
                Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT => {}
                other => return other,
            }
        }
        result
    }
}

/// The paths that execvp(3) would try.
fn candidates(program: &OsStr, path: Option<&OsStr>) -> Vec<OsString> {
    if program.as_bytes().contains(&b'/') || program.is_empty() {
        return vec![program.to_owned()];
    }
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    path.as_bytes()
        .split(|&byte| byte == b':')
        .map(|directory| match directory {
            b"" => program.to_owned(),
            _ => OsString::from_vec([directory, b"/", program.as_bytes()].concat()),
        })
        .collect()
}

/// Whether a filter may be installed without no_new_privs: seccomp(2).
fn has_sys_admin() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    crate::proc::Status::of(Pid::this()).is_ok_and(|status| status.capabilities & CAP_SYS_ADMIN != 0)
}

/// The files of a user namespace in which only the user's own ids exist, under their own numbers:
/// `user_namespaces(7)`.
fn identity_maps() -> [(CString, Vec<u8>); 3] {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    [
        (c"/proc/self/setgroups".to_owned(), b"deny".to_vec()),
        (c"/proc/self/uid_map".to_owned(), format!("{uid} {uid} 1\n").into_bytes()),
        (c"/proc/self/gid_map".to_owned(), format!("{gid} {gid} 1\n").into_bytes()),
    ]
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    Errno::result(result).map(drop)
}

fn tell(report: RawFd, stage: Stage, value: i32) {
    let [s0, s1, s2, s3] = (stage as i32).to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    let message = [s0, s1, s2, s3, v0, v1, v2, v3];
    // SAFETY: eight bytes of our own. If the parent is gone there is nobody to tell.
    unsafe { libc::write(report, message.as_ptr().cast(), message.len()) };
}

fn await_go(go: RawFd, supervisor: Pid) {
    let mut byte = 0_u8;
    loop {
        // While the table is shared, the supervisor's death doesn't close the pipe: watch for it too.
        let mut awaited = libc::pollfd { fd: go, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd of our own; then nothing.
        let (ready, parent) = unsafe { (libc::poll(&raw mut awaited, 1, 100), libc::getppid()) };
        let waits = if parent != supervisor.as_raw() {
            false
        } else if ready <= 0 {
            ready == 0 || Errno::last() == Errno::EINTR
        } else {
            // SAFETY: one byte of our own.
            match unsafe { libc::read(go, (&raw mut byte).cast(), 1) } {
                1 => return,
                length => length == -1 && Errno::last() == Errno::EINTR,
            }
        };
        if !waits {
            // The supervisor is gone: PROGRAM must not run unjudged.
            // SAFETY: ends the process.
            unsafe { libc::_exit(125) }
        }
    }
}

fn install(filter: &[libc::sock_filter], flags: libc::c_ulong) -> Result<i32, Errno> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which `Filter` bounds to 4096 instructions.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    Errno::result(result).map(|fd| fd as i32)
}

fn write_file(path: &CString, content: &[u8]) -> Result<(), Errno> {
    // SAFETY: a NUL-terminated path; bytes of our own; the descriptor is closed by exec.
    unsafe {
        let fd = Errno::result(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let written = Errno::result(libc::write(fd, content.as_ptr().cast(), content.len()));
        libc::close(fd);
        written.map(drop)
    }
}

impl std::fmt::Debug for ChildPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildPlan")
            .field("arguments", &self.arguments)
            .field("environment", &self.environment.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_those_of_execvp() {
        let find = |program: &str, path: Option<&str>| candidates(OsStr::new(program), path.map(OsStr::new));
        assert_eq!(find("a/b", Some("/x")), ["a/b"]);
        assert_eq!(find("sh", Some("/x::/y")), ["/x/sh", "sh", "/y/sh"]);
        assert_eq!(find("sh", None), ["/bin/sh", "/usr/bin/sh"]);
        assert_eq!(find("", Some("/x")), [""]);
    }
}
