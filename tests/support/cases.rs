//! Many cases at once, each on a stage of its own; all are run, and every failure is told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many cases run at the same time: each has a guest, sockstrace and the harness, which mostly wait.
const WORKERS: usize = 3;

/// Runs `check` for each case whose name contains `SOCKSTRACE_CASE` (all by default); of these, with
/// `SOCKSTRACE_SHARE=2/3`, every third from the second on. A case fails when `check` returns an error or panics.
///
/// # Panics
/// With the list of what failed.
pub fn run_all<T: Sync>(
    cases: &[T],
    name: impl Fn(&T) -> String + Sync,
    check: impl Fn(&T) -> Result<(), String> + Sync,
) {
    let wanted = std::env::var("SOCKSTRACE_CASE").unwrap_or_default();
    let (first, step) = share();
    let cases = cases.iter().filter(|case| name(case).contains(&wanted)).skip(first).step_by(step);
    let cases: Vec<&T> = cases.collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = catch_unwind(AssertUnwindSafe(|| check(case)));
                    let failure = match result {
                        Ok(Ok(())) => continue,
                        Ok(Err(text)) => text,
                        Err(panic) => panic_text(panic.as_ref()),
                    };
                    failures.lock().unwrap().push(format!("{}: {failure}", name(case)));
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Which of the cases are run: the first, from 0, and how many on the next is.
fn share() -> (usize, usize) {
    let Ok(share) = std::env::var("SOCKSTRACE_SHARE") else { return (0, 1) };
    let parsed = share.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    match parsed {
        Some((number, of)) if (1..=of).contains(&number) => (number - 1, of),
        _ => panic!("SOCKSTRACE_SHARE={share}: not of the form 1/2"),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

/// Whether the tests run in a user namespace in which only root exists.
pub fn root_is_alone() -> bool {
    std::env::var_os("SOCKSTRACE_TEST_USERNS").is_some()
}

/// Runs a test that needs a network namespace. Where the user may not make one, the test binary runs the
/// test once more in a user namespace, as `unshare --map-root-user` gives it.
pub fn with_privilege(test: &str, body: impl FnOnce()) {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } == 0 {
        return body();
    }
    let exe = std::env::current_exe().unwrap();
    let mut again = Command::new("unshare");
    again.env("SOCKSTRACE_TEST_USERNS", "1");
    again.args(["--map-root-user", "--net", "--"]).arg(exe);
    let status = again.args(["--exact", test, "--nocapture", "--test-threads=1"]).status();
    assert!(status.is_ok_and(|status| status.success()), "{test} failed in a user namespace");
}
