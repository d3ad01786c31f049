//! The ptrace backend on real programs.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::missing_panics_doc)]

mod support;

use nix::errno::Errno;
use sockstrace_backend::{Backend, BackendError, Ended, Leftover, ProcessEvent, Syscall};
use sockstrace_backend_ptrace::PtraceBackend;
use support::{MODES, Mode, Run, isolated};

/// The guest's own checks, in both modes and, where asked, as a 32-bit program.
macro_rules! guests {
    ($($name:ident: $bits:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn filtered() {
                isolated(|| drop(Run::of(stringify!($name)).succeeds()));
            }

            #[test]
            fn full_stop() {
                isolated(|| drop(Run::of(stringify!($name)).mode(Mode::FullStop).succeeds()));
            }

            #[test]
            fn i386() {
                let Some(run) = Run::of_i386(stringify!($name)).filter(|_| $bits == 32) else { return };
                isolated(|| {
                    run.succeeds();
                    run.clone().mode(Mode::FullStop).succeeds();
                });
            }

            #[test]
            fn observed() {
                isolated(|| {
                    for mode in MODES {
                        let (result, judge) = Run::of(stringify!($name)).mode(mode).observed().go();
                        assert_eq!(result.unwrap(), Ended::Exited(0));
                        judge.processes_balance();
                    }
                });
            }
        }
    )*};
}

guests! {
    basic: 32;
    refused: 32;
    registers: 32;
    foreign: 32;
    family: 32;
    exec_thread: 32;
    exec_busy: 64;
    untraced: 32;
    killed: 64;
    signals: 64;
    restarts: 32;
    interrupted: 64;
    stops: 64;
    patient: 64;
    fair: 64;
    held_back: 64;
    filters: 64;
    reapable: 64;
    crowd: 64;
}

#[test]
fn ends_are_told() {
    isolated(|| {
        for mode in MODES {
            let end = |guest: &str| Run::of(guest).mode(mode).go().0;
            assert_eq!(end("seven").unwrap(), Ended::Exited(7));
            assert_eq!(end("crash").unwrap(), Ended::Signaled(libc::SIGSEGV));
            let mut run = Run::of("seven").mode(mode);
            run.program = "/no/such/program".into();
            assert!(matches!(run.go().0, Err(BackendError::NotFound(_))));
            run.program = "no-such-program".into();
            assert!(matches!(run.go().0, Err(BackendError::NotFound(_))));
            run.program = "/etc/passwd".into();
            assert!(matches!(run.go().0, Err(BackendError::NotExecutable(_, Errno::EACCES))));
        }
    });
}

#[test]
fn processes_are_reported() {
    isolated(|| {
        let judge = Run::of("family").succeeds();
        let processes = judge.processes.lock().unwrap();
        let count = |wanted: fn(&ProcessEvent) -> bool| processes.iter().filter(|event| wanted(event)).count();
        // The program, a fork, a posix_spawn, a vfork, a clone3; three of them exec.
        assert_eq!(count(|event| matches!(event, ProcessEvent::Born { .. })), 5);
        assert_eq!(count(|event| matches!(event, ProcessEvent::Exec { .. })), 3);
        let ended = |status| move |event: &&ProcessEvent| matches!(event, ProcessEvent::Gone { ended: Some(Ended::Exited(code)), .. } if *code == status);
        assert_eq!(processes.iter().filter(ended(3)).count(), 1);
        assert_eq!(processes.iter().filter(ended(4)).count(), 1);
    });
}

#[test]
fn results_are_observed() {
    isolated(|| {
        for mode in MODES {
            let judge = Run::of("refused").mode(mode).observed().succeeds();
            assert_eq!(*judge.returned.lock().unwrap(), [(Syscall::Connect, -i64::from(libc::ECONNREFUSED))]);
            let judge = Run::of("interrupted").mode(mode).observed().succeeds();
            let returned = judge.returned.lock().unwrap();
            let accepted: Vec<i64> =
                returned.iter().filter(|(call, _)| *call == Syscall::Accept).map(|(_, value)| *value).collect();
            // EINTR without SA_RESTART; with it, one that was made again, and gave a descriptor.
            assert_eq!(accepted[0], -i64::from(libc::EINTR));
            assert!(accepted[1] >= 0 && accepted.len() == 2, "{accepted:?}");
            assert_eq!(*judge.abandoned.lock().unwrap(), [Syscall::Accept]);
        }
    });
}

#[test]
fn the_programs_filters_stand_above_ours() {
    isolated(|| {
        for mode in MODES {
            let judge = Run::of("filters").mode(mode).succeeds();
            // What they refuse isn't judged: ten before, and the restarted one twice.
            let handled = judge.handled.lock().unwrap();
            assert_eq!(handled.iter().filter(|call| call.syscall == Syscall::Connect).count(), 12);
        }
    });
}

#[test]
fn what_is_left_is_waited_for_or_ended() {
    isolated(|| {
        for mode in MODES {
            let mark = std::env::temp_dir().join(format!("sockstrace-mark-{}", std::process::id()));
            // SAFETY: no other thread looks at the environment now.
            unsafe { std::env::set_var("MARK", &mark) };
            let mut run = Run::of("leave_behind").mode(mode);
            let (ended, judge) = run.go();
            assert_eq!(ended.unwrap(), Ended::Exited(7));
            judge.processes_balance();
            assert_eq!(std::fs::read(&mark).unwrap(), b"x");
            std::fs::remove_file(&mark).unwrap();
            run.plan.leftover = Leftover::Kill;
            let (ended, judge) = run.go();
            assert_eq!(ended.unwrap(), Ended::Exited(7));
            judge.processes_balance();
            assert!(!mark.exists());
            // Even when it forks for its life.
            let mut run = Run::of("fork_on").mode(mode);
            run.plan.leftover = Leftover::Kill;
            assert_eq!(run.go().0.unwrap(), Ended::Exited(7));
        }
    });
}

#[test]
fn an_ordinary_user_can_trace() {
    isolated(|| {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(nix::unistd::Gid::from_raw(65534)).unwrap();
        nix::unistd::setuid(nix::unistd::Uid::from_raw(65534)).unwrap();
        // Changing ids took that away, and with it /proc and ptrace.
        nix::sys::prctl::set_dumpable(true).unwrap();
        for guest in ["basic", "family", "restarts", "filters"] {
            for mode in MODES {
                let (result, judge) = Run::of(guest).mode(mode).go();
                assert_eq!(result.unwrap(), Ended::Exited(0), "{guest} {mode:?}");
                judge.processes_balance();
            }
            let mut run = Run::of(guest);
            run.plan.user_namespace = true;
            assert_eq!(run.go().0.unwrap(), Ended::Exited(0), "{guest} in a user namespace");
        }
    });
}

#[test]
fn strict_mode_refuses_what_is_not_named() {
    isolated(|| {
        let mut run = Run::of("seven");
        run.plan.allowed_syscalls = Some(vec!["execve", "exit_group"]);
        // The program's start fails without the rest.
        assert_ne!(run.go().0.unwrap(), Ended::Exited(7));
    });
}

/// Installs a filter by which seccomp(2) fails with EPERM, as a container's profile may have it.
fn forbid_filters() {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let code = [
        statement(0x20, 0),
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_seccomp as u32 },
        statement(0x06, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(0x06, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0)
    };
    assert_eq!(result, 0);
}

#[test]
fn where_no_filter_can_be_installed_every_call_stops() {
    isolated(|| {
        forbid_filters();
        Run::of("basic").succeeds();
        let findings = PtraceBackend::new().probe();
        let filter = findings.iter().find(|finding| finding.what == "SECCOMP_RET_TRACE").unwrap();
        assert_eq!(filter.works, None, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.works != Some(false)), "{findings:?}");
    });
}
