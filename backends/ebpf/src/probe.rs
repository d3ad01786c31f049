//! What this kernel and this user can do: for `sockstrace doctor`, by loading what would be used.

use crate::capture::{self, Capture};
use crate::cgroup;
use crate::guards::{self, Guard};
use crate::programs::{Aim, HOOKS, NAMING_HOOKS, NO_PROGRAMS, Need, OBJECT, Programs, TRACEPOINTS, WITHOUT_HOOK};
use nix::errno::Errno;
use nix::unistd::Pid;
use sockstrace_backend::captured::Wanted;
use sockstrace_backend::hooks::{Holes, Hooks, Refusal, StacksOf, Then};
use sockstrace_backend::observed::{Filters, Scope, SocketCall};
use sockstrace_backend::proc::{Namespace, Status};
use sockstrace_backend::{Backend, BackendError, Finding};
use sockstrace_backend_seccomp::SeccompBackend;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Capabilities: number (<linux/capability.h>), name, what for.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (39, "CAP_BPF", "programs and maps"),
    (38, "CAP_PERFMON", "tracepoints, and reading the kernel's memory"),
    (12, "CAP_NET_ADMIN", "cgroup hooks on addresses"),
];

/// Looks at everything the backend needs.
pub fn findings() -> Vec<Finding> {
    let mut findings = vec![built(), btf()];
    findings.extend(capabilities());
    findings.push(cgroup_root());
    if findings.iter().all(|finding| finding.works != Some(false)) {
        findings.extend(programs());
        let has = |names: &[&str]| {
            let is_lacking =
                |it: &Finding| it.works != Some(true) && names.iter().any(|name| it.what.ends_with(name));
            !findings.iter().any(is_lacking)
        };
        let sees_rings = has(&["/io_uring_submit_req", "/io_uring_complete"]);
        let judges = |guards: &[Guard]| has(&guards.iter().map(|guard| guard.hook()).collect::<Vec<_>>());
        let of_rings: Vec<Guard> = Guard::ALL.into_iter().filter(|guard| *guard != Guard::Connecting).collect();
        let (judges_rings, judges_odd_sockets) = (judges(&of_rings), judges(&guards::SENDING));
        findings.push(capturing());
        findings.extend(for_running(sees_rings, judges_rings, judges_odd_sockets));
    }
    findings
}

/// Says the first thing that is missing.
pub fn require() -> Result<(), BackendError> {
    let mut needed = vec![built(), btf()];
    needed.extend(capabilities());
    needed.push(cgroup_root());
    match needed.into_iter().find(|finding| finding.works == Some(false)) {
        Some(missing) => Err(BackendError::Unavailable(format!("{}: {}", missing.what, missing.detail))),
        None => Ok(()),
    }
}

/// What running PROGRAM needs besides, and what can't be had.
fn for_running(sees_rings: bool, judges_rings: bool, judges_odd_sockets: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(BackendError::Unavailable(why)) = require_own_pids().and_then(|()| require_all_cgroups()) {
        findings.push(finding("running PROGRAM", None, format!("{why}: --all works")));
    }
    let notified = SeccompBackend::new().probe();
    if let Some(missing) = notified.into_iter().find(|finding| finding.works == Some(false)) {
        let why =
            format!("what the hooks don't see is held up by seccomp, which lacks {}: --all works", missing.what);
        findings.push(finding("running PROGRAM", None, why));
    }
    let rings = match (sees_rings, judges_rings) {
        (true, true) => "an io_uring's operations are seen, and judged where leaks are refused",
        (true, false) => {
            "an io_uring's operations are seen with --on-leak log; io_urings are refused where leaks are"
        }
        (false, _) => {
            "with --on-leak log, io_urings are told when they are made; where leaks are refused, so are they"
        }
    };
    let odd_sockets = if judges_odd_sockets {
        "UDP-Lite, ping, DCCP and vsock sockets are judged as others are"
    } else {
        "UDP-Lite, ping, DCCP and vsock sockets are seen with --on-leak log, and refused as a whole where leaks are"
    };
    let limits = format!(
        "no --on-leak core, no --isolate, --dns redirect, --socks-...;\n\
         {odd_sockets};\n{rings}"
    );
    findings.push(finding("running PROGRAM", None, limits));
    findings
}

/// Programs in the kernel know processes by their ids in the initial pid namespace: ours must be the same.
pub fn require_own_pids() -> Result<(), BackendError> {
    if Namespace::Pid.is_initial() {
        return Ok(());
    }
    let why =
        "the ebpf backend runs programs in the initial pid namespace alone, and this is another one (a container?)";
    Err(BackendError::Unavailable(why.into()))
}

/// The hooks are attached at the root of the cgroups that we see: a program that left these would not be judged.
pub fn require_all_cgroups() -> Result<(), BackendError> {
    if Namespace::Cgroup.is_initial() {
        return Ok(());
    }
    let why = "the ebpf backend runs programs in the initial cgroup namespace alone, and this is another one \
               (a container?)";
    Err(BackendError::Unavailable(why.into()))
}

fn finding(what: impl Into<String>, works: Option<bool>, detail: impl Into<String>) -> Finding {
    Finding { what: what.into(), works, detail: detail.into() }
}

fn built() -> Finding {
    match OBJECT {
        Some(_) => finding("BPF programs", Some(true), "built in"),
        None => finding("BPF programs", Some(false), NO_PROGRAMS),
    }
}

fn btf() -> Finding {
    match std::fs::metadata(BTF) {
        Ok(_) => finding("the kernel's BTF", Some(true), BTF),
        Err(error) => finding("the kernel's BTF", Some(false), format!("{BTF}: {error} (CONFIG_DEBUG_INFO_BTF)")),
    }
}

fn capabilities() -> Vec<Finding> {
    const CAP_SYS_ADMIN: u32 = 21;
    let effective = Status::of(Pid::this()).map_or(0, |status| status.capabilities);
    let has = |number: u32| effective & (1_u64 << number) != 0;
    let is_machines = Namespace::User.is_initial();
    let row = |(number, name, purpose): (u32, &str, &str)| {
        // As before Linux 5.8, CAP_SYS_ADMIN stands for the first two.
        let held = has(number) || (number > 37 && has(CAP_SYS_ADMIN));
        let detail = if !held {
            format!("for {purpose}: run sockstrace as root")
        } else if !is_machines {
            format!(
                "for {purpose}: what a user namespace gives isn't enough; run sockstrace as root of the machine"
            )
        } else {
            purpose.into()
        };
        finding(name, Some(held && is_machines), detail)
    };
    CAPABILITIES.into_iter().map(row).collect()
}

fn cgroup_root() -> Finding {
    match cgroup::root() {
        Some(root) => finding("cgroup2", Some(true), root.place),
        None => finding("cgroup2", Some(false), cgroup::MISSING),
    }
}

/// Whether payloads can be captured, and what of them can't.
fn capturing() -> Finding {
    let wanted = Wanted { families: None, most_bytes: 1, descriptors: 1 };
    let loaded = Capture::load(&wanted, &Filters::default(), true).map_err(|error| error.to_string());
    let loaded = loaded.and_then(|mut capture| {
        capture::TRACEPOINTS.into_iter().try_for_each(|(program, tracepoint)| {
            capture.load_tracepoint(program, tracepoint).map_err(|why| format!("tp_btf/{tracepoint}: {why}"))
        })
    });
    match loaded {
        Ok(()) => {
            let limits = "loaded in a trial; bytes of splice and io_uring aren't seen, and where more comes than is\n\
                          written the rest is counted, not stored";
            finding("--capture", Some(true), limits)
        }
        Err(why) => finding("--capture", None, why),
    }
}

/// What diverts connections: other paths of the same hooks, and programs of its own.
fn diverting() -> Finding {
    let scope =
        Scope { calls: vec![SocketCall::Connect], states: false, filters: Filters::default(), attaches: false };
    let hooks = Hooks {
        calls: scope.calls.clone(),
        counted: Vec::new(),
        messages: false,
        odd_sockets: false,
        rings: false,
        stacks: StacksOf::Nothing,
        holes: Some(Holes { namespace: 0, v4: vec![1], v6: vec![1] }),
        ..sample()
    };
    let loaded = Programs::load(Aim { scope: &scope, hooks: Some(&hooks) }).map_err(|error| error.to_string());
    let loaded = loaded.and_then(|mut programs| {
        programs.load_connecting().map_err(|why| format!("sock_ops: {why}"))?;
        HOOKS.into_iter().chain(NAMING_HOOKS).try_for_each(|hook| {
            programs.load_hook(hook).map_err(|why| format!("cgroup/{}: {why}", hook.trim_start_matches("on_")))
        })
    });
    match loaded {
        Ok(()) => finding("--on-leak redirect", Some(true), "loaded in a trial; it takes TCP connections alone"),
        Err(why) => finding("--on-leak redirect", None, why),
    }
}

/// LSM programs: each loaded as for a run that refuses, and one asked in a trial.
fn guards(scope: &Scope) -> Vec<Finding> {
    let mut programs = match Programs::load(Aim { scope, hooks: Some(&sample()) }) {
        Ok(programs) => programs,
        Err(error) => return vec![finding("BPF maps of rules", Some(false), error.to_string())],
    };
    let asked = programs.try_lsm();
    let row = |guard: Guard| {
        let name = format!("lsm/{}", guard.hook());
        match programs.load_guard(guard).and_then(|()| asked.clone()) {
            Ok(()) if guard == Guard::Messages => finding(name, Some(true), "asked in a trial"),
            Ok(()) => finding(name, Some(true), "loaded in a trial"),
            Err(why) => finding(name, None, format!("{why}: {}", guard.without())),
        }
    };
    Guard::ALL.into_iter().map(row).collect()
}

/// A run that refuses.
fn sample() -> Hooks {
    Hooks {
        networks: Vec::new(),
        refusal: Some(Refusal { errno: Errno::EPERM, then: Then::GoesOn }),
        calls: Vec::new(),
        counted: vec![SocketCall::Connect, SocketCall::Sendto, SocketCall::Sendmsg],
        messages: true,
        odd_sockets: true,
        requests: Vec::new(),
        rings: true,
        options: Vec::new(),
        closed_paths: Vec::new(),
        served: None,
        serving: false,
        stacks: StacksOf::Leaks,
        holes: None,
        held: None,
    }
}

/// Loads each program, attaches none but a trial of LSM.
fn programs() -> Vec<Finding> {
    let scope = Scope { calls: Vec::new(), states: false, filters: Filters::default(), attaches: false };
    let mut programs = match Programs::load(Aim { scope: &scope, hooks: None }) {
        Ok(programs) => programs,
        Err(error) => return vec![finding("BPF maps", Some(false), error.to_string())],
    };
    let mut findings = vec![finding("BPF maps", Some(true), "made in a trial")];
    for (program, tracepoint, need) in TRACEPOINTS {
        let loaded = programs.load_tracepoint(program, tracepoint);
        findings.push(match (loaded, need) {
            (Ok(()), _) => finding(format!("tp_btf/{tracepoint}"), Some(true), "loaded in a trial"),
            (Err(why), Need::Must) => finding(format!("tp_btf/{tracepoint}"), Some(false), why),
            (Err(why), Need::May(loss)) => finding(format!("tp_btf/{tracepoint}"), None, format!("{why}: {loss}")),
        });
    }
    for hook in HOOKS {
        let name = format!("cgroup/{}", hook.trim_start_matches("on_"));
        findings.push(match programs.load_hook(hook) {
            Ok(()) => finding(name, Some(true), "loaded in a trial"),
            Err(why) => finding(name, None, format!("{why}: {WITHOUT_HOOK}")),
        });
    }
    findings.push(diverting());
    findings.extend(guards(&scope));
    findings.push(match programs.load_iterator() {
        Ok(()) => finding("iter/task_file", Some(true), "loaded in a trial"),
        Err(why) => {
            let loss = "whose a TCP connection is that exists already is not known";
            finding("iter/task_file", None, format!("{why}: {loss}"))
        }
    });
    findings
}
