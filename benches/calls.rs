//! What a judged call costs, and one that isn't judged, beside native, beside the cheapest supervisor that
//! the kernel allows, and beside strace.
//!
//! The guest (`programs/calls.c`) measures itself, so that starting it is not counted. Run with
//! `cargo bench --bench calls`; `-- connect` for one group. strace is left out where it isn't installed,
//! and that is said.

#![allow(missing_docs, clippy::expect_used, clippy::cast_precision_loss, reason = "a bench")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Supervisors by name: what stands before the guest on the command line.
fn supervisors(bare: &Path) -> Vec<(&'static str, Vec<String>)> {
    let sockstrace = |backend: &str, action: &str| {
        let options = ["--backend", backend, "--on-leak", action, "--allow-loopback", "-o", "/dev/null", "--"];
        std::iter::once(env!("CARGO_BIN_EXE_sockstrace")).chain(options).map(String::from).collect()
    };
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let bare = bare.display().to_string();
    let mut supervisors = vec![
        ("native", Vec::new()),
        ("bare-continue", words(&[&bare, "continue"])),
        ("bare-perform", words(&[&bare, "perform"])),
        ("seccomp-log", sockstrace("seccomp", "log")),
        ("seccomp-block", sockstrace("seccomp", "block")),
        ("ptrace-log", sockstrace("ptrace", "log")),
        ("ptrace-block", sockstrace("ptrace", "block")),
    ];
    let calls = "trace=connect,sendto,sendmsg,bind";
    if Command::new("strace").arg("-V").output().is_ok() {
        supervisors.push(("strace", words(&["strace", "-f", "-e", calls, "-o", "/dev/null"])));
        supervisors.push(("strace-bpf", words(&["strace", "-f", "--seccomp-bpf", "-e", calls, "-o", "/dev/null"])));
    } else {
        eprintln!("strace isn't installed: left out");
    }
    supervisors
}

fn compile(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/programs/{name}.c"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{name}"));
    let status = Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&program).arg(&source).status();
    assert!(status.is_ok_and(|status| status.success()), "{} does not compile", source.display());
    program
}

/// The time that `calls` calls of each thread took.
fn measure(supervisor: &[String], guest: &Path, kind: &str, calls: u64, threads: u32) -> Duration {
    let mut words: Vec<String> = supervisor.to_vec();
    words.extend([guest.display().to_string(), kind.into(), calls.to_string(), threads.to_string()]);
    let (program, arguments) = words.split_first().expect("a guest");
    let output = Command::new(program).args(arguments).output().expect("a supervisor that can be run");
    let printed = String::from_utf8_lossy(&output.stdout);
    let nanoseconds: f64 = printed.trim().parse().unwrap_or_else(|_| {
        panic!("{words:?} printed {printed:?} and {}", String::from_utf8_lossy(&output.stderr))
    });
    Duration::from_secs_f64(nanoseconds / 1e9)
}

fn benches(criterion: &mut Criterion) {
    let (guest, bare) = (compile("calls"), compile("bare"));
    let supervisors = supervisors(&bare);
    for kind in ["connect", "connect-tcp", "sendto", "sendmsg-udp", "sendmsg-unix", "getppid"] {
        for threads in [1, 4, 16] {
            if threads > 1 && kind != "connect" {
                continue;
            }
            let mut group = criterion.benchmark_group(format!("{kind}-{threads}"));
            group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
            for (name, supervisor) in &supervisors {
                // They know connect alone.
                if name.starts_with("bare") && !kind.starts_with("connect") {
                    continue;
                }
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter_custom(|calls| {
                        // At least a thousand, so that the first ones don't count.
                        let made = calls.max(1000);
                        let spent = measure(supervisor, &guest, kind, made, threads);
                        spent.mul_f64(calls as f64 / made as f64 / f64::from(threads))
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group!(calls, benches);
criterion_main!(calls);
