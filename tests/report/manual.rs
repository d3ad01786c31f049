//! The manual's pages and the completions.

use crate::tool::{Folder, call, said};
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
