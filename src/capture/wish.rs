//! What is to be captured.

use crate::operation::{Address, Family};
use crate::policy::UnixGlobs;
use std::path::PathBuf;

/// What `--capture` and its companions ask for.
#[derive(Debug)]
pub struct Wish {
    /// Where everything goes.
    pub directory: PathBuf,
    /// Sockets of these families; `None`: of any.
    pub families: Option<Vec<Family>>,
    /// UNIX sockets alone whose path or abstract name matches.
    pub paths: Option<Paths>,
    /// Bytes of one call, at most.
    pub per_event: u64,
    /// Bytes of all calls, at most.
    pub total: u64,
    /// How many descriptors are looked at for sockets that are there before PROGRAM makes its first call.
    pub descriptors: usize,
}

/// A glob on paths and abstract names.
#[derive(Debug)]
pub struct Paths(UnixGlobs);

impl Wish {
    /// Bytes of one call unless the user says otherwise: what a reader takes into memory at once.
    pub const PER_EVENT: u64 = 64 << 20;
    /// Bytes of all calls unless the user says otherwise.
    pub const TOTAL: u64 = 4 << 30;
    /// Descriptors that are looked at unless the user says otherwise.
    pub const DESCRIPTORS: usize = 4096;

    /// Whether sockets of this family are captured.
    #[must_use]
    pub fn wants_family(&self, family: Family) -> bool {
        self.families.as_ref().is_none_or(|families| families.contains(&family))
    }

    /// Whether sockets or messages with this address are captured.
    #[must_use]
    pub fn wants_address(&self, address: Option<&Address>) -> bool {
        let Some(paths) = &self.paths else { return true };
        matches!(address, Some(Address::Unix(unix)) if paths.0.find(unix).is_some())
    }
}

impl Paths {
    /// # Errors
    /// Where the glob makes no sense.
    pub fn new(glob: &str) -> Result<Self, String> {
        crate::policy::check_glob(glob)?;
        UnixGlobs::new([(glob, 0)]).map(Self)
    }
}

/// The families of a list of names; `all` among them is any.
///
/// # Errors
/// The name that is none.
pub fn families(names: &[String]) -> Result<Option<Vec<Family>>, String> {
    if names.iter().any(|name| name == "all") {
        return Ok(None);
    }
    let family = |name: &String| {
        let named = |number: &i32| Family(*number).name() == Some(name.as_str());
        (1..64).find(named).map(Family).ok_or_else(|| name.clone())
    };
    names.iter().map(family).collect::<Result<_, _>>().map(Some)
}

/// A number of bytes: `1000`, `64K`, `10M`, `2G`.
///
/// # Errors
/// What would be accepted.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len().saturating_sub(1)), 1 << 10),
        Some(b'm' | b'M') => (text.get(..text.len().saturating_sub(1)), 1 << 20),
        Some(b'g' | b'G') => (text.get(..text.len().saturating_sub(1)), 1 << 30),
        _ => (Some(text), 1_u64),
    };
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<u64>().ok()).and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| "accepted: a number of bytes, or of KiB, MiB, GiB with K, M, G behind it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!((bytes("0"), bytes("64K"), bytes("2g")), (Ok(0), Ok(65536), Ok(2 << 30)));
        for wrong in ["", "K", "-1", "1.5M", "1T", "99999999999999999999", "18446744073709551615K", "é"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn families_have_names() {
        let of = |names: &[&str]| families(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(of(&["unix", "inet6"]), Ok(Some(vec![Family::UNIX, Family::INET6])));
        assert_eq!(of(&["unix", "all"]), Ok(None));
        assert_eq!(of(&["tcp"]), Err("tcp".into()));
    }
}
