//! Learned configurations: with one, the same run is clean, and another leak still is one.

use crate::support::programs::programs;
use crate::support::run::{Outcome, Run};
use crate::support::stage::Stage;
use crate::tool::{Folder, call};

fn run(backend: &str, stage: &Stage, vector: &str, options: &[&str]) -> Outcome {
    Run::new(backend, &stage.dir).args(options).program([programs().vectors.as_os_str(), vector.as_ref()]).run()
}

#[test]
fn the_same_run_is_clean() {
    for (backend, vector, options) in [
        ("seccomp", "tcp4", &[][..]),
        ("ptrace", "tcp6", &[]),
        ("seccomp", "udp4-sendto", &[]),
        ("seccomp", "unix-absolute", &["--unix=leak"]),
        ("seccomp", "listen4", &["--incoming=block"]),
    ] {
        let mut stage = Stage::new();
        stage.add_unix();
        let folder = Folder::new();
        let first = run(backend, &stage, vector, options);
        assert!(first.leaks().count() > 0, "{vector}: {first:?}");
        let mut events: Vec<_> = first.events.iter().chain(&first.summary).map(|event| event.0.clone()).collect();
        folder.file("events", crate::made::lines(&events));
        let said = call(&folder.0, ["learn", "events", "-o", "learned.toml"], b"");
        assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (0, "", ""), "{vector}");
        let config = format!("--config={}", folder.path("learned.toml").display());
        let text = folder.read("learned.toml");
        assert!(text.contains("# vectors ("), "who did it stands beside it:\n{text}");

        stage.truth();
        let second = run(backend, &stage, vector, &[&[&*config][..], options].concat());
        assert_eq!(second.leaks().count(), 0, "{vector} with\n{text}\n{second:?}");
        // Another destination is still a leak.
        let other = run(backend, &stage, "dns-tcp", &[&*config]);
        assert!(other.leaks().count() > 0, "{vector} allows too much:\n{text}");

        // A second lesson out of the clean run keeps what it needs.
        events.clear();
        let traced = run(backend, &stage, vector, &[&[&*config, "--trace=all"][..], options].concat());
        events.extend(traced.events.iter().chain(&traced.summary).map(|event| event.0.clone()));
        folder.file("events", crate::made::lines(&events));
        let again = call(&folder.0, ["learn", "events"], b"");
        let rules = |text: &str| -> Vec<String> {
            text.lines().map(str::trim).filter(|line| line.starts_with('"')).map(str::to_owned).collect()
        };
        assert_eq!(rules(&again.stdout), rules(&text), "{vector}");
    }
}
