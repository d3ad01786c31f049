//! Names and addresses that the proxy resolves, each asked for once at a time.
//!
//! Programs ask for A and AAAA side by side, and again when an answer is late: all of them wait for one
//! request to the proxy, which goes on when an asker has given up, so that the next one finds the answer.

use super::asker::{Asker, HOST_UNREACHABLE};
use crate::proxy::client::blocking::Failure;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the proxy may take: Tor gives a stream two minutes, but nobody waits for that.
const PATIENCE: Duration = Duration::from_secs(30);

/// SOCKS replies tell no TTL; Tor's own DNSPort says as much.
const LIFETIME: Duration = Duration::from_secs(60);
/// For a name that isn't there.
const NEGATIVE_LIFETIME: Duration = Duration::from_secs(5);
/// For those who wait when it fails.
const FAILED_LIFETIME: Duration = Duration::from_millis(100);

/// Requests at a time, and entries.
const RUNNING_AT_MOST: usize = 128;
const KEPT_AT_MOST: usize = 4096;

/// Tor's "onion service not found" and the other codes that say that there is no such name (proposal 304).
const NO_SUCH_ONION: [u8; 2] = [0xF0, 0xF1];

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Asked {
    /// The address of a name.
    Name(String),
    /// The name of an address.
    Address(IpAddr),
}

/// What the proxy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The address of the name.
    Address(IpAddr),
    /// The name of the address.
    Name(Vec<u8>),
    /// Neither exists.
    NoSuchName,
    /// It can't be known.
    Failed,
}

/// The requests and their results.
#[derive(Debug)]
pub struct Lookups {
    asker: Asker,
    entries: Mutex<Entries>,
    done: Condvar,
    complain: fn(&Failure),
}

#[derive(Debug, Default)]
struct Entries {
    known: HashMap<Asked, Entry>,
    running: usize,
}

#[derive(Debug)]
enum Entry {
    Pending,
    Done { found: Found, expires: Instant },
}

impl Lookups {
    /// Asks this proxy. `complain` is told of failures that aren't about a name.
    #[must_use]
    pub fn new(asker: Asker, complain: fn(&Failure)) -> Arc<Self> {
        Arc::new(Self { asker, entries: Mutex::default(), done: Condvar::new(), complain })
    }

    /// The result, and for how much longer it is good; `None` where there is none by the deadline.
    pub fn find(self: &Arc<Self>, asked: &Asked, deadline: Instant) -> Option<(Found, Duration)> {
        let mut entries = self.entries();
        loop {
            let now = Instant::now();
            match entries.known.get(asked) {
                Some(Entry::Done { found, expires }) if *expires > now => {
                    return Some((found.clone(), expires.saturating_duration_since(now)));
                }
                Some(Entry::Pending) => {
                    let left = deadline.checked_duration_since(now)?;
                    entries = self.done.wait_timeout(entries, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(Entry::Done { .. }) | None => {
                    if !self.begin(&mut entries, asked, now) {
                        return Some((Found::Failed, Duration::ZERO));
                    }
                }
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a request; `false` where there are too many.
    fn begin(self: &Arc<Self>, entries: &mut Entries, asked: &Asked, now: Instant) -> bool {
        if entries.known.len() >= KEPT_AT_MOST {
            entries.known.retain(|_, entry| match entry {
                Entry::Pending => true,
                Entry::Done { expires, .. } => *expires > now,
            });
        }
        if entries.running >= RUNNING_AT_MOST || entries.known.len() >= KEPT_AT_MOST {
            return false;
        }
        let (this, wanted) = (Arc::clone(self), asked.clone());
        let thread = std::thread::Builder::new().name("lookup".into()).stack_size(super::STACK_BYTES);
        if thread.spawn(move || this.run(wanted, now + PATIENCE)).is_err() {
            return false;
        }
        entries.running = entries.running.saturating_add(1);
        entries.known.insert(asked.clone(), Entry::Pending);
        true
    }

    fn run(&self, asked: Asked, deadline: Instant) {
        let result = match &asked {
            Asked::Name(name) => self.asker.resolve(name, deadline).map(Found::Address),
            Asked::Address(ip) => self.asker.resolve_pointer(*ip, deadline).map(Found::Name),
        };
        let found = result.unwrap_or_else(|failure| self.meaning(&failure));
        let lifetime = match found {
            Found::Address(_) | Found::Name(_) => LIFETIME,
            Found::NoSuchName => NEGATIVE_LIFETIME,
            Found::Failed => FAILED_LIFETIME,
        };
        let mut entries = self.entries();
        entries.running = entries.running.saturating_sub(1);
        entries.known.insert(asked, Entry::Done { found, expires: Instant::now() + lifetime });
        self.done.notify_all();
    }

    fn meaning(&self, failure: &Failure) -> Found {
        match failure {
            // Tor says so of every name that it has no address for, for good or for the moment.
            Failure::Refused(refusal)
                if refusal.reply.is_some_and(|code| code == HOST_UNREACHABLE || NO_SUCH_ONION.contains(&code)) =>
            {
                Found::NoSuchName
            }
            other => {
                (self.complain)(other);
                Found::Failed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Proxy;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    /// A proxy that answers every RESOLVE after a while with this reply, and counts.
    fn proxy(reply: &'static [u8], after: Duration) -> (Proxy, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("socks5://{}", listener.local_addr().unwrap()).parse().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let mut bytes = [0; 300];
                    client.read_exact(&mut bytes[..3]).unwrap();
                    client.write_all(&[5, 0]).unwrap();
                    assert!(client.read(&mut bytes).unwrap() > 7);
                    thread::sleep(after);
                    client.write_all(reply).unwrap();
                });
            }
        });
        (proxy, count)
    }

    const ADDRESS: &[u8] = b"\x05\x00\x00\x01\xC0\x00\x02\x07\0\0";

    #[test]
    fn many_askers_share_one_request() {
        let (proxy, count) = proxy(ADDRESS, Duration::from_millis(100));
        let lookups = Lookups::new(proxy.into(), |failure| panic!("{failure:?}"));
        let deadline = Instant::now() + Duration::from_secs(5);
        let asked = Asked::Name("a.example".into());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (found, lifetime) = lookups.find(&asked, deadline).unwrap();
                    assert_eq!(found, Found::Address([192, 0, 2, 7].into()));
                    assert!(lifetime <= LIFETIME && lifetime > Duration::from_secs(50));
                });
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
        lookups.find(&Asked::Name("b.example".into()), deadline).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn who_gives_up_leaves_the_answer_to_the_next() {
        let (proxy, count) = proxy(ADDRESS, Duration::from_millis(300));
        let lookups = Lookups::new(proxy.into(), |failure| panic!("{failure:?}"));
        let asked = Asked::Name("a.example".into());
        assert_eq!(lookups.find(&asked, Instant::now() + Duration::from_millis(20)), None);
        assert!(lookups.find(&asked, Instant::now() + Duration::from_secs(5)).is_some());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_replies_mean() {
        for (reply, expected) in [
            (&b"\x05\x04\x00\x01\0\0\0\0\0\0"[..], Found::NoSuchName),
            (b"\x05\xF0\x00\x01\0\0\0\0\0\0", Found::NoSuchName),
            (b"\x05\x07\x00\x01\0\0\0\0\0\0", Found::Failed),
            (b"\x05\x01\x00\x01\0\0\0\0\0\0", Found::Failed),
            (b"\x05", Found::Failed),
        ] {
            let (proxy, _) = proxy(reply, Duration::ZERO);
            let lookups = Lookups::new(proxy.into(), |_| ());
            let asked = Asked::Name("a.example".into());
            let (found, _) = lookups.find(&asked, Instant::now() + Duration::from_secs(5)).unwrap();
            assert_eq!(found, expected, "{reply:?}");
        }
    }
}
