//! Names as their authors wrote them.

use std::sync::Arc;

/// Longer symbols are shown as they are: demangling takes more than linear time.
const LONGEST: usize = 4096;

/// What was mangled by a compiler (Rust v0 and legacy, C++), demangled; anything else as it is.
#[must_use]
pub fn demangle(name: &[u8]) -> Arc<str> {
    let text = String::from_utf8_lossy(name);
    if name.len() > LONGEST {
        return text.into();
    }
    // A clone of a function by the compiler (`.part.0`, `.constprop.1`, `.cold`) is the function.
    if (text.starts_with("_R") || text.starts_with("_ZN"))
        && let Ok(rust) = rustc_demangle::try_demangle(&text)
    {
        let mut short = bounded(format_args!("{rust:#}"));
        if let Some(at) = short.find(".llvm.") {
            short.truncate(at);
        }
        return short.into();
    }
    if text.starts_with("_Z") {
        let base = text.split_once('.').map_or(&*text, |(base, _)| base);
        let options = cpp_demangle::ParseOptions::default().recursion_limit(96);
        if let Ok(symbol) = cpp_demangle::Symbol::new_with_options(base, &options) {
            let options = cpp_demangle::DemangleOptions::default().recursion_limit(96);
            if let Ok(name) = symbol.demangle_with_options(&options)
                && name.len() <= 4 * LONGEST
            {
                return name.into();
            }
        }
    }
    text.into()
}

/// Formats no more than some kilobytes: a short mangled name may stand for an endless one.
fn bounded(arguments: std::fmt::Arguments<'_>) -> String {
    struct Bounded(String);
    impl std::fmt::Write for Bounded {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            if self.0.len().saturating_add(text.len()) > 4 * LONGEST {
                return Err(std::fmt::Error);
            }
            self.0.push_str(text);
            Ok(())
        }
    }
    let mut text = Bounded(String::new());
    let _ = std::fmt::write(&mut text, arguments);
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled() {
        for (mangled, name) in [
            ("connect", "connect"),
            ("_ZN2ns5Class3runEi", "ns::Class::run(int)"),
            ("_ZN2ns5Class3runEi.part.0", "ns::Class::run(int)"),
            ("_ZN4core3fmt5write17h01234567890abcdeE", "core::fmt::write"),
            ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
            ("_Z", "_Z"),
            ("_Zgarbage", "_Zgarbage"),
        ] {
            assert_eq!(&*demangle(mangled.as_bytes()), name);
        }
        assert_eq!(&*demangle(b"\xff"), "\u{fffd}");
    }
}
