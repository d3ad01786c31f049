//! What is measured, from `workloads.toml`, and how one run of it is made.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

/// All of `workloads.toml`.
#[derive(Deserialize)]
pub struct Suite {
    supervisors: BTreeMap<String, Vec<String>>,
    sets: BTreeMap<String, Vec<String>>,
    workload: Vec<Listed>,
    #[serde(skip)]
    places: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    run: String,
    #[serde(default)]
    threads: Vec<u32>,
    prints: Option<String>,
    per: Option<f64>,
    #[serde(default)]
    pinned: bool,
    set: String,
    needs: Option<String>,
}

/// One workload with a number of threads.
pub struct Workload {
    /// `group/name`, with the threads behind.
    pub name: String,
    command: Vec<String>,
    /// The unit of its figures.
    pub unit: String,
    prints: bool,
    per: f64,
    pinned: bool,
    needs: String,
    /// Supervisors by name; the first is what the others are compared with.
    pub supervisors: Vec<String>,
}

const GUESTS: [&str; 5] = ["calls", "bare", "mix", "crowd", "stream"];

impl Suite {
    /// Reads it and compiles the guests. `folder` takes what is built.
    pub fn load(folder: &Path) -> Self {
        let mut suite: Self = toml::from_str(include_str!("../workloads.toml")).expect("workloads.toml");
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/programs");
        std::fs::create_dir_all(folder).expect("a folder");
        let mut place = |name: &str, path: &Path| suite.places.insert(name.into(), path.display().to_string());
        for guest in GUESTS {
            let (source, output) = (programs.join(format!("{guest}.c")), folder.join(format!("bench-{guest}")));
            let status = Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&output).arg(&source).status();
            assert!(status.is_ok_and(|status| status.success()), "{} does not compile", source.display());
            place(guest, &output);
        }
        if is_installed("go") {
            let (source, output) = (programs.join("../../tests/real/guests/storm.go"), folder.join("bench-storm"));
            let mut go = Command::new("go");
            go.args(["build", "-o"]).arg(&output).arg(source).env("GOCACHE", folder.join("go-cache"));
            let status = go.env("GO111MODULE", "off").env("GOPROXY", "off").status();
            assert!(status.is_ok_and(|status| status.success()), "storm.go does not compile");
            place("storm", &output);
        }
        let rules = folder.join("rules.toml");
        std::fs::write(&rules, thousand_rules()).expect("rules");
        place("rules", &rules);
        place("programs", &programs);
        place("mixes", &programs.join("../mix"));
        place("sockstrace", Path::new(env!("CARGO_BIN_EXE_sockstrace")));
        suite
    }

    /// The workloads whose names hold one of these words (all, without any), and for which everything is there.
    pub fn workloads(&self, wanted: &[String]) -> Vec<Workload> {
        let mut workloads = Vec::new();
        for listed in &self.workload {
            for threads in if listed.threads.is_empty() { &[0][..] } else { &listed.threads[..] } {
                let threaded = !listed.threads.is_empty();
                let suffix = if threaded { format!("-{threads}") } else { String::new() };
                let workload = Workload {
                    name: format!("{}{suffix}", listed.name),
                    command: words(&listed.run.replace("{threads}", &threads.to_string())),
                    unit: listed.prints.clone().unwrap_or_else(|| "ms".into()),
                    prints: listed.prints.is_some(),
                    per: listed.per.unwrap_or(1.0) * f64::from((*threads).max(1)),
                    pinned: listed.pinned,
                    needs: listed.needs.clone().unwrap_or_default(),
                    supervisors: self.sets[&listed.set].iter().filter(|name| self.has(name)).cloned().collect(),
                };
                let name = &workload.name;
                if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
                    continue;
                }
                let program = workload.command.first().map_or("", String::as_str);
                match [program, &workload.needs].iter().find(|program| !is_installed(program)) {
                    Some(missing) => eprintln!("{name}: left out, as {missing} isn't installed"),
                    None => workloads.push(workload),
                }
            }
        }
        workloads
    }

    fn has(&self, supervisor: &str) -> bool {
        let words = &self.supervisors[supervisor];
        let names = |name: &str| words.iter().any(|word| word == name);
        let can = !(names("--backend=ebpf") || names("--all")) || *EBPF_WORKS;
        let can = can && (!names("bpftrace") || is_installed("bpftrace"));
        can && words.first().is_none_or(|program| is_installed(program))
    }

    /// One run; the figure in the workload's unit.
    ///
    /// # Errors
    /// What the program said when it failed.
    pub fn measure(&self, workload: &Workload, supervisor: &str) -> Result<f64, String> {
        let tmp = std::env::temp_dir().join(format!("sockstrace-bench-{}", std::process::id()));
        std::fs::create_dir(&tmp).expect("an empty directory");
        let command: Vec<String> = (self.supervisors[supervisor].iter().chain(&workload.command))
            .map(|word| self.filled(word, &tmp))
            .collect();
        let pin = if workload.pinned { pin() } else { &[] };
        let words: Vec<&str> = pin.iter().copied().chain(command.iter().map(String::as_str)).collect();
        let mut process = Command::new(words[0]);
        process.args(&words[1..]).stdin(Stdio::null());
        let begin = Instant::now();
        let output = process.output().map_err(|error| format!("{command:?}: {error}"))?;
        let wall = begin.elapsed().as_secs_f64() * 1e3;
        std::fs::remove_dir_all(&tmp).expect("to remove what was written");
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(format!("{command:?}: {}: {said}", output.status));
        }
        let figure = if workload.prints {
            printed.trim().parse().map_err(|_| format!("{command:?} printed {printed:?} and {said}"))?
        } else {
            wall
        };
        Ok(figure / workload.per)
    }

    fn filled(&self, word: &str, tmp: &Path) -> String {
        let places = self.places.iter().map(|(name, path)| (name.as_str(), path.clone()));
        let places = places.chain([("tmp", tmp.display().to_string())]);
        places.fold(word.to_owned(), |word, (name, path)| word.replace(&format!("{{{name}}}"), &path))
    }
}

/// To one processor, and where that is allowed ahead of all else that wants it.
fn pin() -> &'static [&'static str] {
    const PIN: [&str; 6] = ["chrt", "-f", "10", "taskset", "-c", "1"];
    static MAY_BE_FIRST: LazyLock<bool> = LazyLock::new(|| {
        let tried = Command::new(PIN[0]).args(&PIN[1..3]).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    });
    if *MAY_BE_FIRST { &PIN } else { &PIN[3..] }
}

/// Whether programs may be loaded into this kernel.
static EBPF_WORKS: LazyLock<bool> = LazyLock::new(|| {
    let doctor = Command::new(env!("CARGO_BIN_EXE_sockstrace")).arg("doctor").output();
    let works =
        doctor.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).lines().any(|line| line == "ebpf: works"));
    if !works {
        eprintln!("ebpf is left out: it doesn't work here (see `sockstrace doctor`)");
    }
    works
});

/// The words of a line, as a shell has them: quotes keep some together.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('\'').enumerate();
    let split = |(index, part): (usize, &str)| match index % 2 {
        0 => part.split_whitespace().map(String::from).collect(),
        _ => vec![part.to_owned()],
    };
    quoted.flat_map(split).collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    program.is_empty()
        || program.starts_with('{')
        || std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A configuration with 1,000 addresses and networks, and loopback among them.
fn thousand_rules() -> String {
    let rules = (0..500).flat_map(|i| {
        let (high, low) = (i / 250, i % 250);
        [format!("\"10.{high}.{low}.0/{}\"", 24 + i % 8), format!("\"2001:db8:{i:x}::/{}\":443", 48 + i % 64)]
    });
    let rules: Vec<String> = rules.map(|rule| rule.replace("\":443", "\"")).collect();
    format!("allow = [\"127.0.0.0/8\", {}]\n", rules.join(", "))
}

/// Where what is built and written goes.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench")
}
