//! Everything in `workloads.toml`, each beside native, as a table of ratios with their spread.
//!
//! ```text
//! cargo bench --bench ratios -- [--rounds N] [WORD]...     workloads whose names hold a word, or all
//! ```
//!
//! A round runs each supervisor once, native first and last: a ratio compares neighbours in time, so that a machine
//! that is slow for a while slows both. What is given is the median of the rounds' ratios and their quartiles. The
//! table is printed, and written as `ratios.txt` and `ratios.html` to the folder that is named at the end.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::cast_precision_loss, reason = "a bench")]

mod report;
mod suite;

use report::{Report, Row, Spread};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use suite::{Suite, Workload};

const INSIDE: &str = "SOCKSTRACE_BENCH_IN_NAMESPACE";

fn main() {
    let mut wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if std::env::var_os(INSIDE).is_none() {
        std::process::exit(enter_namespace(&wanted));
    }
    let rounds = wanted.iter().position(|word| word == "--rounds").map_or(7, |at| {
        let number = wanted.drain(at..).nth(1).and_then(|number| number.parse().ok());
        number.expect("--rounds N, at the end")
    });
    let folder = suite::folder();
    let suite = Suite::load(&folder);
    let world = World::start(&folder);
    let mut report = Report::default();
    let mut failed = false;
    for workload in suite.workloads(&wanted) {
        eprintln!("{} …", workload.name);
        match compare(&suite, &workload, rounds) {
            Ok(rows) => report.add(rows),
            Err(why) => {
                eprintln!("left out: {why}");
                failed = true;
            }
        }
    }
    drop(world);
    print!("{}", report.text());
    let written = [("ratios.txt", report.text()), ("ratios.html", report.html())];
    for (name, text) in written {
        std::fs::write(folder.join(name), text).expect("to write the report");
    }
    eprintln!("written to {}", folder.display());
    std::process::exit(i32::from(failed));
}

/// Runs this program again where loopback is all there is.
fn enter_namespace(arguments: &[String]) -> i32 {
    let flags: &[&str] =
        if nix::unistd::geteuid().is_root() { &["--net"] } else { &["--user", "--map-root-user", "--net"] };
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let own = std::env::current_exe().expect("this program");
    let mut unshare = Command::new("unshare");
    unshare.args(flags).args(["sh", "-c", script]).arg(own).args(arguments).env(INSIDE, "1");
    unshare.status().expect("unshare (util-linux)").code().unwrap_or(1)
}

/// The servers.
struct World(Vec<Child>);

impl World {
    fn start(folder: &std::path::Path) -> Self {
        let site = folder.join("site");
        let script = "rm -rf site work && mkdir site && git init -q work && cd work && \
            for i in $(seq 200); do echo $i > $i; done && git add . && \
            git -c user.name=b -c user.email=b@localhost commit -qm files && \
            git clone -q --bare . ../site/repository.git && git -C ../site/repository.git update-server-info";
        let made = Command::new("sh").args(["-ec", script]).current_dir(folder).env("HOME", folder).status();
        assert!(made.is_ok_and(|status| status.success()), "the repository to clone");
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/programs/page.py");
        let (page, site) = (page.display().to_string(), site.display().to_string());
        let servers = [["python3", &page, "8000", &site], ["microsocks", "-i", "127.0.0.1", "-p9050"]];
        let start = |words: [&str; 4]| {
            let mut server = Command::new(words[0]);
            server.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
            server.spawn().unwrap_or_else(|error| panic!("{}: {error}", words[0]))
        };
        let world = Self(servers.map(start).into());
        for port in [8000, 9050] {
            let is_up = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            assert!(
                (0..500).any(|_| is_up() || {
                    std::thread::sleep(Duration::from_millis(20));
                    false
                }),
                "{port}"
            );
        }
        world
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.0 {
            server.kill().and_then(|()| server.wait()).expect("to end a server of ours");
        }
    }
}

fn compare(suite: &Suite, workload: &Workload, rounds: usize) -> Result<Vec<Row>, String> {
    let names = &workload.supervisors;
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    let mut beside: Vec<Vec<Vec<f64>>> = vec![vec![Vec::new(); names.len()]; 2];
    // The first run of anything reads files that later ones find in memory.
    suite.measure(workload, &names[0])?;
    for round in 0..rounds {
        let before = suite.measure(workload, &names[0])?;
        // Each time another one first.
        let mut order: Vec<usize> = (1..names.len()).collect();
        let first = round % order.len().max(1);
        order.rotate_left(first);
        let mut made = vec![0.0; names.len()];
        for index in order {
            made[index] = suite.measure(workload, &names[index])?;
        }
        let after = suite.measure(workload, &names[0])?;
        made[0] = f64::midpoint(before, after);
        for (index, name) in names.iter().enumerate() {
            figures[index].push(made[index]);
            beside[0][index].push(made[index] / made[0]);
            if let Some(bare) = bare_of(name).and_then(|bare| names.iter().position(|other| other == bare)) {
                beside[1][index].push(made[index] / made[bare]);
            }
        }
    }
    let compared = names[0] == "native";
    let row = |(index, name): (usize, &String)| Row {
        workload: workload.name.clone(),
        supervisor: name.clone(),
        unit: workload.unit.clone(),
        figure: Spread::of(&figures[index]),
        to_native: compared.then(|| Spread::of(&beside[0][index])),
        to_bare: (!beside[1][index].is_empty()).then(|| Spread::of(&beside[1][index])),
    };
    Ok(names.iter().enumerate().map(row).collect())
}

/// The bare supervisor that does the same.
fn bare_of(supervisor: &str) -> Option<&'static str> {
    Some(match supervisor {
        "seccomp-log" => "bare-look",
        "seccomp-block" | "seccomp-events" | "seccomp-rules" => "bare-perform",
        "ptrace-log" => "bare-ptrace-look",
        "ptrace-block" => "bare-ptrace-perform",
        _ => return None,
    })
}
