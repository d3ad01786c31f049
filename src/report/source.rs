//! Source files: where a path leads, how reports name it, and excerpts around a line.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The folder that source files are named relative to.
#[derive(Debug, Clone)]
pub(super) struct Root(PathBuf);

impl Root {
    /// `folder`, or the working directory.
    pub(super) fn new(folder: Option<&Path>) -> Result<Self, String> {
        let folder = folder.unwrap_or(Path::new("."));
        match fs::canonicalize(folder) {
            Ok(folder) => Ok(Self(folder)),
            Err(error) => Err(format!("--source-root {}: {error}", folder.display())),
        }
    }

    #[cfg(test)]
    pub(super) fn at(folder: &str) -> Self {
        Self(folder.into())
    }

    /// The root as a URI that ends in a slash.
    pub(super) fn uri(&self) -> String {
        let mut uri = file_uri(&self.0);
        if !uri.ends_with('/') {
            uri.push('/');
        }
        uri
    }

    /// A file's path relative to the root, or, where it lies elsewhere, its `file:` URI; whether it is
    /// relative.
    pub(super) fn name(&self, file: &str) -> (String, bool) {
        let path = tidy(Path::new(file));
        if path.is_relative() {
            return (percent(&path.to_string_lossy()), true);
        }
        match path.strip_prefix(&self.0) {
            Ok(inside) if !inside.as_os_str().is_empty() => (percent(&inside.to_string_lossy()), true),
            _ => (file_uri(&path), false),
        }
    }

    fn locate(&self, file: &str) -> PathBuf {
        // An absolute path replaces the root.
        self.0.join(tidy(Path::new(file)))
    }
}

/// Without `.` and `name/..`; nothing is looked up.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        let goes_up = part == Component::ParentDir;
        match tidy.components().next_back() {
            _ if part == Component::CurDir => {}
            Some(Component::Normal(_)) if goes_up => {
                tidy.pop();
            }
            Some(Component::RootDir) if goes_up => {}
            _ => tidy.push(part),
        }
    }
    tidy
}

/// A `file:` URI (RFC 8089).
pub(super) fn file_uri(path: &Path) -> String {
    format!("file://{}", percent(&path.to_string_lossy()))
}

/// Escapes what a URI's path may not hold (RFC 3986, pchar and the slash).
fn percent(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=@/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Lines around one line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    /// The number of the first line, from 1.
    pub(super) first: u64,
    /// The lines.
    pub(super) lines: Vec<String>,
}

/// Reads excerpts, each file once.
#[derive(Debug, Default)]
pub(super) struct Sources {
    files: HashMap<String, Option<Vec<String>>>,
    size: usize,
}

/// How many lines before and after.
const AROUND: u64 = 4;
/// The longest line shown, in characters.
const WIDEST: usize = 200;
/// The largest file that is read, and the sum of all, in bytes.
const LARGEST: u64 = 4 << 20;
const ROOM: usize = 64 << 20;
/// What source files are called.
const KINDS: [&str; 50] = [
    "ada", "adb", "ads", "asm", "C", "c", "c++", "cc", "cpp", "cr", "cs", "cxx", "d", "dart", "erl", "ex", "f",
    "f90", "fs", "go", "H", "h", "h++", "hh", "hpp", "hs", "hxx", "inc", "inl", "ipp", "java", "jl", "js", "kt",
    "l", "lua", "m", "ml", "mm", "nim", "pas", "php", "pl", "py", "rb", "rs", "S", "s", "swift", "zig",
];

impl Sources {
    /// The lines around `line`; `None` where the file isn't there, isn't a regular text file, or is too large.
    pub(super) fn excerpt(&mut self, root: &Root, file: &str, line: u64) -> Option<Excerpt> {
        if !self.files.contains_key(file) {
            let lines = if self.size < ROOM { load(&root.locate(file)) } else { None };
            let size = lines.iter().flatten().map(String::len).sum::<usize>().saturating_add(file.len());
            self.size = self.size.saturating_add(size);
            self.files.insert(file.to_owned(), lines);
        }
        let lines = self.files.get(file)?.as_ref()?;
        let first = line.saturating_sub(AROUND).max(1);
        let count = line.saturating_add(AROUND).saturating_sub(first).saturating_add(1);
        let skip = usize::try_from(first.saturating_sub(1)).ok()?;
        let count = usize::try_from(count).ok()?;
        let shown: Vec<_> = lines.iter().skip(skip).take(count).cloned().collect();
        // A file that is shorter than that has changed since.
        let is_there = line > 0 && usize::try_from(line).is_ok_and(|line| line <= lines.len());
        is_there.then_some(Excerpt { first, lines: shown })
    }
}

fn load(path: &Path) -> Option<Vec<String>> {
    // The program that was watched may have named any file in its debug information, or put a link there:
    // what is not source code has no place in a report that is passed on.
    let path = &fs::canonicalize(path).ok()?;
    if !path.extension().and_then(OsStr::to_str).is_some_and(|kind| KINDS.contains(&kind)) {
        return None;
    }
    // It can be a pipe or a device too, on which opening or reading would hang.
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
    if bytes.contains(&0) {
        return None;
    }
    let text = String::from_utf8_lossy(&bytes);
    Some(text.lines().map(|line| line.chars().take(WIDEST).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_to_the_root() {
        let root = Root::at("/work/app");
        assert_eq!(root.name("/work/app/src/a b.c"), ("src/a%20b.c".into(), true));
        assert_eq!(root.name("/work/app/lib/../src/./x.rs"), ("src/x.rs".into(), true));
        assert_eq!(root.name("src/x.rs"), ("src/x.rs".into(), true));
        assert_eq!(root.name("/usr/é#?.c"), ("file:///usr/%C3%A9%23%3F.c".into(), false));
        assert_eq!(root.name("/work/apple.c"), ("file:///work/apple.c".into(), false));
        assert_eq!(root.name("/../../x.c"), ("file:///x.c".into(), false));
        assert_eq!(root.uri(), "file:///work/app/");
        assert_eq!(Root::at("/").uri(), "file:///");
    }

    #[test]
    fn excerpts() {
        let folder = std::env::temp_dir().join(format!("sockstrace-source-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let text: Vec<_> = (1..=20).map(|n| format!("line {n}")).collect();
        fs::write(folder.join("a.c"), text.join("\n")).unwrap();
        let root = Root(folder.clone());
        let mut sources = Sources::default();
        let excerpt = sources.excerpt(&root, "a.c", 2).unwrap();
        assert_eq!((excerpt.first, excerpt.lines.len()), (1, 6));
        assert_eq!(sources.excerpt(&root, "a.c", 10).unwrap().lines[4], "line 10");
        assert_eq!(sources.excerpt(&root, "a.c", 20).unwrap().lines.len(), 5);
        std::os::unix::fs::symlink("/etc/hostname", folder.join("link.c")).unwrap();
        fs::write(folder.join("key.pem"), "secret\n").unwrap();
        for file in ["link.c", "key.pem", "/etc/passwd"] {
            assert_eq!(sources.excerpt(&root, file, 1), None, "{file}");
        }
        for (file, line) in [("a.c", 0), ("a.c", 21), ("a.c", u64::MAX), ("b.c", 1), ("/dev/zero", 1), (".", 1)] {
            assert_eq!(sources.excerpt(&root, file, line), None, "{file}:{line}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
