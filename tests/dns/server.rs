//! A name server of the test's own, by UDP and TCP, that keeps a record of who asked what.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A query that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `udp` or `tcp`.
    pub by: &'static str,
    /// From where.
    pub from: IpAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The server.
#[derive(Debug, Clone, Default)]
pub struct Server(Arc<Mutex<Vec<Asked>>>);

/// The text of big.site.example, longer than any datagram that is asked for.
pub const BIG: [&str; 8] = ["0123456789012345678901234567890123456789012345678901234567890123456789\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";
    8];

impl Server {
    /// Serves these addresses, which it gives to the loopback interface, on port 53.
    pub fn start(addresses: &[&str]) -> Self {
        let server = Self::default();
        for address in addresses {
            let bits = if address.contains(':') { "128" } else { "32" };
            let nodad = if address.contains(':') { &["nodad"][..] } else { &[] };
            let mut ip = Command::new("ip");
            ip.args(["addr", "add", &format!("{address}/{bits}"), "dev", "lo"]).args(nodad);
            assert!(ip.status().unwrap().success(), "{address}");
            let address = SocketAddr::new(address.parse().unwrap(), 53);
            let udp = UdpSocket::bind(address).unwrap();
            let tcp = TcpListener::bind(address).unwrap();
            let (one, other) = (server.clone(), server.clone());
            thread::spawn(move || one.datagrams(&udp));
            wait_for(address);
            thread::spawn(move || {
                for stream in tcp.incoming().flatten() {
                    let server = other.clone();
                    thread::spawn(move || server.stream(stream));
                }
            });
        }
        server
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// How many queries arrived since then.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn note(&self, by: &'static str, from: SocketAddr, bytes: &[u8]) {
        self.0.lock().unwrap().push(Asked { by, from: from.ip().to_canonical(), bytes: bytes.to_vec() });
    }

    fn datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            self.note("udp", from, &buffer[..length]);
            let answer = answer(&buffer[..length]);
            let bytes = answer.to_vec().unwrap();
            let bytes = if bytes.len() > 512 { answer.truncate().to_vec().unwrap() } else { bytes };
            socket.send_to(&bytes, from).unwrap();
        }
    }

    fn stream(&self, mut stream: TcpStream) {
        let Ok(from) = stream.peer_addr() else { return };
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut bytes).is_err() {
                return;
            }
            self.note("tcp", from, &bytes);
            let answer = answer(&bytes).to_vec().unwrap();
            let framed = [&(answer.len() as u16).to_be_bytes(), &answer[..]].concat();
            if stream.write_all(&framed).is_err() {
                return;
            }
        }
    }
}

/// A new IPv6 address takes a moment.
fn wait_for(server: SocketAddr) {
    let any = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let answers = || {
        let query = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01x\0\0\x01\0\x01";
        socket.send_to(query, server).and_then(|_| socket.recv(&mut [0; 512])).is_ok()
    };
    assert!((0..100).any(|_| answers()), "{server} does not answer");
}

fn answer(query: &[u8]) -> Message {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries[0].clone();
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.queries.push(question.clone());
    let name = question.name.to_lowercase().to_ascii();
    let many = name.strip_suffix(".many.example.").and_then(|number| number.strip_prefix('n')?.parse::<u32>().ok());
    let data = match (name.as_str(), question.query_type) {
        ("www.site.example.", RecordType::A) => Some(RData::A(A([203, 0, 113, 5].into()))),
        ("www.site.example.", RecordType::AAAA) => Some(RData::AAAA(AAAA("2001:db8::5".parse().unwrap()))),
        ("big.site.example.", RecordType::TXT) => Some(RData::TXT(TXT::new(BIG.map(str::to_owned).to_vec()))),
        ("5.113.0.203.in-addr.arpa.", RecordType::PTR) => {
            Some(RData::PTR(PTR(Name::from_str("www.site.example.").unwrap())))
        }
        (_, RecordType::A) if many.is_some() => {
            many.map(|number| RData::A(A([198, 51, 100, (number % 250) as u8].into())))
        }
        _ => None,
    };
    if data.is_none() && !name.ends_with("site.example.") && many.is_none() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    answer.answers.extend(data.map(|data| Record::from_rdata(question.name, 300, data)));
    answer
}
