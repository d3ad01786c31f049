//! The manual's pages and the completions.

use crate::support::run::sockstrace;
use crate::tool::{Folder, call, said};
use std::path::Path;
use std::process::Command;

#[test]
fn pages_have_every_option_and_groff_reads_them() {
    let folder = Folder::new();
    for (words, expected) in [
        (&["manual"][..], &["on\\-leak", "SYNOPSIS", "sockstrace\\-report", "Exit status"][..]),
        (&["manual", "report"], &["sarif", "diff", "any\\-destination"]),
        (&["manual", "learn"], &["output"]),
    ] {
        let said = call(&folder.0, words, b"");
        assert_eq!((said.status, said.stderr.as_str()), (0, ""));
        assert!(said.stdout.contains(".TH sockstrace"), "{words:?}");
        for word in expected {
            assert!(said.stdout.contains(word), "{words:?} lacks {word}:\n{}", said.stdout);
        }
    }
    let unknown = call(&folder.0, ["manual", "nonsense"], b"");
    assert!(unknown.status == 125 && unknown.stderr.contains("nonsense"), "{unknown:?}");
}

#[test]
fn shells_take_the_completions() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = call(&folder.0, ["completions", shell], b"");
        assert_eq!((script.status, script.stderr.as_str()), (0, ""), "{shell}");
        assert!(script.stdout.contains("on-leak") && script.stdout.contains("sarif"), "{shell}");
        folder.file(shell, script.stdout);
    }
    // What bash offers after what was typed.
    let offered = |words: &str| {
        let ask = format!(
            "source ./bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _sockstrace sockstrace \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[*]}}\""
        );
        let said = said(Command::new("bash").args(["-c", &ask]).current_dir(&folder.0), b"");
        assert_eq!(said.stderr, "", "{words}");
        said.stdout
    };
    assert!(offered("sockstrace --on-").contains("--on-leak"));
    assert!(offered("sockstrace report --sar").contains("--sarif"));
}

/// What `cargo deb` would pack is there, and is all of it.
#[test]
fn the_package_has_every_page_and_completion() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let folder = Folder::new();
    let generated =
        said(Command::new(root.join("packaging/generate.sh")).arg(sockstrace()).arg(folder.path("package")), b"");
    assert_eq!((generated.status, generated.stderr.as_str()), (0, ""));
    let mut waiting: Vec<String> = std::fs::read_dir(folder.path("package"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    for asset in assets {
        let [from, to, mode] = [0, 1, 2].map(|index| asset[index].as_str().unwrap());
        assert!(to.starts_with("usr/") && to.ends_with('/'), "{asset}");
        assert_eq!(mode, if to == "usr/bin/" { "755" } else { "644" }, "{asset}");
        if let Some(name) = from.strip_prefix("target/package/") {
            let place = waiting.iter().position(|waiting| waiting == name);
            waiting.remove(place.unwrap_or_else(|| panic!("{from} is not generated")));
            let folder =
                if Path::new(name).extension().is_some_and(|kind| kind == "1") { "man1" } else { "completions" };
            assert!(to.contains(folder), "{asset}");
        } else if from != "target/release/sockstrace" {
            assert!(root.join(from).is_file(), "{asset}");
        }
    }
    assert_eq!(waiting, [""; 0], "generated, but not packed");
}
