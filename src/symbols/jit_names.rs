//! What JIT compilers write for names into `/tmp/perf-PID.map`: function, file and line in one.

use super::Symbol;

/// What V8 (Node, Chromium) puts before the name of a function: `LazyCompile:~name /path/file.js:12:3`.
const V8: &[&str] = &[
    "JS",
    "LazyCompile",
    "NativeLazyCompile",
    "Function",
    "NativeFunction",
    "InterpretedFunction",
    "Eval",
    "Script",
    "NativeScript",
];

/// How it was compiled: interpreted, baseline, mid-tier, optimised.
const V8_TIERS: &[char] = &['~', '^', '+', '*'];

/// The parts of a name. The line is that at which the function begins: of the place in it nothing is known.
pub(super) fn symbol(name: &str) -> Symbol {
    v8(name).or_else(|| python(name)).or_else(|| java(name)).unwrap_or_else(|| of(name, None, None))
}

fn of(function: &str, file: Option<&str>, line: Option<u32>) -> Symbol {
    Symbol { function: Some(function.into()), file: file.map(Into::into), line, inlined: false }
}

fn v8(name: &str) -> Option<Symbol> {
    let (tag, rest) = name.split_once(':')?;
    if !V8.contains(&tag) {
        return None;
    }
    let rest = rest.strip_prefix(V8_TIERS).unwrap_or(rest);
    let nameless = match tag {
        "Script" | "NativeScript" => "(script)",
        "Eval" => "(eval)",
        _ => "(anonymous)",
    };
    let with_line = || {
        let (rest, column) = rest.rsplit_once(':')?;
        let (rest, line) = rest.rsplit_once(':')?;
        let _: u32 = column.parse().ok()?;
        Some((rest, line.parse().ok()?))
    };
    let Some((rest, line)) = with_line() else {
        let function = rest.trim();
        return Some(of(if function.is_empty() { nameless } else { function }, None, None));
    };
    let (function, file) = rest.split_at(file_from(rest)?);
    let function = if function.trim().is_empty() { nameless } else { function.trim() };
    let file = file.trim_start();
    let file = file.strip_prefix("file://").unwrap_or(file);
    Some(of(function, Some(file).filter(|file| !file.is_empty()), Some(line)))
}

/// Where the file begins in `name file`. Either may have blanks (`get size`), but most files begin like one.
fn file_from(text: &str) -> Option<usize> {
    const BEGINNINGS: &[&str] = &[" /", " file:", " node:", " http:", " https:", " wasm:", " internal/", " ["];
    let known = BEGINNINGS.iter().filter_map(|beginning| text.find(beginning)).min();
    known.or_else(|| text.rfind(' '))
}

/// CPython 3.12 and newer with `-X perf`: `py::function:/path/file.py`.
fn python(name: &str) -> Option<Symbol> {
    let (function, file) = name.strip_prefix("py::")?.split_once(':')?;
    Some(of(function, Some(file), None))
}

/// perf-map-agent: `Ljava/lang/String;::hashCode`. What the JVM itself writes (`jcmd PID Compiler.perfmap`) is
/// readable: `int java.lang.String.hashCode()`.
fn java(name: &str) -> Option<Symbol> {
    let (class, method) = name.strip_prefix('L')?.split_once(";::")?;
    let is_class = !class.is_empty() && !class.contains([' ', ':', '.']);
    is_class.then(|| of(&format!("{}.{method}", class.replace('/', ".")), None, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart() {
        for (name, function, file, line) in [
            ("LazyCompile:~fn /srv/file.js:12:3", "fn", Some("/srv/file.js"), Some(12)),
            ("JS:*fn /srv/my file.js:12:3", "fn", Some("/srv/my file.js"), Some(12)),
            ("JS:^get size file:///srv/a.mjs:7:1", "get size", Some("/srv/a.mjs"), Some(7)),
            ("Function:~ /srv/file.js:1:20", "(anonymous)", Some("/srv/file.js"), Some(1)),
            ("Script:~ /srv/file.js:1:1", "(script)", Some("/srv/file.js"), Some(1)),
            (
                "LazyCompile:~Module._load node:internal/modules/cjs/loader:935:24",
                "Module._load",
                Some("node:internal/modules/cjs/loader"),
                Some(935),
            ),
            ("Eval:~ [eval]:1:1", "(eval)", Some("[eval]"), Some(1)),
            ("LazyCompile:~fn file.js:12:3", "fn", Some("file.js"), Some(12)),
            ("LazyCompile:~fn", "fn", None, None),
            ("Builtin:ArrayMap", "Builtin:ArrayMap", None, None),
            ("py::outer:/srv/a.py", "outer", Some("/srv/a.py"), None),
            ("Ljava/util/HashMap;::get", "java.util.HashMap.get", None, None),
            ("Lambda", "Lambda", None, None),
            ("int java.lang.String.hashCode()", "int java.lang.String.hashCode()", None, None),
            ("Interpreter", "Interpreter", None, None),
            ("JS:", "(anonymous)", None, None),
            ("", "", None, None),
        ] {
            assert_eq!(symbol(name), of(function, file, line), "{name}");
        }
    }
}
