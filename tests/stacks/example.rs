//! The example of how to use the library: the stacks of another process.

use super::guest::{Folder, Guest, run};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The example, which a whole `cargo test` has built already.
fn example() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("examples/stack");
    if !path.exists() {
        let mut built = Command::new(env!("CARGO"));
        built.args(["build", "-q", "--example", "stack"]);
        assert!(built.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    }
    path
}

#[test]
fn the_example_prints_another_process() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", "-g -O2").unwrap();
    let guest = Guest::start(&program, &[]);
    for _ in 0..2 {
        let output = Command::new(example()).arg(guest.pid().to_string()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let mut lines = text.lines();
        assert_eq!(lines.next().unwrap(), format!("TID {}:", guest.pid()));
        // #2   0x000055d0c21cd1c5 innermost /…/chain.c:7 [inlined]
        let frames: Vec<(String, Option<String>, bool)> = lines
            .map(|line| {
                let mut words = line.split_whitespace().skip(2);
                let function = words.next().unwrap().to_owned();
                let location = words.next().filter(|word| word.contains('/') && word.contains(':'));
                let location = location.map(|word| word.rsplit('/').next().unwrap().to_owned());
                (function, location, line.contains("[inlined]"))
            })
            .collect();
        let gdbs = guest.gdb(guest.pid());
        assert_eq!(frames.len(), gdbs.len(), "{text}");
        for ((function, location, is_inlined), gdbs) in frames.iter().zip(&gdbs) {
            assert_eq!((location, *is_inlined), (&gdbs.location, gdbs.inlined), "{text}");
            let alias = gdbs.location.is_none();
            assert!(alias || gdbs.function.as_ref() == Some(function), "{text}");
        }
    }
    // It goes on, and still waits.
    assert!(std::fs::read_to_string(format!("/proc/{}/syscall", guest.pid())).unwrap().starts_with("34 "));
}

#[test]
fn what_it_says_of_others() {
    let said = |arguments: &[&str]| Command::new(example()).args(arguments).output().unwrap();
    for arguments in [&[][..], &["x"], &["999999999"]] {
        let output = said(arguments);
        assert!(!output.status.success() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn what_debuginfod_has_fetched_before() {
    const ID: &str = "5eed00000000000000000000000000000000c0de";
    let folder = Folder::new();
    let program = folder.compile("gcc", "chain.c", &format!("-g -O2 -Wl,--build-id=0x{ID}")).unwrap();
    let debug = folder.file("debug");
    run("objcopy", &["--only-keep-debug", &program, &debug]);
    run("strip", &["--strip-all", &program]);
    let guest = Guest::start(&program, &[]);
    // Nobody is ever asked.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let nowhere = folder.file("nowhere");
    let knows = |variable: &str, value: &str| {
        let mut command = Command::new(example());
        command.arg(guest.pid().to_string()).env("DEBUGINFOD_URLS", &url);
        command.env_remove("DEBUGINFOD_CACHE_PATH").env_remove("XDG_CACHE_HOME").env("HOME", &nowhere);
        let output = command.env(variable, value).output().unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).contains("/chain.c:7 [inlined]")
    };
    let put = |cache: &str, file: &str| {
        let place = Path::new(cache).join(ID);
        fs::create_dir_all(&place).unwrap();
        fs::copy(file, place.join("debuginfo")).unwrap();
    };
    let (own, xdg, home) = (folder.file("own"), folder.file("xdg"), folder.file("home"));
    assert!(!knows("DEBUGINFOD_CACHE_PATH", &own));
    put(&own, &debug);
    assert!(knows("DEBUGINFOD_CACHE_PATH", &own));
    put(&format!("{xdg}/debuginfod_client"), &debug);
    assert!(knows("XDG_CACHE_HOME", &xdg));
    put(&format!("{home}/.cache/debuginfod_client"), &debug);
    assert!(knows("HOME", &home));
    // That of another program is not believed.
    put(&own, "/bin/true");
    assert!(!knows("DEBUGINFOD_CACHE_PATH", &own));
    assert_eq!(server.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
