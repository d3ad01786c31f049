//! Which frame of a stack is to blame: the innermost one in the program's own code.
//!
//! Innermost come the C library's wrappers of the call, a language's runtime, other people's libraries. What
//! a person wants to see, and a CI system to mark, is the line of the program that called all that.

use std::path::Path;

/// What is looked at of a frame.
pub trait StackFrame {
    /// Path of the executable or library that the code is in.
    fn module(&self) -> Option<&str>;
    /// The function's name, demangled.
    fn function(&self) -> Option<&str>;
    /// Path of the source file.
    fn file(&self) -> Option<&str>;
    /// Whether it is a function of a script, in the place of the interpreter's frame that runs it.
    fn is_script(&self) -> bool;
}

impl StackFrame for crate::event::Frame {
    fn module(&self) -> Option<&str> {
        self.module.as_deref()
    }
    fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }
    fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
    fn is_script(&self) -> bool {
        self.how == crate::unwind::How::Interpreter
    }
}

/// How likely a frame is the program's own code; the greatest wins, the innermost of equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// A wrapper of the call itself, or the code before `main`.
    Plumbing,
    /// A library of the system.
    System,
    /// Linked into the program, but written by others: a runtime, a package.
    Foreign,
    /// The program's, as far as can be told without source lines.
    Own,
    /// The program's, and the line is known.
    OwnSource,
}

/// The index of the blamed frame in a stack, innermost frame first; `None` where it has no frame of which
/// anything is known. `exe` is the path of the process's executable.
#[must_use]
pub fn blamed<F: StackFrame>(stack: &[F], exe: Option<&str>) -> Option<usize> {
    let mut best: Option<(Standing, usize)> = None;
    for (index, (frame, standing)) in stack.iter().zip(standings(stack, exe)).enumerate() {
        if frame.module().is_none() && frame.function().is_none() && frame.file().is_none() {
            continue;
        }
        if best.is_none_or(|(found, _)| standing > found) {
            best = Some((standing, index));
        }
    }
    best.map(|(_, index)| index)
}

/// Of each frame of a stack, whether it lies in the program's own code, rather than in libraries, runtimes and
/// wrappers.
#[must_use]
pub fn own<F: StackFrame>(stack: &[F], exe: Option<&str>) -> Vec<bool> {
    standings(stack, exe).map(|standing| standing >= Standing::Own).collect()
}

fn standings<F: StackFrame>(stack: &[F], exe: Option<&str>) -> impl Iterator<Item = Standing> {
    let is_interpreted = stack.iter().any(StackFrame::is_script);
    let program = Program::new(exe);
    stack.iter().map(move |frame| {
        let standing = standing(frame, program);
        if is_interpreted && !frame.is_script() {
            // The program is the script; what runs it is as foreign as a runtime.
            standing.min(Standing::Foreign)
        } else {
            standing
        }
    })
}

/// The executable, and where libraries of its own may lie.
#[derive(Clone, Copy)]
struct Program<'a> {
    exe: Option<&'a str>,
    home: Option<&'a Path>,
}

impl<'a> Program<'a> {
    fn new(exe: Option<&'a str>) -> Self {
        let exe = exe.map(undeleted);
        // Large programs live below /usr/lib, with libraries of their own beside them.
        let home = exe.and_then(|exe| Path::new(exe).parent()).filter(|home| home.components().count() > 3);
        Self { exe, home }
    }
}

fn standing<F: StackFrame>(frame: &F, program: Program<'_>) -> Standing {
    if frame.is_script() {
        let foreign = frame.file().is_none_or(|file| is_foreign_source(file) || is_foreign_script(file));
        return if foreign { Standing::Foreign } else { Standing::OwnSource };
    }
    if frame.function().is_some_and(is_plumbing) {
        return Standing::Plumbing;
    }
    if frame.module().is_some_and(|module| !is_own_module(module, program)) {
        return Standing::System;
    }
    match frame.file() {
        Some(file) if is_foreign_source(file) => Standing::Foreign,
        _ if frame.function().is_some_and(is_runtime) => Standing::Foreign,
        Some(_) => Standing::OwnSource,
        None => Standing::Own,
    }
}

/// Where distributions put libraries that programs share.
const SYSTEM: [&str; 7] =
    ["/lib/", "/lib32/", "/lib64/", "/usr/lib/", "/usr/lib32/", "/usr/lib64/", "/usr/libexec/"];

fn is_own_module(module: &str, program: Program<'_>) -> bool {
    if module.starts_with('[') {
        return false; // [vdso]
    }
    let module = undeleted(module);
    if program.exe == Some(module) || program.home.is_some_and(|home| Path::new(module).starts_with(home)) {
        return true;
    }
    !SYSTEM.iter().any(|folder| module.starts_with(folder)) && !is_c_library(module)
}

/// As /proc shows the path of a file that was replaced while it runs.
fn undeleted(path: &str) -> &str {
    path.strip_suffix(" (deleted)").unwrap_or(path)
}

/// A C library or its loader, wherever it lies (containers, Nix, Guix, test environments).
fn is_c_library(module: &str) -> bool {
    const NAMES: [&str; 11] = [
        "libc.so",
        "libc-2.",
        "libpthread",
        "libdl.",
        "librt.",
        "libresolv",
        "libnss_",
        "ld-linux",
        "ld-musl",
        "ld-2.",
        "libstdc++",
    ];
    let name = module.rsplit('/').next().unwrap_or(module);
    NAMES.iter().any(|prefix| name.starts_with(prefix))
}

/// Source files of toolchains and of packages that their package managers fetched.
fn is_foreign_source(file: &str) -> bool {
    const STARTS: [&str; 9] = [
        "/rustc/",
        "/usr/include/",
        "/usr/src/",
        "/usr/lib/go",
        "/usr/local/go/",
        "/usr/share/go",
        "../sysdeps/",
        "../nptl/",
        "./nptl/",
    ];
    const PARTS: [&str; 6] = [
        "/.cargo/registry/",
        "/.cargo/git/",
        "/rustlib/src/",
        "/go/pkg/mod/",
        "/include/c++/",
        "/library/std/src/",
    ];
    STARTS.iter().any(|start| file.starts_with(start)) || PARTS.iter().any(|part| file.contains(part))
}

/// Modules of Python that come with it or that its package managers put beside it.
fn is_foreign_script(file: &str) -> bool {
    const PARTS: [&str; 3] = ["/lib/python", "/site-packages/", "/dist-packages/"];
    file.starts_with('<') || PARTS.iter().any(|part| file.contains(part))
}

/// Functions of languages' standard libraries, which are linked statically as a rule.
fn is_runtime(function: &str) -> bool {
    const STARTS: [&str; 20] = [
        "std::",
        "core::",
        "alloc::",
        "<std::",
        "<core::",
        "<alloc::",
        "tokio::",
        "mio::",
        "socket2::",
        "runtime.",
        "internal/",
        "syscall.",
        "net.",
        "net/http.",
        "net/rpc.",
        "crypto/tls.",
        "os.",
        "bufio.",
        "vendor/golang.org/",
        "__gnu_cxx::",
    ];
    STARTS.iter().any(|start| function.starts_with(start))
}

/// Wrappers of the judged calls, under whatever name a C library has them, and what runs before `main`.
fn is_plumbing(function: &str) -> bool {
    const NAMES: [&str; 27] = [
        "connect",
        "connect64",
        "send",
        "sendto",
        "sendmsg",
        "sendmmsg",
        "bind",
        "listen",
        "accept",
        "accept4",
        "socket",
        "socketcall",
        "setsockopt",
        "ioctl",
        "syscall",
        "io_uring_setup",
        "pidfd_getfd",
        "execve",
        "internal_syscall_cancel",
        "syscall_cancel",
        "syscall_cancel_arch",
        "syscall_cp",
        "syscall_cp_c",
        "start",
        "start_main",
        "start_call_main",
        "clone3",
    ];
    // musl has stubs such as __syscall_cp_asm.
    let plain = function.split('@').next().unwrap_or(function);
    let plain = plain.trim_start_matches('_');
    let plain = plain.strip_prefix("libc_").unwrap_or(plain);
    let plain = plain.strip_suffix("_impl").or_else(|| plain.strip_suffix("_asm")).unwrap_or(plain);
    NAMES.contains(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    struct Frame(&'static str, &'static str, &'static str);

    /// Scripts are told by their names here.
    fn is_python(file: &str) -> bool {
        Path::new(file).extension().is_some_and(|kind| kind == "py")
    }

    fn known(text: &'static str) -> Option<&'static str> {
        Some(text).filter(|text| !text.is_empty())
    }

    impl StackFrame for Frame {
        fn module(&self) -> Option<&str> {
            known(self.0)
        }
        fn function(&self) -> Option<&str> {
            known(self.1)
        }
        fn file(&self) -> Option<&str> {
            known(self.2)
        }
        fn is_script(&self) -> bool {
            is_python(self.2)
        }
    }

    const LIBC: Frame = Frame("/usr/lib/x86_64-linux-gnu/libc.so.6", "connect", "");

    #[test]
    fn libraries_of_the_system_are_passed_over() {
        let stack = [
            LIBC,
            Frame("/usr/lib/x86_64-linux-gnu/libcurl.so.4.8.0", "curl_easy_perform", ""),
            Frame("/usr/bin/curl", "operate", ""),
            Frame("/usr/bin/curl", "main", ""),
        ];
        assert_eq!(blamed(&stack, Some("/usr/bin/curl")), Some(2));
        assert_eq!(blamed(&stack, None), Some(2));
    }

    #[test]
    fn a_library_of_ones_own_is_ones_own() {
        let stack = [LIBC, Frame("/opt/app/lib/libnet.so", "dial", "net.c"), Frame("/opt/app/bin/app", "main", "")];
        assert_eq!(blamed(&stack, Some("/opt/app/bin/app")), Some(1));
        let browser = [LIBC, Frame("/usr/lib/browser/libxul.so", "PR_Connect", "")];
        assert_eq!(blamed(&browser, Some("/usr/lib/browser/browser")), Some(1));
        // But not whatever lies below /usr/bin's parent.
        let stack = [LIBC, Frame("/usr/lib/libx.so", "x", ""), Frame("/usr/bin/app", "main", "")];
        assert_eq!(blamed(&stack, Some("/usr/bin/app")), Some(2));
    }

    #[test]
    fn a_static_programs_runtime_is_not_its_own() {
        let exe = "/home/me/app";
        let stack = [
            Frame(exe, "__libc_connect", "../sysdeps/unix/sysv/linux/connect.c"),
            Frame(exe, "std::net::TcpStream::connect", "/rustc/abc/library/std/src/net/tcp.rs"),
            Frame(exe, "ureq::get", "/home/me/.cargo/registry/src/x/ureq/src/lib.rs"),
            Frame(exe, "app::fetch", "src/fetch.rs"),
            Frame(exe, "app::main", "src/main.rs"),
            Frame(exe, "_start", ""),
        ];
        assert_eq!(blamed(&stack, Some(exe)), Some(3));
        let go = [
            Frame(exe, "syscall.connect", ""),
            Frame(exe, "net.(*Dialer).Dial", ""),
            Frame(exe, "main.fetch", ""),
            Frame(exe, "runtime.main", ""),
        ];
        assert_eq!(blamed(&go, Some(exe)), Some(2));
    }

    #[test]
    fn a_script_is_the_program_and_its_interpreter_is_not() {
        let exe = "/usr/bin/python3.11";
        let stack = [
            LIBC,
            Frame(exe, "sock_connect", "./Modules/socketmodule.c"),
            Frame(exe, "create_connection", "/usr/lib/python3.11/socket.py"),
            Frame(exe, "get", "/home/me/.venv/lib/python3.11/site-packages/requests/api.py"),
            Frame(exe, "fetch", "/home/me/app/fetch.py"),
            Frame(exe, "<module>", "/home/me/app/main.py"),
            Frame(exe, "Py_RunMain", "./Modules/main.c"),
        ];
        assert_eq!(blamed(&stack, Some(exe)), Some(4));
        // Where libpython runs it too.
        let library = Frame("/usr/lib/libpython3.11.so", "fetch", "fetch.py");
        assert_eq!(blamed(&[LIBC, stack[2], library, stack[6]], Some("/usr/bin/app")), Some(2));
        // The library's function is nearer than the interpreter's where there is no script of one's own.
        assert_eq!(blamed(&[LIBC, stack[2], stack[6]], Some(exe)), Some(1));
    }

    #[test]
    fn known_lines_win_over_unknown_ones() {
        let exe = "/srv/app";
        let stack = [LIBC, Frame(exe, "helper", ""), Frame(exe, "main", "main.c")];
        assert_eq!(blamed(&stack, Some("/srv/app (deleted)")), Some(2));
    }

    #[test]
    fn without_own_code_there_is_still_an_answer() {
        let stack = [LIBC, Frame("/usr/lib/libfoo.so", "thread", ""), Frame("[vdso]", "x", "")];
        assert_eq!(blamed(&stack, Some("/usr/bin/app")), Some(1));
        assert_eq!(blamed(&[LIBC], None), Some(0));
        assert_eq!(blamed(&[Frame("", "", "")], None), None);
        assert_eq!(blamed::<Frame>(&[], Some("/x")), None);
    }
}
