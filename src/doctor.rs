//! `sockstrace doctor`: what this kernel and this user can do.

use nix::sys::utsname::uname;
use nix::unistd::geteuid;
use sockstrace_backend::Finding;
use std::io::{self, Write};

/// A backend's name, whether it can run a program (`--backend`) or only watch the machine (`--all`), and what
/// its probe found.
pub type Probed<'n> = (&'n str, bool, Vec<Finding>);

/// Writes what each backend's probe found, the backends in the order in which `--backend auto` tries
/// them. Returns whether any of them works.
pub fn print(findings: &[Probed<'_>], out: &mut dyn Write) -> io::Result<bool> {
    let user = geteuid();
    let kind = if user.is_root() { "root" } else { "unprivileged" };
    if let Ok(kernel) = uname() {
        let (system, release) = (kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy());
        let machine = kernel.machine().to_string_lossy();
        writeln!(out, "{system} {release} ({machine}), user {user} ({kind})")?;
    }
    for (backend, _, findings) in findings {
        let works = if works(findings) { "works" } else { "doesn't work here" };
        writeln!(out, "\n{backend}: {works}")?;
        table(findings, out)?;
    }
    let best = findings.iter().find(|(_, launches, findings)| *launches && works(findings));
    match best {
        Some((backend, ..)) => writeln!(out, "\n--backend auto takes {backend}.")?,
        None => writeln!(out, "\nNo backend works here: change what is marked \"no\".")?,
    }
    Ok(best.is_some())
}

/// Nothing looked at is nothing that works.
fn works(findings: &[Finding]) -> bool {
    !findings.is_empty() && findings.iter().all(|finding| finding.works != Some(false))
}

fn table(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    for finding in findings {
        let mark = match finding.works {
            Some(true) => "yes",
            Some(false) => "no",
            None => "limited",
        };
        // Continuation lines stand under the detail.
        let mut detail = finding.detail.lines();
        let line = format!("  {mark:<7}  {:<width$}  {}", finding.what, detail.next().unwrap_or(""));
        writeln!(out, "{}", line.trim_end())?;
        for more in detail {
            writeln!(out, "  {:<7}  {:<width$}  {more}", "", "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(what: &str, works: Option<bool>, detail: &str) -> Finding {
        Finding { what: what.into(), works, detail: detail.into() }
    }

    fn printed(findings: &[Probed<'_>]) -> (bool, String) {
        let mut out = Vec::new();
        let any = print(findings, &mut out).unwrap();
        (any, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_limit_is_no_failure() {
        let (any, text) = printed(&[
            (
                "seccomp",
                true,
                vec![finding("notify", Some(true), ""), finding("pidfd", Some(false), "old\nupdate")],
            ),
            ("ptrace", true, vec![finding("seize", Some(true), "fine"), finding("yama", None, "scope 1")]),
        ]);
        assert!(any);
        assert!(text.contains("\nseccomp: doesn't work here\n  yes      notify\n"), "{text}");
        assert!(text.contains("  no       pidfd   old\n                   update\n"), "{text}");
        assert!(text.contains("\nptrace: works\n") && text.contains("limited  yama"), "{text}");
        assert!(text.ends_with("--backend auto takes ptrace.\n"), "{text}");
    }

    #[test]
    fn nothing_works() {
        let (any, text) = printed(&[
            ("seccomp", true, vec![finding("x", Some(false), "")]),
            ("ptrace", true, vec![]),
            ("ebpf", false, vec![finding("y", Some(true), "")]),
        ]);
        assert!(!any);
        assert!(text.contains("No backend works"), "{text}");
    }
}
