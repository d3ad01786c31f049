//! The programs: loaded, and attached by descriptors, so that they go when this process does.

use crate::attention::Attention;
use crate::calls;
use crate::guards::Guard;
use crate::maps::{self, broken, broken_by, failed, of};
use crate::rules::Tables;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, CgroupAttachMode, CgroupSockAddr, Iter, Lsm, SockOps};
use aya::util::KernelVersion;
use aya::{Btf, Ebpf, EbpfLoader};
use nix::unistd::Pid;
use sockstrace_backend::BackendError;
use sockstrace_backend::hooks::{Holes, Hooks, SERVING, StacksOf, Then};
use sockstrace_backend::observed::{Scope, SocketCall};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The tracepoints, with the program for each: without the first ones nothing is seen.
pub const TRACEPOINTS: [(&str, &str, Need); 7] = [
    ("sys_exit", "sys_exit", Need::Must),
    ("process_exit", "sched_process_exit", Need::Must),
    ("process_fork", "sched_process_fork", Need::Must),
    ("process_exec", "sched_process_exec", Need::Must),
    ("set_state", "inet_sock_set_state", Need::May("TCP states are not seen")),
    ("request_submit", "io_uring_submit_req", Need::May("io_uring operations are not seen")),
    ("request_complete", "io_uring_complete", Need::May("io_uring operations are not seen")),
];

/// The hooks on internet addresses.
pub const HOOKS: [&str; 8] = [
    "on_bind4",
    "on_bind6",
    "on_connect4",
    "on_connect6",
    "on_sendmsg4",
    "on_sendmsg6",
    "on_recvmsg4",
    "on_recvmsg6",
];

/// The hooks that name the ends of diverted sockets.
pub const NAMING_HOOKS: [&str; 4] = ["on_getpeername4", "on_getpeername6", "on_getsockname4", "on_getsockname6"];

/// The program that tells who is about to connect to a hole.
const ON_CONNECTING: &str = "about_to_connect";

/// What is lost without a hook.
pub const WITHOUT_HOOK: &str = "addresses are read from the caller's memory, which another thread may change";

/// Names that tracepoints had before, and since which Linux they had the same arguments.
const FORMER_NAMES: [(&str, &str, KernelVersion); 1] =
    [("io_uring_submit_req", "io_uring_submit_sqe", KernelVersion::new(6, 0, 0))];

/// Whether a program can be done without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No.
    Must,
    /// Yes, but this is lost.
    May(&'static str),
}

/// Of each family: bpf/diversions.h.
const MOST_HOLES: usize = 16;

/// By their cookies, the addresses that diverted sockets are shown to have, in IPv6 spelling.
pub type Sources = HashMap<MapData, u64, [u8; 16]>;

/// Bytes of the ring of records. What a tree does is to be told whole, even where it does nothing else; of the whole machine a
/// burst of a quarter of a second.
const RING: u32 = 32 << 20;
const TREE_RING: u32 = 16 << 20;

/// What the compiled programs are; nothing where the crate was built without clang.
#[cfg(have_programs)]
pub const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/watch.bpf.o")));
#[cfg(not(have_programs))]
pub const OBJECT: Option<&[u8]> = None;

/// Why there are no programs.
pub const NO_PROGRAMS: &str =
    "sockstrace was built without clang, and so without its BPF programs: install clang and build again";

/// What somebody needs who watches over the tree.
#[derive(Debug)]
pub struct TreeMaps {
    /// Its keys are the tree's processes.
    pub tree: OwnedFd,
    /// Nothing is let through any more where its one value isn't 0.
    pub ending: OwnedFd,
}

/// `struct path` of bpf/guards.h
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PathKey([u8; 108]);

// SAFETY: an array of bytes.
unsafe impl aya::Pod for PathKey {}

/// Programs in the kernel.
pub struct Programs {
    bpf: Ebpf,
    btf: Btf,
    /// What could not be loaded or attached, and what that means.
    pub limits: Vec<String>,
    /// An io_uring's operations are told.
    pub sees_requests: bool,
}

/// What the programs are loaded for.
#[derive(Debug, Clone, Copy)]
pub struct Aim<'a> {
    /// What is reported, and of whom.
    pub scope: &'a Scope,
    /// A tree is launched, and judged by these.
    pub hooks: Option<&'a Hooks>,
}

impl Aim<'_> {
    /// Each that is attached makes starting slower.
    fn needs_hook(self, hook: &str) -> bool {
        let is_naming = NAMING_HOOKS.contains(&hook);
        let Some(hooks) = self.hooks else { return !is_naming };
        if is_naming {
            return hooks.holes.is_some();
        }
        let tells = |call: SocketCall| hooks.calls.contains(&call) || hooks.requests.contains(&call);
        if hook.starts_with("on_bind") { tells(SocketCall::Bind) } else { !hook.starts_with("on_recvmsg") }
    }

    fn needs_tracepoint(self, program: &str) -> bool {
        let Some(hooks) = self.hooks else { return true };
        match program {
            "request_submit" | "request_complete" => !hooks.requests.is_empty(),
            "sys_exit" => !hooks.tells_refusals_alone(),
            program => program != "set_state",
        }
    }
}

/// The settings that the programs are loaded with.
#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    filters: u32,
    cgroup_count: u32,
    wanted_ops: u32,
    wanted_requests: u32,
    wanted_states: u32,
    skips_unaddressed: u32,
    judges: u32,
    judges_odd_sockets: u32,
    refusal: u32,
    refused: i64,
    stacks: u32,
    tells_refusals_alone: u32,
    counted_ops: u32,
    holes4: u32,
    holes6: u32,
    holes_namespace: u64,
}

impl Settings {
    fn of(Aim { scope, hooks }: Aim<'_>) -> Self {
        let filters = &scope.filters;
        let refusal = hooks.and_then(|hooks| hooks.refusal);
        let errno = refusal.map_or(libc::EPERM, |refusal| refusal.errno as i32);
        let holes = hooks.and_then(|hooks| hooks.holes.as_ref());
        let bits_of = |calls: &[SocketCall]| calls.iter().fold(0, |sum, call| sum | (1_u32 << calls::code(*call)));
        Self {
            filters: maps::filter_bits(filters, hooks.is_some()),
            cgroup_count: filters.cgroups.len() as u32,
            wanted_ops: bits_of(&scope.calls),
            wanted_requests: bits_of(hooks.map_or(&scope.calls, |hooks| &hooks.requests)),
            wanted_states: u32::from(scope.states),
            skips_unaddressed: u32::from(hooks.is_some()),
            // `enum judging`
            judges: match (hooks, refusal.map(|refusal| refusal.then)) {
                (None, _) => 0,
                (Some(_), None) => 1,
                (Some(_), Some(Then::GoesOn)) => 2,
                (Some(_), Some(Then::Dies)) => 3,
                (Some(_), Some(Then::TreeDies)) => 4,
            },
            judges_odd_sockets: u32::from(hooks.is_some_and(|hooks| hooks.odd_sockets)),
            // `enum stacks`
            stacks: match hooks.map(|hooks| hooks.stacks) {
                None | Some(StacksOf::Nothing) => 0,
                Some(StacksOf::Leaks) => 1,
                Some(StacksOf::Everything) => 2,
            },
            tells_refusals_alone: u32::from(hooks.is_some_and(Hooks::tells_refusals_alone)),
            counted_ops: bits_of(hooks.map_or(&[], |hooks| &hooks.counted)),
            holes4: holes.map_or(0, |holes| holes.v4.len().min(MOST_HOLES) as u32),
            holes6: holes.map_or(0, |holes| holes.v6.len().min(MOST_HOLES) as u32),
            holes_namespace: holes.map_or(0, |holes| holes.namespace),
            refusal: errno as u32,
            refused: i64::from(errno).saturating_neg(),
        }
    }
}

/// A loader, and the kernel's types. Both read all of these, which takes long: at once, where there are two processors.
pub fn loader<'a>() -> Result<(EbpfLoader<'a>, Btf), BackendError> {
    let (loader, types) = std::thread::scope(|scope| {
        let types = scope.spawn(Btf::from_sys_fs);
        (EbpfLoader::new(), types.join())
    });
    let types = types.map_err(|_| "reading them ended early".to_owned());
    let types = types.and_then(|types| types.map_err(|error| error.to_string())).map_err(|error| {
        let why = format!("the kernel's BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF) is missing: {error}");
        BackendError::Unavailable(why)
    })?;
    Ok((loader, types))
}

impl Programs {
    /// Loads the object with its maps; no program runs yet.
    pub fn load(aim: Aim<'_>) -> Result<Self, BackendError> {
        let object = OBJECT.ok_or_else(|| BackendError::Unavailable(NO_PROGRAMS.into()))?;
        let (mut loader, btf) = loader()?;
        let settings = Settings::of(aim);
        let served = |hooks: &Hooks| Tables::of(&hooks.networks, hooks.served.as_deref().unwrap_or_default());
        let tables = aim.hooks.map(served).transpose()?.unwrap_or_default();
        let own = crate::tree::own();
        // Maps that hold nothing cost time all the same.
        let room = |wanted: bool, entries| if wanted { entries } else { 1 };
        let diverts = aim.hooks.is_some_and(|hooks| hooks.holes.is_some());
        let has_requests = aim.hooks.is_none_or(|hooks| !hooks.requests.is_empty());
        let follows_calls = has_requests || aim.hooks.is_none_or(|hooks| !hooks.tells_refusals_alone());
        let bpf = loader
            .override_global("own_tgid", &own, true)
            .override_global("filters", &settings.filters, true)
            .override_global("cgroup_count", &settings.cgroup_count, true)
            .override_global("wanted_ops", &settings.wanted_ops, true)
            .override_global("wanted_requests", &settings.wanted_requests, true)
            .override_global("skips_unaddressed", &settings.skips_unaddressed, true)
            .override_global("judges", &settings.judges, true)
            .override_global("judges_odd_sockets", &settings.judges_odd_sockets, true)
            .override_global("refusal", &settings.refusal, true)
            .override_global("refused", &settings.refused, true)
            .override_global("tells_refusals_alone", &settings.tells_refusals_alone, true)
            .override_global("counted_ops", &settings.counted_ops, true)
            .override_global("wanted_stacks", &settings.stacks, true)
            .override_global("holes4", &settings.holes4, true)
            .override_global("holes6", &settings.holes6, true)
            .override_global("holes_namespace", &settings.holes_namespace, true)
            .map_max_entries("port_sets", tables.sets())
            .map_max_entries("diversions", room(diverts, 65_536))
            .map_max_entries("sources", room(diverts, 65_536))
            .map_max_entries("owners", room(aim.scope.states, 65_536))
            .map_max_entries("listeners", room(aim.scope.states, 4096))
            .map_max_entries("calls", room(follows_calls, 32_768))
            .map_max_entries("requests", room(has_requests, 16_384))
            .map_max_entries("ring", if aim.hooks.is_some() { TREE_RING } else { RING })
            .override_global("wanted_states", &settings.wanted_states, true)
            .override_global("wanted_processes", &1_u32, true)
            .load(object)
            .map_err(|error| BackendError::Unavailable(format!("BPF maps can't be made: {}", chain(&error))))?;
        let mut programs = Self { bpf, btf, limits: Vec::new(), sees_requests: true };
        programs.fill(aim)?;
        programs.fill_rules(&tables)?;
        if let Some(hooks) = aim.hooks {
            programs.fill_guards(hooks)?;
        }
        if let Some(holes) = aim.hooks.and_then(|hooks| hooks.holes.as_ref()) {
            programs.fill_holes(holes)?;
        }
        Ok(programs)
    }

    fn fill_holes(&mut self, holes: &Holes) -> Result<(), BackendError> {
        let mut map: Array<&mut MapData, u32> = self.map("holes")?;
        for (first, ports) in [(0, &holes.v4), (MOST_HOLES as u32, &holes.v6)] {
            for (index, port) in (first..).zip(ports.iter().take(MOST_HOLES)) {
                map.set(index, u32::from(port.to_be()), 0).map_err(failed("holes"))?;
            }
        }
        Ok(())
    }

    /// Takes the map of the addresses that diverted sockets are shown to have; once.
    pub fn sources(&mut self) -> Result<Sources, BackendError> {
        maps::take(&mut self.bpf, "sources")
    }

    fn fill(&mut self, Aim { scope, hooks }: Aim<'_>) -> Result<(), BackendError> {
        // Whose TCP's states are is known by who serves.
        let tells = |call| scope.calls.contains(&call) || (scope.states && SERVING.contains(&call));
        // Where a tree is judged, calls that are stopped at are nobody's business here.
        let is_wanted = |code: u8| match hooks {
            None => calls::call(code).is_none_or(tells),
            // The hooks ask which call they are in.
            Some(hooks) if hooks.tells_refusals_alone() => true,
            Some(hooks) => match calls::call(code) {
                Some(call) => hooks.calls.contains(&call),
                None if code == calls::IO_URING_ENTER => !hooks.requests.is_empty(),
                None => true,
            },
        };
        let wanted = |numbers: Vec<(u32, u8)>| numbers.into_iter().filter(|(_, code)| is_wanted(*code)).collect();
        maps::fill_calls(&mut self.bpf, wanted(calls::native()), wanted(calls::compat()))?;
        maps::fill_filters(&mut self.bpf, &scope.filters)
    }

    fn fill_rules(&mut self, tables: &Tables) -> Result<(), BackendError> {
        let mut sets: Array<&mut MapData, [u8; Tables::SET_BYTES]> = self.map("port_sets")?;
        for (index, set) in (0_u32..).zip(tables.port_sets()) {
            sets.set(index, set, 0).map_err(failed("port_sets"))?;
        }
        for (name, entries) in [("networks", tables.networks()), ("served", tables.served())] {
            let mut networks: LpmTrie<&mut MapData, [u8; 16], u32> = self.map(name)?;
            for (prefix, ip, set) in entries {
                networks.insert(&Key::new(*prefix, *ip), set, 0).map_err(failed(name))?;
            }
        }
        Ok(())
    }

    /// Options and paths that LSM programs look for.
    fn fill_guards(&mut self, hooks: &Hooks) -> Result<(), BackendError> {
        let options: Vec<_> = hooks.options.iter().map(|(level, name)| [*level, *name]).collect();
        maps::fill_set(&mut self.bpf, "options", &options)?;
        let key = |path: &PathBuf| {
            // `sun_path` of struct sockaddr_un
            let mut key = [0_u8; 108];
            key.iter_mut().zip(path.as_os_str().as_bytes()).for_each(|(to, from)| *to = *from);
            PathKey(key)
        };
        let paths: Vec<_> = hooks.closed_paths.iter().map(key).collect();
        maps::fill_set(&mut self.bpf, "closed_paths", &paths)
    }

    /// This process, and what descends from it, is the tree.
    pub fn adopt(&mut self, pid: Pid) -> Result<(), BackendError> {
        maps::fill_set(&mut self.bpf, "tree", &[pid.as_raw() as u32])
    }

    /// The maps of the tree's processes, and of whether it is ending.
    pub fn tree_maps(&self) -> Result<TreeMaps, BackendError> {
        let duplicate = |name: &'static str| match self.bpf.map(name) {
            Some(Map::HashMap(data) | Map::Array(data)) => {
                data.fd().as_fd().try_clone_to_owned().map_err(|error| broken_by(name, &error))
            }
            _ => Err(broken(name)),
        };
        Ok(TreeMaps { tree: duplicate("tree")?, ending: duplicate("ending")? })
    }

    /// Whether none of the trees' processes is left.
    pub fn is_tree_empty(&mut self) -> Result<bool, BackendError> {
        let tree: HashMap<&mut MapData, u32, u8> = self.map("tree")?;
        Ok(tree.keys().next().is_none())
    }

    /// Brings the trees up to date with what happened before the programs were attached.
    pub fn catch_up(&mut self, scope: &Scope) -> Result<(), BackendError> {
        maps::catch_up(&mut self.bpf, &scope.filters.trees)
    }

    fn map<'m, M: TryFrom<&'m mut Map>>(&'m mut self, name: &'static str) -> Result<M, BackendError> {
        maps::map(&mut self.bpf, name)
    }

    /// Has the ring of records attended to; once.
    pub fn have_attended(&mut self, attention: &mut Attention) -> Result<(), BackendError> {
        attention.attend_to(&mut self.bpf)
    }

    /// Takes the ring of records (`ring`) or that of stacks (`stacks`); once.
    pub fn ring(&mut self, name: &'static str) -> Result<RingBuf<MapData>, BackendError> {
        maps::take(&mut self.bpf, name)
    }

    /// Takes a counter: of records that the ring had no room for (`lost`), of calls that are not told (`passed`); once.
    pub fn counter(&mut self, name: &'static str) -> Result<PerCpuArray<MapData, u64>, BackendError> {
        maps::take(&mut self.bpf, name)
    }

    /// Loads one tracepoint's program.
    pub fn load_tracepoint(&mut self, program: &str, tracepoint: &str) -> Result<(), String> {
        let Self { bpf, btf, .. } = self;
        let program: &mut BtfTracePoint = of(bpf, program)?;
        let kernel = KernelVersion::current().unwrap_or(KernelVersion::new(0, 0, 0));
        let former = FORMER_NAMES.iter().find(|(name, _, since)| *name == tracepoint && kernel >= *since);
        let loaded = program.load(tracepoint, btf).or_else(|error| match former {
            Some((_, former, _)) => program.load(former, btf).map_err(|_| error),
            None => Err(error),
        });
        loaded.map_err(|error| brief(&error))
    }

    /// Loads one hook's program.
    pub fn load_hook(&mut self, program: &str) -> Result<(), String> {
        let program: &mut CgroupSockAddr = of(&mut self.bpf, program)?;
        program.load().map_err(|error| brief(&error))
    }

    /// Loads the program that tells who is about to connect to a hole.
    pub fn load_connecting(&mut self) -> Result<(), String> {
        let program: &mut SockOps = of(&mut self.bpf, ON_CONNECTING)?;
        program.load().map_err(|error| brief(&error))
    }

    /// Loads an LSM program.
    pub fn load_guard(&mut self, guard: Guard) -> Result<(), String> {
        let Self { bpf, btf, .. } = self;
        let program: &mut Lsm = of(bpf, guard.program())?;
        program.load(guard.hook(), btf).map_err(|error| brief(&error))
    }

    /// Whether the kernel asks LSM programs.
    pub fn try_lsm(&self) -> Result<(), String> {
        crate::trial::lsm_works(&self.btf)
    }

    /// Loads and attaches one.
    pub fn attach_guard(&mut self, guard: Guard) -> Result<(), String> {
        self.load_guard(guard)?;
        let program: &mut Lsm = of(&mut self.bpf, guard.program())?;
        program.attach().map(drop).map_err(|error| brief(&error))
    }

    /// Loads the iterator over existing sockets.
    pub fn load_iterator(&mut self) -> Result<(), String> {
        let Self { bpf, btf, .. } = self;
        let program: &mut Iter = of(bpf, "existing")?;
        program.load("task_file", btf).map_err(|error| brief(&error))
    }

    /// Loads and attaches everything that runs on events, but for LSM programs. What may be missing is noted in
    /// [`Programs::limits`].
    pub fn attach(&mut self, root: &File, aim: Aim<'_>) -> Result<(), BackendError> {
        let judges = aim.hooks.is_some();
        // The hooks before the calls' ends: what is told is then seen whole.
        if aim.hooks.is_some_and(|hooks| hooks.holes.is_some()) {
            let attached = self.load_connecting().and_then(|()| {
                let program: &mut SockOps = of(&mut self.bpf, ON_CONNECTING)?;
                program.attach(root, CgroupAttachMode::Single).map(drop).map_err(|error| brief(&error))
            });
            attached.map_err(|why| {
                BackendError::Unavailable(format!("the cgroup hook sock_ops: {why}: use --on-leak block"))
            })?;
        }
        for hook in HOOKS.into_iter().chain(NAMING_HOOKS).filter(|hook| aim.needs_hook(hook)) {
            let attached = self.load_hook(hook).and_then(|()| {
                let program: &mut CgroupSockAddr = of(&mut self.bpf, hook)?;
                // A link leaves room for others by itself (`cgroup_bpf_link_attach`): it takes no flags.
                let link = program.attach(root, CgroupAttachMode::Single);
                link.map(drop).map_err(|error| brief(&error))
            });
            if let Err(why) = attached {
                if judges {
                    let what = format!(
                        "the cgroup hook {}: {why} (see `sockstrace doctor`)",
                        hook.trim_start_matches("on_")
                    );
                    return Err(BackendError::Unavailable(what));
                }
                self.limits
                    .push(format!("the cgroup hook {}: {why}: {WITHOUT_HOOK}", hook.trim_start_matches("on_")));
            }
        }
        for (program, tracepoint, need) in
            TRACEPOINTS.into_iter().rev().filter(|(program, ..)| aim.needs_tracepoint(program))
        {
            let attached = self.load_tracepoint(program, tracepoint).and_then(|()| {
                let program: &mut BtfTracePoint = of(&mut self.bpf, program)?;
                program.attach().map(drop).map_err(|error| brief(&error))
            });
            match (attached, need) {
                (Ok(()), _) => {}
                (Err(why), Need::May(loss)) => {
                    self.sees_requests &= !program.starts_with("request_");
                    self.limits.push(format!("the tracepoint {tracepoint}: {why}: {loss}"));
                }
                (Err(why), Need::Must) => {
                    let what =
                        format!("the tracepoint {tracepoint} can't be used: {why} (see `sockstrace doctor`)");
                    return Err(BackendError::Unavailable(what));
                }
            }
        }
        Ok(())
    }

    /// Runs the iterator over the sockets that exist: one record each.
    pub fn existing(&mut self) -> Result<Vec<u8>, String> {
        self.load_iterator()?;
        let program: &mut Iter = of(&mut self.bpf, "existing")?;
        let link = program.attach().and_then(|id| program.take_link(id)).map_err(|error| brief(&error))?;
        let mut file = link.into_file().map_err(|error| chain(&error))?;
        let mut records = Vec::new();
        file.read_to_end(&mut records).map_err(|error| error.to_string())?;
        Ok(records)
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Why a program can't be had, in one line: the verifier's log is its last words.
pub fn brief(error: &aya::programs::ProgramError) -> String {
    use aya::programs::ProgramError;
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            // Figures come last.
            let says = |line: &&str| {
                !["processed", "stack depth", "verification time"].iter().any(|start| line.starts_with(start))
            };
            let last = log.lines().rev().map(str::trim).filter(|line| !line.is_empty()).find(says);
            match last {
                Some(last) => format!("{io_error} ({last})"),
                None => io_error.to_string(),
            }
        }
        other => chain(other),
    }
}
