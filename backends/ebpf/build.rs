//! Compiles the BPF programs with clang (`CLANG` names another one). Where there is none, the crate is built
//! without programs: its backend then says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(have_programs)");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=build.rs");
    let target = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => "-D__TARGET_ARCH_x86",
        Ok("aarch64") => "-D__TARGET_ARCH_arm64",
        _ => return without("the BPF programs don't know this architecture"),
    };
    let Some(clang) = clang() else {
        // A clang that is installed later changes the directory that it comes to.
        println!("cargo::rerun-if-changed=/usr/bin");
        return without("clang is missing: --backend ebpf and --all will not work in this build");
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for object in ["watch", "capture", "trial"] {
        if let Err(why) = compile(&clang, object, target, &out) {
            return without(&why);
        }
    }
    println!("cargo::rustc-cfg=have_programs");
}

/// Compiles one object; a clang that can't is as good as none: the other backends are whole.
fn compile(clang: &Path, object: &str, target: &str, folder: &Path) -> Result<(), String> {
    let out = folder.join(format!("{object}.bpf.o"));
    let built = Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", target])
        .args(["-Wno-unused-function", "-Wno-unused-const-variable", "-Wno-unused-parameter"])
        // No path of the machine that builds in what is built.
        .arg(format!("-fdebug-prefix-map={}=.", env::current_dir().unwrap_or_default().display()))
        .args(["-c", &format!("bpf/{object}.bpf.c"), "-o"])
        .arg(&out)
        .output();
    match built {
        Ok(output) if output.status.success() => {
            strip(&out);
            Ok(())
        }
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stderr).lines().take(20) {
                println!("cargo::warning={line}");
            }
            Err("this clang can't compile the BPF programs".into())
        }
        Err(error) => Err(format!("running {}: {error}", clang.display())),
    }
}

fn without(why: &str) {
    println!("cargo::warning=built without the eBPF backend's programs: {why}");
}

fn clang() -> Option<PathBuf> {
    if let Some(named) = env::var_os("CLANG").filter(|name| !name.is_empty()) {
        return Some(named.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join("clang")).find(|program| program.is_file())
}

/// Takes out the DWARF, of which only BTF is needed; where llvm-strip is missing the object is larger.
fn strip(object: &Path) {
    let stripped = object.with_extension("stripped");
    let done = Command::new("llvm-strip").arg("-g").arg("-o").arg(&stripped).arg(object).status();
    if done.is_ok_and(|status| status.success()) {
        let _: std::io::Result<()> = fs::rename(&stripped, object);
    }
}
