//! Which rule covers a UNIX socket's name.

use crate::operation::UnixAddress;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A daemon that resolves names for whoever connects: asking it is DNS. Refused, the C library asks by DNS
/// itself. (systemd-resolved can be asked by D-Bus too, which carries much else: that is judged with
/// `--unix leak` alone.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// systemd-resolved (varlink) and, by multicast, Avahi: for names alone.
    OfNames,
    /// nscd, which is asked for users and groups too, and what for can't be told from a connect.
    OfAnything,
}

/// Where they listen.
pub const RESOLVERS: [(&str, Resolver); 6] = [
    ("/run/systemd/resolve/io.systemd.Resolve", Resolver::OfNames),
    ("/var/run/systemd/resolve/io.systemd.Resolve", Resolver::OfNames),
    ("/run/avahi-daemon/socket", Resolver::OfNames),
    ("/var/run/avahi-daemon/socket", Resolver::OfNames),
    ("/run/nscd/socket", Resolver::OfAnything),
    ("/var/run/nscd/socket", Resolver::OfAnything),
];

/// Who resolves names there. Where a process has mounts of its own, the path comes by way of
/// /proc/PID/root.
#[must_use]
pub fn resolver_at(address: &UnixAddress) -> Option<Resolver> {
    let UnixAddress::Path(path) = address else { return None };
    let path = path.to_str()?;
    let own = path.strip_prefix("/proc/").and_then(|path| path.split_once("/root/"));
    let own = own.filter(|(pid, _)| pid.bytes().all(|byte| byte.is_ascii_digit())).map(|(_, path)| path);
    let is_here = |resolver: &str| match own {
        Some(own) => resolver.strip_prefix('/') == Some(own),
        None => resolver == path,
    };
    RESOLVERS.iter().find(|(resolver, _)| is_here(resolver)).map(|(_, kind)| *kind)
}

/// Rules (as indices) by globs on paths and on abstract names.
#[derive(Debug, Default)]
pub(crate) struct UnixGlobs {
    paths: Globs,
    names: Globs,
}

#[derive(Debug, Default)]
struct Globs {
    set: GlobSet,
    rules: Vec<usize>,
}

thread_local! {
    /// Reused by every match, so that an allowed call allocates nothing.
    static MATCHES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl UnixGlobs {
    /// `rules`: globs as in `--allow unix:GLOB`, without the prefix.
    pub(crate) fn new<'r>(rules: impl IntoIterator<Item = (&'r str, usize)>) -> Result<Self, String> {
        let (mut paths, mut names) = (Vec::new(), Vec::new());
        for (glob, rule) in rules {
            match glob.strip_prefix('@') {
                Some(name) => names.push((name, rule)),
                // Nobody means "paths without a slash": there are none.
                None if glob == "*" => paths.push(("**", rule)),
                None => paths.push((glob, rule)),
            }
        }
        Ok(Self { paths: Globs::new(&paths, true)?, names: Globs::new(&names, false)? })
    }

    pub(crate) fn find(&self, address: &UnixAddress) -> Option<usize> {
        match address {
            UnixAddress::Path(path) => self.paths.find(path),
            UnixAddress::Abstract(name) => self.names.find(OsStr::from_bytes(name)),
            UnixAddress::Unnamed => None,
        }
    }
}

impl Globs {
    fn new(globs: &[(&str, usize)], stops_at_slash: bool) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for (glob, _) in globs {
            let glob = GlobBuilder::new(glob).literal_separator(stops_at_slash).build();
            set.add(glob.map_err(|error| error.kind().to_string())?);
        }
        let set = set.build().map_err(|error| error.kind().to_string())?;
        Ok(Self { set, rules: globs.iter().map(|(_, rule)| *rule).collect() })
    }

    fn find(&self, name: &OsStr) -> Option<usize> {
        MATCHES.with_borrow_mut(|matches| {
            self.set.matches_into(Path::new(name), matches);
            matches.iter().filter_map(|&index| self.rules.get(index)).min().copied()
        })
    }
}

/// Whether `glob` (without `unix:`) can be compiled and can match something.
pub(crate) fn check_glob(glob: &str) -> Result<(), String> {
    if !glob.starts_with(['/', '@', '*', '?', '[', '{']) {
        return Err("a UNIX socket's path starts with /, an abstract name with @".into());
    }
    UnixGlobs::new([(glob, 0)]).map(|_| ())
}

/// `path` with the longest of its ancestors (itself included) that `canonicalize` knows put in place of
/// what was written; `None` where nothing changes.
pub(super) fn with_resolved_prefix(
    path: &Path,
    canonicalize: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Option<PathBuf> {
    path.ancestors()
        .find_map(|ancestor| {
            let resolved = canonicalize(ancestor)?;
            let rest = path.strip_prefix(ancestor).ok()?;
            // join("") would add a slash.
            Some(if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) })
        })
        .filter(|resolved| resolved != path)
}

/// As [`with_resolved_prefix`] for the part of a glob before its first special character.
pub(super) fn glob_with_resolved_prefix(
    glob: &str,
    canonicalize: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Option<String> {
    let special = glob.find(['*', '?', '[', '{', '\\']).unwrap_or(glob.len());
    let (literal, rest) = if special == glob.len() {
        (glob, "")
    } else {
        // The component with the special character stays as it is.
        let slash = glob.get(..special)?.rfind('/')?;
        (glob.get(..slash)?, glob.get(slash..)?)
    };
    let resolved = with_resolved_prefix(Path::new(literal), canonicalize)?;
    let resolved = resolved.to_str()?;
    Some(globset::escape(resolved) + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> UnixAddress {
        UnixAddress::Path(text.into())
    }

    fn matches(glob: &str, address: &UnixAddress) -> bool {
        UnixGlobs::new([(glob, 0)]).unwrap().find(address).is_some()
    }

    #[test]
    fn a_star_stops_at_a_slash_and_two_do_not() {
        assert!(matches("/run/*.sock", &path("/run/x.sock")));
        assert!(!matches("/run/*.sock", &path("/run/y/x.sock")));
        assert!(matches("/run/**", &path("/run/y/x.sock")));
        assert!(!matches("/run/**", &path("/runx")));
        assert!(matches("*", &path("/run/y/x.sock")));
        assert!(matches("/tmp/{a,b}?", &path("/tmp/b1")));
        assert!(!matches("/run/x", &path("/run/x/y")));
        let odd = UnixAddress::Path(OsStr::from_bytes(b"/run/\xff\n.sock").into());
        assert!(matches("/run/*.sock", &odd));
    }

    #[test]
    fn resolvers_are_known_by_their_paths() {
        for yes in ["/run/nscd/socket", "/proc/17/root/run/systemd/resolve/io.systemd.Resolve"] {
            assert!(resolver_at(&path(yes)).is_some(), "{yes}");
        }
        for no in
            ["/run/nscd/socket2", "/proc/self/root/run/nscd/socket", "/proc/1/root/x/run/nscd/socket", "/run/x"]
        {
            assert_eq!(resolver_at(&path(no)), None, "{no}");
        }
        assert_eq!(resolver_at(&UnixAddress::Abstract(b"/run/nscd/socket".to_vec())), None);
    }

    #[test]
    fn paths_and_abstract_names_do_not_mix() {
        let name = UnixAddress::Abstract(b"/tmp/.X11-unix/X0".to_vec());
        assert!(matches("@/tmp/*", &name));
        assert!(!matches("/tmp/**", &name));
        assert!(!matches("*", &name));
        assert!(!matches("@/tmp/*", &path("/tmp/.X11-unix/X0")));
        assert!(!matches("@*", &path("@x")));
        assert!(matches("@a*b", &UnixAddress::Abstract(b"a\0b".to_vec())));
        assert!(!matches("@*", &UnixAddress::Unnamed));
    }

    #[test]
    fn the_rule_written_first_is_named() {
        let globs = UnixGlobs::new([("/b/**", 4), ("/b/x", 2), ("/**", 9)]).unwrap();
        assert_eq!(globs.find(&path("/b/x")), Some(2));
        assert_eq!(globs.find(&path("/b/y")), Some(4));
        assert_eq!(globs.find(&path("/c")), Some(9));
    }

    #[test]
    fn globs_that_cannot_match_are_refused() {
        assert!(check_glob("run/x").is_err());
        assert!(check_glob("").is_err());
        assert!(check_glob("/run/[").is_err());
        assert!(check_glob("/run/*").is_ok());
    }

    #[test]
    fn the_literal_part_of_a_glob_is_resolved() {
        let link = |path: &Path| match path.to_str()? {
            "/var/run" => Some(PathBuf::from("/run")),
            "/s" => Some(PathBuf::from("/odd[1]")),
            "/run" | "/" => Some(path.to_owned()),
            _ => None,
        };
        let resolved = |glob| glob_with_resolved_prefix(glob, &link);
        assert_eq!(resolved("/var/run/x*/y").as_deref(), Some("/run/x*/y"));
        assert_eq!(resolved("/var/run/missing").as_deref(), Some("/run/missing"));
        assert_eq!(resolved("/var/run*"), None);
        assert_eq!(resolved("/run/x*"), None);
        assert_eq!(resolved("**"), None);
        assert!(matches(&resolved("/s/*").unwrap(), &path("/odd[1]/x")));
    }
}
