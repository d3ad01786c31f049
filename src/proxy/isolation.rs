//! Credentials that keep connections apart at the proxy: fresh and random, or the user's.

use super::client::Target;
use crate::config::{IsolateBy, IsolateFormat};
use crate::policy::Credentials;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

/// Tor's extended format, type 0: the username says so, and the password is the isolation field
/// (socks-extensions.txt, *Extended authentication*).
const TOR_USERNAME: &[u8] = b"<torS0X>0";

/// Random bytes in a credential.
const RANDOM: usize = 16;

/// Remembered credentials; beyond this many the oldest knowledge is lost, which only isolates more.
const REMEMBERED: usize = 65536;

/// Hands credentials out.
#[derive(Debug)]
pub struct Isolation {
    by: Option<IsolateBy>,
    format: IsolateFormat,
    own: Option<Credentials>,
    known: Mutex<HashMap<Key, Credentials>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Destination(Target),
    /// A process id, and when that process began, because ids are reused.
    Process(i32, u64),
    Run,
}

impl Isolation {
    /// `own` are the user's credentials, from the proxy's URL.
    #[must_use]
    pub fn new(by: Option<IsolateBy>, format: IsolateFormat, own: Option<Credentials>) -> Self {
        Self { by, format, own, known: Mutex::default() }
    }

    /// The credentials for what process `pid` asks of `target`. Names that are resolved belong to no process (many
    /// may wait for the same one), associations for datagrams to no destination: what belongs nowhere gets fresh
    /// ones.
    ///
    /// # Errors
    /// Where there are no random bytes to be had.
    pub fn credentials(&self, pid: Option<Pid>, target: Option<&Target>) -> Result<Option<Credentials>, Errno> {
        let key = match (self.by, pid) {
            (None, _) => return Ok(self.own.clone()),
            (Some(IsolateBy::Destination), _) => match target {
                None => return self.fresh().map(Some),
                Some(Target::Address(address)) => {
                    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                    Key::Destination(Target::Address(address))
                }
                Some(name) => Key::Destination(name.clone()),
            },
            (Some(IsolateBy::Process), Some(pid)) => Key::Process(pid.as_raw(), began(pid).unwrap_or(0)),
            (Some(IsolateBy::Connection), _) | (Some(IsolateBy::Process), None) => return self.fresh().map(Some),
            (Some(IsolateBy::Run), _) => Key::Run,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credentials) = known.get(&key) {
            return Ok(Some(credentials.clone()));
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let fresh = self.fresh()?;
        known.insert(key, fresh.clone());
        Ok(Some(fresh))
    }

    fn fresh(&self) -> Result<Credentials, Errno> {
        let username = match self.format {
            IsolateFormat::Random => random()?,
            IsolateFormat::Tor => TOR_USERNAME.to_vec(),
        };
        Ok(Credentials { username, password: random()? })
    }
}

/// When a process began: proc_pid_stat(5), field 22. The second field may hold anything, spaces too.
fn began(pid: Pid) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end..)?).ok()?;
    rest.split_ascii_whitespace().nth(20)?.parse().ok()
}

/// Random bytes in hexadecimal: every proxy takes them.
fn random() -> Result<Vec<u8>, Errno> {
    let mut bytes = [0; RANDOM];
    let failed = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).map_err(failed)?;
    let text = bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(isolation: &Isolation, pid: i32, destination: &str) -> (Vec<u8>, Vec<u8>) {
        let target = Target::Address(destination.parse().unwrap());
        let credentials = isolation.credentials(Some(Pid::from_raw(pid)), Some(&target)).unwrap().unwrap();
        (credentials.username, credentials.password)
    }

    #[test]
    fn credentials_are_shared_by_what_belongs_together() {
        let own = std::process::id() as i32;
        // Same process other destination, same destination other process, both the same.
        for (by, expected) in [
            (IsolateBy::Connection, [false, false, false]),
            (IsolateBy::Destination, [false, true, true]),
            (IsolateBy::Process, [true, false, true]),
            (IsolateBy::Run, [true, true, true]),
        ] {
            let isolation = Isolation::new(Some(by), IsolateFormat::Random, None);
            let first = given(&isolation, own, "192.0.2.1:80");
            let others = [(own, "192.0.2.1:81"), (1, "192.0.2.1:80"), (own, "[::ffff:192.0.2.1]:80")];
            assert_eq!(others.map(|(pid, to)| given(&isolation, pid, to) == first), expected, "{by:?}");
            assert!(first.0.len() == 32 && first.1.len() == 32 && first.0 != first.1);
        }
    }

    #[test]
    fn tors_format_and_the_users_own() {
        let isolation = Isolation::new(Some(IsolateBy::Connection), IsolateFormat::Tor, None);
        let first = given(&isolation, 1, "192.0.2.1:80");
        assert_eq!(first.0, b"<torS0X>0");
        assert_ne!(first, given(&isolation, 1, "192.0.2.1:80"));
        let own = Credentials { username: b"u".to_vec(), password: b"p".to_vec() };
        let isolation = Isolation::new(None, IsolateFormat::Random, Some(own));
        assert_eq!(given(&isolation, 1, "192.0.2.1:80"), (b"u".to_vec(), b"p".to_vec()));
        let isolation = Isolation::new(None, IsolateFormat::Random, None);
        assert_eq!(isolation.credentials(None, Some(&Target::Name("a.example".into(), 80))), Ok(None));
    }
}
