//! What integration tests share: guests compiled from C ([`programs`]), a network namespace with
//! witnesses ([`stage`], [`capture`]), running a command to its end and no further ([`run`]), and running
//! many cases at once ([`cases`]).

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

pub mod capture;
pub mod cases;
pub mod programs;
pub mod run;
pub mod stage;
pub mod terminal;

/// The backends that every test runs with.
pub const BACKENDS: [&str; 2] = ["seccomp", "ptrace"];

/// Whether the ebpf backend works for this kernel and this user; if not, that is said. Continuous integration
/// insists on it by itself.
pub fn ebpf_works() -> bool {
    static WORKS: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let doctor = std::process::Command::new(run::sockstrace()).arg("doctor").output().unwrap();
        String::from_utf8_lossy(&doctor.stdout).lines().any(|line| line == "ebpf: works")
    });
    if !*WORKS {
        println!("skipped: the ebpf backend doesn't work here (see `sockstrace doctor`)");
    }
    *WORKS
}

/// Whether this kernel takes all LSM programs of the ebpf backend.
pub fn lsm_works() -> bool {
    static WORKS: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let doctor = std::process::Command::new(run::sockstrace()).arg("doctor").output().unwrap();
        let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let mut rows = text.lines().filter(|line| line.contains("  lsm/")).peekable();
        rows.peek().is_some() && rows.all(|line| line.trim_start().starts_with("yes"))
    });
    *WORKS
}

/// The backends that work here, [`BACKENDS`] and ebpf.
pub fn backends() -> Vec<&'static str> {
    let ebpf = ebpf_works().then_some("ebpf");
    BACKENDS.into_iter().chain(ebpf).collect()
}

/// The backends that work here for this user: programs in the kernel are for root alone.
pub fn backends_of(user: u32) -> Vec<&'static str> {
    if user == 0 { backends() } else { BACKENDS.to_vec() }
}

/// The address that nobody may reach, and where witnesses wait.
pub const FOREIGN4: &str = "203.0.113.5";
/// The same for IPv6.
pub const FOREIGN6: &str = "2001:db8::5";
/// The allowed proxy.
pub const PROXY4: &str = "203.0.113.9";
/// The same for IPv6.
pub const PROXY6: &str = "2001:db8::9";
/// Where witnesses of leaks wait, TCP and UDP.
pub const PORT: u16 = 7777;
/// The proxy's TCP port.
pub const PROXY_PORT: u16 = 9050;
/// The UDP port at which a proxy takes datagrams.
pub const RELAY_PORT: u16 = 9054;
/// The UDP port that is allowed by a rule.
pub const ALLOWED_PORT: u16 = 9053;
/// Where guests listen.
pub const LISTEN_PORT: u16 = 7788;
/// What guests send when they leak.
pub const TOKEN: &[u8] = b"sockstrace-leak";
