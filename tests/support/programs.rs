//! The C programs under `tests/programs`, compiled once: again only when a source is newer.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Where the compiled programs are.
#[derive(Debug)]
pub struct Programs {
    /// Runs a command and answers for what is left of it.
    pub keeper: PathBuf,
    /// The leak vectors.
    pub vectors: PathBuf,
    /// The same, linked statically.
    pub vectors_static: PathBuf,
    /// The same for i386; `None` where the compiler can't.
    pub vectors32: Option<PathBuf>,
    /// Leaks whose traces are taken.
    pub traces: PathBuf,
    /// What is attached to, and checks itself.
    pub attached: PathBuf,
    /// The same for i386.
    pub attached32: Option<PathBuf>,
    /// Harmless traffic.
    pub quiet: PathBuf,
    /// Every way of asking a resolver.
    pub dns: PathBuf,
    /// The same for i386.
    pub dns32: Option<PathBuf>,
    /// Bytes over sockets, in every way.
    pub capture: PathBuf,
    /// The same for i386.
    pub capture32: Option<PathBuf>,
    /// SOCKS handshakes by every way of sending.
    pub handshakes: PathBuf,
    /// Bad input.
    pub hostile: PathBuf,
    /// The same for i386.
    pub hostile32: Option<PathBuf>,
}

const FLAGS: &[&str] =
    &["-O1", "-g", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Wno-psabi", "-pthread"];

/// Compiles what must be compiled.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        let vectors = all_but(&sources.join("vectors"), "leaklib.c");
        let mut hostile = all_but(&sources.join("hostile"), "");
        hostile.push(sources.join("vectors/common.c"));
        let capture = [sources.join("capture/capture.c")];
        let library = [sources.join("vectors/leaklib.c")];
        // Red zone: int80() pushes within functions that may keep variables below the stack pointer.
        let wide = ["-mno-red-zone"];
        let narrow = ["-m32"];
        let can_do_narrow = compiles_narrow();
        if can_do_narrow {
            build("leaklib32.so", &library, &["-m32", "-shared", "-fPIC"]);
        } else {
            eprintln!("tests: cc -m32 does not work (gcc-multilib): i386 guests are skipped");
        }
        build("leaklib.so", &library, &["-shared", "-fPIC"]);
        Programs {
            keeper: build("keeper", &[sources.join("keeper.c")], &[]),
            vectors: build("vectors", &vectors, &wide),
            vectors_static: build("vectors-static", &vectors, &["-mno-red-zone", "-static"]),
            vectors32: can_do_narrow.then(|| build("vectors32", &vectors, &narrow)),
            traces: build("traces", &[sources.join("traces.c")], &[]),
            attached: build("attached", &[sources.join("attached.c")], &[]),
            attached32: can_do_narrow.then(|| build("attached32", &[sources.join("attached.c")], &narrow)),
            quiet: build("quiet", &[sources.join("quiet.c"), sources.join("vectors/common.c")], &[]),
            dns: build("dns-client", &[sources.join("dns/client.c")], &[]),
            dns32: can_do_narrow.then(|| build("dns-client32", &[sources.join("dns/client.c")], &narrow)),
            capture: build("capture", &capture, &[]),
            capture32: can_do_narrow.then(|| build("capture32", &capture, &narrow)),
            handshakes: build("handshakes", &[sources.join("handshakes.c")], &[]),
            hostile: build("hostile", &hostile, &[]),
            hostile32: can_do_narrow.then(|| build("hostile32", &hostile, &narrow)),
        }
    })
}

fn all_but(folder: &Path, excluded: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() == Some(OsStr::new("c")) && path.file_name() != Some(OsStr::new(excluded)))
        .collect();
    files.sort();
    files
}

fn compiles_narrow() -> bool {
    let source = target("narrow.c");
    fs::write(&source, "#include <stdio.h>\nint main(void) { return 0; }\n").unwrap();
    let output = target("narrow");
    let built = compiler().arg("-m32").arg(&source).arg("-o").arg(&output).output().unwrap();
    built.status.success() && Command::new(&output).status().is_ok_and(|status| status.success())
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

/// Several test binaries may build at once: each builds under a name of its own, then renames.
fn target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn build(name: &str, sources: &[PathBuf], flags: &[&str]) -> PathBuf {
    let output = target(name);
    let folders =
        sources.iter().filter_map(|source| source.parent()).flat_map(|folder| fs::read_dir(folder).unwrap());
    let newest = folders.filter_map(|entry| changed(&entry.unwrap().path())).max();
    if changed(&output) > newest {
        return output;
    }
    let new = target(&format!("{name}.{}", std::process::id()));
    let mut command = compiler();
    command.args(FLAGS).args(flags).arg("-o").arg(&new).args(sources).arg("-ldl");
    let built = command.output().expect("a C compiler is needed");
    assert!(built.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&built.stderr));
    fs::rename(&new, &output).unwrap();
    output
}
