//! `--pcapng`: captured payloads as packets (draft-ietf-opsawg-pcapng), so that Wireshark's dissectors can be
//! used on them. Who sent them, and from where in the program, stands in comments.
//!
//! UNIX sockets have no packets: connections become TCP between addresses made up for them (the process's
//! side `fd73:6f63:6b74::1:PID`, the other `fd73:6f63:6b74::2:NUMBER`), datagrams UDP. A capture of internet
//! sockets has its peer's real address.

mod packet;

use super::{Options, create};
use crate::capture::{Capture, Entry, Payload, entries};
use crate::output::escape::escaped;
use crate::report::leaks::cut;
use crate::report::say;
use packet::{Conversation, Direction, Flags};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Connections that are followed; a capture has a file for each.
const CONNECTIONS: usize = 1 << 20;
/// The most payload in a packet, in bytes: with its headers it stays below 64 KiB.
const SEGMENT: usize = 60_000;

/// Writes the packets.
///
/// # Errors
/// What failed, on what file, in words for the user.
pub(super) fn run(options: &Options, to: &Path) -> Result<u8, String> {
    let others = [&options.html, &options.sarif, &options.junit, &options.perfetto, &options.folded, &options.diff];
    if others.iter().any(|other| other.is_some()) {
        return Err(
            "--pcapng reads a --capture directory, the other reports an event stream: ask for it alone".into()
        );
    }
    let [from] = options.events.as_slice() else {
        return Err("--pcapng reads one capture".into());
    };
    if from.as_os_str() == "-" {
        return Err("--pcapng reads a --capture directory, with the payloads: - is none".into());
    }
    let (mut capture, mut lines) = Capture::open(from)?;
    // Whatever lies in the capture stays as it is.
    if super::identity(to).is_some() && to.parent().is_some_and(|folder| same_folder(folder, from)) {
        return Err(format!("{} is part of the capture: it is not overwritten", to.display()));
    }
    let mut writer = Writer { out: create(to)?, conversations: HashMap::new(), unreadable: 0 };
    let writing = |error: io::Error| format!("writing {}: {error}", to.display());
    writer.head().map_err(writing)?;
    let mut seen = 0_u64;
    let faults = entries(&mut lines, |entry| {
        seen = seen.saturating_add(1);
        writer.entry(entry, &mut capture)
    })
    .map_err(writing)?;
    writer.out.flush().map_err(writing)?;
    if seen == 0 {
        return Err(format!("{} holds no capture: it is written with --capture DIR", from.display()));
    }
    if faults > 0 {
        say(&format!("{}: {faults} lines can't be read", from.display()));
    }
    if writer.unreadable > 0 {
        say(&format!("{} payloads can't be read: their packets are empty", writer.unreadable));
    }
    Ok(0)
}

fn same_folder(folder: &Path, capture: &Path) -> bool {
    let capture = if capture.is_dir() { capture } else { capture.parent().unwrap_or(Path::new("")) };
    let real =
        |path: &Path| std::fs::canonicalize(if path.as_os_str().is_empty() { Path::new(".") } else { path }).ok();
    real(folder).is_some_and(|folder| Some(folder) == real(capture))
}

struct Writer {
    out: Box<dyn Write>,
    conversations: HashMap<String, Conversation>,
    unreadable: u64,
}

impl Writer {
    /// Section header and interface description (sections 4.1 and 4.2).
    fn head(&mut self) -> io::Result<()> {
        const SECTION: u32 = 0x0A0D_0D0A;
        const INTERFACE: u32 = 1;
        const LINKTYPE_RAW: u16 = 101; // packets begin with the IP header
        const USER_APPLICATION: u16 = 4;
        const NAME: u16 = 2;
        let mut body = Vec::new();
        body.extend(0x1A2B_3C4D_u32.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend((-1_i64).to_le_bytes());
        option(&mut body, USER_APPLICATION, concat!("sockstrace ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_of_options(&mut body);
        self.block(SECTION, &body)?;
        let mut body = Vec::new();
        body.extend(LINKTYPE_RAW.to_le_bytes());
        body.extend([0; 2]);
        body.extend(0_u32.to_le_bytes());
        option(&mut body, NAME, b"sockstrace");
        end_of_options(&mut body);
        self.block(INTERFACE, &body)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        // Bodies are padded to 4 bytes already.
        let length = u32::try_from(body.len().saturating_add(12)).map_err(io::Error::other)?;
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(body)?;
        self.out.write_all(&length.to_le_bytes())
    }

    /// An enhanced packet (section 4.3). `missing`: payload bytes of the packet that were not stored.
    fn packet(
        &mut self,
        entry: &Entry<'_>,
        packet: &[u8],
        missing: usize,
        direction: Direction,
        comment: &str,
    ) -> io::Result<()> {
        const PACKET: u32 = 6;
        const COMMENT: u16 = 1;
        const FLAGS: u16 = 2;
        let time = entry.microseconds();
        let mut body = Vec::with_capacity(packet.len().saturating_add(comment.len()).saturating_add(64));
        body.extend(0_u32.to_le_bytes());
        body.extend(((time >> 32) as u32).to_le_bytes());
        body.extend((time as u32).to_le_bytes());
        body.extend((packet.len() as u32).to_le_bytes());
        body.extend((packet.len().saturating_add(missing) as u32).to_le_bytes());
        body.extend(packet);
        pad(&mut body);
        if !comment.is_empty() {
            option(&mut body, COMMENT, comment.as_bytes());
        }
        let way: u32 = if direction == Direction::In { 1 } else { 2 };
        option(&mut body, FLAGS, &way.to_le_bytes());
        end_of_options(&mut body);
        self.block(PACKET, &body)
    }

    fn entry(&mut self, entry: &Entry<'_>, capture: &mut Capture) -> io::Result<()> {
        let Some(id) = entry.conn_id.as_deref() else { return Ok(()) };
        match entry.kind.as_deref() {
            Some("open" | "listen") => self.begin(id, entry).map(drop),
            Some("data") => {
                let payload = match capture.payload(entry) {
                    Payload::Bytes(bytes) => bytes,
                    Payload::Unreadable(_) => {
                        self.unreadable = self.unreadable.saturating_add(1);
                        Vec::new()
                    }
                };
                self.data(id, entry, &payload)
            }
            Some("close") => self.end(id, entry),
            _ => Ok(()),
        }
    }

    /// The conversation of a connection, begun with a handshake where it is a stream; `None` where there are
    /// too many.
    fn begin(&mut self, id: &str, entry: &Entry<'_>) -> io::Result<Option<Conversation>> {
        if let Some(known) = self.conversations.get(id) {
            return Ok(Some(known.clone()));
        }
        if self.conversations.len() >= CONNECTIONS {
            return Ok(None);
        }
        let number = self.conversations.len() as u32;
        let mut conversation = conversation(number, entry);
        if conversation.is_stream() && entry.kind.as_deref() != Some("listen") {
            let comment = comment(entry, "opened");
            for (direction, flags) in
                [(Direction::Out, Flags::SYN), (Direction::In, Flags::SYN_ACK), (Direction::Out, Flags::ACK)]
            {
                let packet = conversation.segment(direction, flags, &[], 0);
                let comment = if flags == Flags::SYN { &*comment } else { "" };
                self.packet(entry, &packet, 0, direction, comment)?;
            }
        }
        if entry.kind.as_deref() != Some("listen") {
            self.conversations.insert(id.to_owned(), conversation.clone());
        }
        Ok(Some(conversation))
    }

    fn data(&mut self, id: &str, entry: &Entry<'_>, payload: &[u8]) -> io::Result<()> {
        let Some(mut conversation) = self.begin(id, entry)? else { return Ok(()) };
        let direction = if entry.direction.as_deref() == Some("in") { Direction::In } else { Direction::Out };
        let size = entry.size.unwrap_or(payload.len() as u64).max(payload.len() as u64);
        let comment = comment(entry, &format!("{size} bytes"));
        let missing = usize::try_from(size.saturating_sub(payload.len() as u64)).unwrap_or(usize::MAX);
        let chunks: Vec<_> = payload.chunks(SEGMENT).collect();
        // An empty datagram is one too.
        let chunks = if chunks.is_empty() { vec![&[][..]] } else { chunks };
        let last = chunks.len().saturating_sub(1);
        for (index, chunk) in chunks.into_iter().enumerate() {
            let lost = if index == last { missing.min(SEGMENT.saturating_sub(chunk.len())) } else { 0 };
            let packet = conversation.segment(direction, Flags::DATA, chunk, lost);
            self.packet(entry, &packet, lost, direction, if index == 0 { &comment } else { "" })?;
            if index == last {
                // What no packet has room for is a gap in the stream.
                conversation.skip(direction, missing.saturating_sub(lost));
            }
        }
        self.conversations.insert(id.to_owned(), conversation);
        Ok(())
    }

    fn end(&mut self, id: &str, entry: &Entry<'_>) -> io::Result<()> {
        let Some(mut conversation) = self.conversations.remove(id) else { return Ok(()) };
        if conversation.is_stream() {
            let comment = comment(entry, "closed");
            for (direction, flags) in
                [(Direction::Out, Flags::FIN), (Direction::In, Flags::FIN), (Direction::Out, Flags::ACK)]
            {
                let packet = conversation.segment(direction, flags, &[], 0);
                let is_first = (direction, flags) == (Direction::Out, Flags::FIN);
                self.packet(entry, &packet, 0, direction, if is_first { &comment } else { "" })?;
            }
        }
        // Its number stays taken.
        self.conversations.insert(format!("{id}\0closed"), conversation);
        Ok(())
    }
}

fn conversation(number: u32, entry: &Entry<'_>) -> Conversation {
    const MADE_UP: [u16; 3] = [0xFD73, 0x6F63, 0x6B74];
    let [a, b, c] = MADE_UP;
    let made_up = |side: u16, number: u32| {
        IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, side, (number >> 16) as u16, number as u16))
    };
    // Ports that no dissector claims, and that tell connections of one process apart.
    let port = 0xC000 | (number & 0x3FFF) as u16;
    let peer = entry.path.as_deref().and_then(|path| path.parse::<SocketAddr>().ok());
    let own = SocketAddr::new(made_up(1, entry.pid.unwrap_or(0) as u32), port);
    let (own, peer) = match peer {
        Some(SocketAddr::V4(peer)) => {
            let [_, high, middle, low] = (entry.pid.unwrap_or(0) as u32).to_be_bytes();
            (SocketAddr::new(IpAddr::from([127, high, middle, low.max(1)]), port), SocketAddr::V4(peer))
        }
        Some(peer) => (own, peer),
        None => (own, SocketAddr::new(made_up(2, number), 4)),
    };
    Conversation::new(own, peer, entry.socket_type.as_deref() != Some("dgram"))
}

/// Who, what, on which socket, and the stack.
fn comment(entry: &Entry<'_>, what: &str) -> String {
    const LONGEST: usize = 16_000; // an option has a length of 16 bits
    let mut text = format!("{}: {what}", entry.actor());
    if let Some(path) = entry.path.as_deref() {
        text.push_str(", ");
        text.push_str(path);
    }
    let mut text = escaped(&cut(&text)).to_string();
    for frame in entry.stack.iter().flatten() {
        let place = frame.place().unwrap_or_default();
        text.push('\n');
        text.push_str(&escaped(&cut(&format!("  {} {place}", frame.name()))).to_string());
        if text.len() > LONGEST {
            break;
        }
    }
    text.chars().take(LONGEST).collect()
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..value.len().min(0xFFF0)).unwrap_or(value);
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    while !body.len().is_multiple_of(4) {
        body.push(0);
    }
}
