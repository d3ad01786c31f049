//! DNS over TCP (RFC 7766) through the proxy, to the resolver that the user has named.

use super::asker::Asker;
use super::message::Query;
use crate::proxy::client::blocking::{Failure, Stream};
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection is kept for the next query: resolvers close idle ones after a few seconds.
const IDLE: Duration = Duration::from_secs(5);
const IDLE_AT_MOST: usize = 8;

/// Where the question begins.
const HEADER_BYTES: usize = 12;

/// The way to the resolver.
#[derive(Debug)]
pub struct Forwarder {
    asker: Asker,
    resolver: SocketAddr,
    idle: Mutex<Vec<(Stream, Instant)>>,
}

impl Forwarder {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(asker: Asker, resolver: SocketAddr) -> Self {
        Self { asker, resolver, idle: Mutex::default() }
    }

    /// The resolver's answer.
    ///
    /// # Errors
    /// Where there is none by the deadline.
    pub fn ask(&self, query: &Query, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let message = query.handed_on().ok_or(Failure::Unfit("can't be asked this"))?;
        // One that was idle may have been closed meanwhile.
        let reused = self.take_idle().and_then(|stream| self.ask_on(stream, &message, deadline).ok());
        let mut answer = match reused {
            Some(answer) => answer,
            None => self.ask_on(self.asker.connect(self.resolver, deadline)?, &message, deadline)?,
        };
        if !query.is_answered_by(&answer) {
            return Err(Failure::Unfit("leads to a resolver that answers something else"));
        }
        restore_case(&mut answer, &message);
        Ok(answer)
    }

    fn ask_on(&self, mut stream: Stream, message: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
        stream.set_deadline(deadline);
        let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let framed = [&length.to_be_bytes(), message].concat();
        stream.send(&framed)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        let mut idle = self.idle();
        if idle.len() < IDLE_AT_MOST {
            idle.push((stream, Instant::now()));
        }
        Ok(answer)
    }

    fn take_idle(&self) -> Option<Stream> {
        let mut idle = self.idle();
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        idle.pop().map(|(stream, _)| stream)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Stream, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spells the question's name as it was asked: some resolvers change its case, and the asker may compare.
fn restore_case(answer: &mut [u8], asked: &[u8]) {
    let question = asked.get(HEADER_BYTES..).unwrap_or_default();
    let name = question.get(..name_length(question)).unwrap_or_default();
    let place = answer.get_mut(HEADER_BYTES..).and_then(|rest| rest.get_mut(..name.len()));
    if let Some(place) = place
        && place.eq_ignore_ascii_case(name)
    {
        place.copy_from_slice(name);
    }
}

/// The length of an uncompressed name at the beginning.
fn name_length(bytes: &[u8]) -> usize {
    let mut length = 0_usize;
    while let Some(label) = bytes.get(length) {
        length = length.saturating_add(1).saturating_add(usize::from(*label));
        if *label == 0 {
            return length;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    const ASKED: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01A\x07eXample\x00\x00\x10\x00\x01";

    /// A proxy with a resolver behind it that answers each connection's first queries, then closes.
    fn resolver(answers_each: usize) -> (Forwarder, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy: crate::policy::Proxy = format!("socks5://{}", listener.local_addr().unwrap()).parse().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let mut bytes = [0; 10];
                client.read_exact(&mut bytes[..3]).unwrap();
                client.write_all(&[5, 0]).unwrap();
                client.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes, *b"\x05\x01\x00\x01\xC0\x00\x02\x35\x00\x35");
                client.write_all(b"\x05\x00\x00\x01\0\0\0\0\0\0").unwrap();
                for _ in 0..answers_each {
                    let mut message = vec![0; 2 + ASKED.len()];
                    client.read_exact(&mut message).unwrap();
                    message.make_ascii_lowercase();
                    message[4] |= 0x80;
                    // In two pieces.
                    client.write_all(&message[..7]).unwrap();
                    thread::sleep(Duration::from_millis(5));
                    client.write_all(&message[7..]).unwrap();
                }
            }
        });
        (Forwarder::new(proxy.into(), "192.0.2.53:53".parse().unwrap()), count)
    }

    fn ask(forwarder: &Forwarder) -> Vec<u8> {
        let query = Query::parse(ASKED).unwrap();
        forwarder.ask(&query, Instant::now() + Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn a_connection_serves_more_than_one_query_and_its_end_none() {
        let (forwarder, count) = resolver(2);
        for expected in [1, 1, 2, 2, 3] {
            let answer = ask(&forwarder);
            assert_eq!((answer[2] & 0x80, &answer[12..]), (0x80, &ASKED[12..]), "in the case of the question");
            assert_eq!(count.load(Ordering::SeqCst), expected);
        }
    }

    #[test]
    fn names_have_an_end() {
        assert_eq!(name_length(b"\x01a\x00rest"), 3);
        assert_eq!(name_length(b"\x00"), 1);
        for bytes in [&b""[..], b"\x03ab", b"\xFFx"] {
            assert_eq!(name_length(bytes), 0);
        }
    }
}
