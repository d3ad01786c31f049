//! Other languages and compilers.

use super::compare::{compare, lines};
use super::guest::{Folder, Guest, is_left_out};
use sockstrace::unwind::{How, Limits};

/// The last part of a function's name, without its types. `None` where that was cut in the middle.
fn last(function: Option<&str>) -> Option<String> {
    let (mut plain, mut depth) = (String::new(), 0_i32);
    for letter in function?.replace("{{closure}}", "{closure#0}").chars() {
        depth += i32::from(letter == '<');
        if depth == 0 {
            plain.push(letter);
        }
        depth -= i32::from(letter == '>');
    }
    let name = plain.rsplit("::").find(|part| !part.is_empty())?.to_owned();
    (depth == 0).then_some(name)
}

#[test]
fn rust() {
    for flags in [
        "-g -Copt-level=0 -Zunstable-options -Csymbol-mangling-version=legacy",
        "-g -Copt-level=2 -Zunstable-options -Csymbol-mangling-version=legacy",
        "-g -Copt-level=2 -Csymbol-mangling-version=v0",
        "-Copt-level=2 -Zunstable-options -Csymbol-mangling-version=legacy -Cstrip=none",
        "-Copt-level=2 -Csymbol-mangling-version=v0 -Cstrip=none",
    ] {
        let folder = Folder::new();
        let program = folder.compile("rustc", "chain.rs", flags).unwrap();
        eprintln!("{flags}");
        let guest = Guest::start(&program, &[]);
        if flags.starts_with("-g") {
            // gdb writes the names that DWARF has, we those that the linker has: as a rule the same, with the
            // types left out here, there, or nowhere.
            let (stack, _) = guest.trace(guest.pid(), Limits::default());
            let (ours, gdbs) = (lines(&stack), guest.gdb(guest.pid()));
            assert_eq!(ours.len(), gdbs.len(), "{ours:#?} {gdbs:#?}");
            for (ours, gdbs) in ours.iter().zip(&gdbs) {
                assert_eq!((&ours.location, ours.inlined), (&gdbs.location, gdbs.inlined));
                let names = (last(ours.function.as_deref()), last(gdbs.function.as_deref()));
                assert!(names.0 == names.1 || names.0.is_none() || names.1.is_none(), "{ours:?} {gdbs:?}");
            }
            continue;
        }
        // What the symbol table alone gives: demangled, without hashes.
        let (stack, _) = guest.trace(guest.pid(), Limits::default());
        assert_eq!(stack.truncated, None);
        let functions: Vec<_> = stack.frames.iter().filter_map(|frame| frame.function.as_deref()).collect();
        for function in ["chain::stop", "chain::through", "chain::generic", "chain::main"] {
            let found =
                functions.iter().any(|name| *name == function || name.starts_with(&format!("{function}::<")));
            assert!(found, "{function} in {functions:#?}");
        }
        let draw = "<chain::shapes::Circle<T> as chain::shapes::Shape>::draw";
        assert!(
            functions.iter().any(|name| *name == draw || *name == draw.replace("<T>", "<u8>")),
            "{functions:#?}"
        );
    }
}

#[test]
fn clang() {
    for flags in ["-g -O0", "-g -O2", "-gdwarf-4 -O2", "-g -O2 -fomit-frame-pointer -m32"] {
        let folder = Folder::new();
        let Some(program) = folder.compile("clang", "chain.c", flags) else {
            eprintln!("no clang");
            return;
        };
        eprintln!("{flags}");
        let guest = Guest::start(&program, &[]);
        compare(&guest, guest.pid());
    }
}

#[test]
fn musl() {
    for flags in ["-g -O0", "-g -O2", "-g -O2 -static"] {
        let folder = Folder::new();
        let Some(program) = folder.compile("musl-gcc", "chain.c", flags) else {
            assert!(is_left_out("musl-gcc"));
            return;
        };
        let guest = Guest::start(&program, &[]);
        let (stack, _) = guest.trace(guest.pid(), Limits::default());
        let truth = ["stop", "innermost", "middle", "compare", "sort", "through_pointer", "main"];
        let mut found: Vec<_> = lines(&stack).into_iter().filter_map(|line| line.function).collect();
        found.retain(|function| truth.contains(&&**function));
        // The library has nothing by which its frames could be left for certain: a function that called it may
        // be passed over, but none is invented, and what is behind an uncertain step says so.
        let mut rest = truth.iter();
        assert!(found.iter().all(|function| rest.any(|other| other == function)), "{flags}: {stack:#?}");
        assert!(found.iter().any(|function| function == "compare"), "{flags}: {stack:#?}");
        let certain = stack.frames.iter().take_while(|frame| frame.how != How::Guess).count();
        assert!(stack.frames.iter().skip(certain).all(|frame| frame.how == How::Guess));
        assert!(flags == "-g -O0" || found.iter().any(|function| function == "main"), "{flags}: {stack:#?}");
    }
}
