//! Queries and what is answered to them: RFC 1035, 2308, 6891 (EDNS), 8482.
//!
//! The codec is hickory-proto's; what is decided here is which queries are answered, and how.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::IpAddr;

/// What a UDP message may hold where the asker doesn't say (RFC 1035, 4.2.1).
const PLAIN_LIMIT: u16 = 512;

/// What we say that we take (the value that DNS Flag Day 2020 settled on).
const OWN_LIMIT: u16 = 1232;

/// The fixed part of a message.
const HEADER_BYTES: usize = 12;

/// A query that makes sense: one question, of the ordinary kind.
#[derive(Debug, Clone)]
pub struct Query {
    message: Message,
    name: Name,
    kind: RecordType,
}

/// What is answered to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An address, and for how many seconds.
    Address(IpAddr, u32),
    /// A name, for a pointer query, and for how many seconds.
    Pointer(Name, u32),
    /// The name exists, but has nothing of the kind (NODATA).
    Nothing,
    /// NXDOMAIN
    NoSuchName,
    /// SERVFAIL
    Failed,
    /// NOTIMP
    NotImplemented,
    /// REFUSED
    Refused,
}

/// What a query is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The IPv4 addresses of the name.
    Ipv4,
    /// The IPv6 addresses of the name.
    Ipv6,
    /// The name of an address (RFC 1035, 3.5; RFC 3596, 2.5).
    Pointer(IpAddr),
    /// A pointer at a name that is no address.
    PointerElsewhere,
    /// What only makes connecting faster or safer, and that nobody misses (HTTPS, SVCB).
    Optional,
    /// Anything else.
    Other,
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// What is to be sent back; `None` for what is no query at all, to which nothing is.
    pub fn parse(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(None)?;
        let [id_high, id_low, flags, _, questions_high, questions_low, ..] = *header;
        if flags & 0x80 != 0 {
            return Err(None); // a response
        }
        let id = u16::from_be_bytes([id_high, id_low]);
        let op_code = OpCode::from_u8((flags >> 3) & 0xF);
        let refuse = |code| Message::error_msg(id, op_code, code).to_vec().ok();
        if op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp));
        }
        if u16::from_be_bytes([questions_high, questions_low]) != 1 {
            return Err(refuse(ResponseCode::FormErr));
        }
        let message = Message::from_vec(bytes).map_err(|_| refuse(ResponseCode::FormErr))?;
        let Some(question) = message.queries.first() else { return Err(refuse(ResponseCode::FormErr)) };
        let (name, kind, class) = (question.name.clone(), question.query_type, question.query_class);
        let query = Self { message, name, kind };
        if query.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Err(query.encoded(ResponseCode::BADVERS, None));
        }
        if class != DNSClass::IN {
            return Err(query.encoded(ResponseCode::Refused, None));
        }
        Ok(query)
    }

    /// What is asked for.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self.kind {
            RecordType::A => Subject::Ipv4,
            RecordType::AAAA => Subject::Ipv6,
            RecordType::PTR => address_of(&self.name).map_or(Subject::PointerElsewhere, Subject::Pointer),
            RecordType::HTTPS | RecordType::SVCB => Subject::Optional,
            _ => Subject::Other,
        }
    }

    /// The name as a proxy is asked for it: without the root's dot, in lower case (the asker may vary the
    /// case to recognise forged answers). `None` for what is no host's name: other characters than letters,
    /// digits, hyphens and underscores, or the form of an IPv4 address.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        host(&self.name)
    }

    /// For a person: `A www.example.com`.
    #[must_use]
    pub fn summary(&self) -> String {
        let name = self.name.to_ascii();
        let name = name.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(&name);
        format!("{} {name}", self.kind)
    }

    /// The length of a message that the asker takes by UDP.
    #[must_use]
    pub fn limit(&self) -> usize {
        let edns = self.message.edns.as_ref().map_or(PLAIN_LIMIT, Edns::max_payload);
        usize::from(edns.max(PLAIN_LIMIT))
    }

    /// The query as it is handed on to another resolver: nothing but the question, flags, and the wish for
    /// EDNS. Options (cookies, the asker's network) stay behind.
    #[must_use]
    pub fn handed_on(&self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.message.metadata.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.message.metadata.recursion_desired;
        message.metadata.checking_disabled = self.message.metadata.checking_disabled;
        message.metadata.authentic_data = self.message.metadata.authentic_data;
        message.queries.clone_from(&self.message.queries);
        message.edns = self.own_edns();
        message.to_vec().ok()
    }

    /// Whether a message of another resolver answers this query, as [`Query::handed_on`] put it.
    #[must_use]
    pub fn is_answered_by(&self, bytes: &[u8]) -> bool {
        Message::from_vec(bytes).is_ok_and(|message| {
            message.metadata.message_type == MessageType::Response
                && message.metadata.id == self.message.metadata.id
                // Names are compared without regard to case.
                && message.queries.first().is_none_or(|question| {
                    question.name == self.name && question.query_type == self.kind
                })
        })
    }

    /// An answer.
    #[must_use]
    pub fn answered(&self, answer: &Answer) -> Option<Vec<u8>> {
        let record = |data, ttl| Some(Record::from_rdata(self.name.clone(), ttl, data));
        let (code, record) = match answer {
            Answer::Address(IpAddr::V4(ip), ttl) => (ResponseCode::NoError, record(RData::A(A(*ip)), *ttl)),
            Answer::Address(IpAddr::V6(ip), ttl) => (ResponseCode::NoError, record(RData::AAAA(AAAA(*ip)), *ttl)),
            Answer::Pointer(name, ttl) => (ResponseCode::NoError, record(RData::PTR(PTR(name.clone())), *ttl)),
            Answer::Nothing => (ResponseCode::NoError, None),
            Answer::NoSuchName => (ResponseCode::NXDomain, None),
            Answer::Failed => (ResponseCode::ServFail, None),
            Answer::NotImplemented => (ResponseCode::NotImp, None),
            Answer::Refused => (ResponseCode::Refused, None),
        };
        self.encoded(code, record)
    }

    /// The word that the answer is too long for UDP: ask again by TCP.
    #[must_use]
    pub fn truncated(&self) -> Option<Vec<u8>> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.truncation = true;
        message.to_vec().ok()
    }

    fn encoded(&self, code: ResponseCode, record: Option<Record>) -> Option<Vec<u8>> {
        let mut message = self.response(code);
        message.answers.extend(record);
        message.to_vec().ok()
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.message.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = self.message.metadata.recursion_desired;
        message.metadata.checking_disabled = self.message.metadata.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        // As it was asked, in its very case.
        message.queries.clone_from(&self.message.queries);
        message.edns = self.own_edns();
        message
    }

    /// Ours, for an asker who has sent one (RFC 6891, 6.1.1).
    fn own_edns(&self) -> Option<Edns> {
        self.message.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(OWN_LIMIT).set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        })
    }
}

/// The name of a host: see [`Query::host`].
#[must_use]
pub fn host(name: &Name) -> Option<String> {
    let mut host = String::new();
    for label in name {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if label.is_empty() || !label.iter().all(fits) {
            return None;
        }
        if !host.is_empty() {
            host.push('.');
        }
        host.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    // The longest name that DNS can hold, and that SOCKS must.
    let is_number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (!host.is_empty() && host.len() <= 253 && !is_number).then_some(host)
}

/// The address that a name under in-addr.arpa or ip6.arpa stands for.
fn address_of(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then_some(network.addr())
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
