//! DNS messages, as much as a responder needs: the one question of a query, and answers to it. RFC 1035, 6891.
//!
//! Names in a question are never compressed, so no pointer is followed and nothing can loop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const TYPE_A: u16 = 1;
pub(super) const TYPE_PTR: u16 = 12;
pub(super) const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
const HEADER: usize = 12;
/// What a client without EDNS takes over UDP.
const UDP_WITHOUT_EDNS: usize = 512;
/// The most that is ever sent over UDP.
pub(super) const UDP_MOST: usize = 4096;
/// How long an answer of ours may be kept: a container that was started again has another address soon.
const TIME_TO_LIVE: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) id: u16,
    recursion_desired: bool,
    /// The question as it came, name, type and class: it is repeated in the answer, and compared with an upstream's.
    pub(super) question: Vec<u8>,
    /// Lower case, without the final dot; `None` when a label has a byte that no container's name has.
    pub(super) name: Option<String>,
    pub(super) kind: u16,
    pub(super) class_in: bool,
    edns: bool,
    /// The largest answer the client takes over UDP.
    pub(super) udp_limit: usize,
}

/// Why there is no query to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too short, or an answer itself: answering could go on for ever.
    Silently,
    /// With this message.
    With(Vec<u8>),
}

pub(super) fn parse(bytes: &[u8]) -> Result<Query, Refused> {
    let header = bytes.first_chunk::<HEADER>().ok_or(Refused::Silently)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let is_answer = header[2] & 0x80 != 0;
    if is_answer {
        return Err(Refused::Silently);
    }
    let refuse = |code| Refused::With(header_only(word(0), header[2] & 0x79, code));
    if header[2] & 0x78 != 0 {
        return Err(refuse(Code::NotImplemented)); // an opcode other than QUERY
    }
    let [questions, answers, authorities, additional] = [word(4), word(6), word(8), word(10)];
    if questions != 1 {
        return Err(refuse(Code::FormatError));
    }
    let (name, end) = name(bytes).ok_or_else(|| refuse(Code::FormatError))?;
    let fixed = bytes.get(end..end + 4).ok_or_else(|| refuse(Code::FormatError))?;
    let class = u16::from_be_bytes([fixed[2], fixed[3]]);
    let payload =
        if answers == 0 && authorities == 0 && additional > 0 { edns(&bytes[end + 4..]) } else { None };
    Ok(Query {
        id: word(0),
        recursion_desired: header[2] & 1 != 0,
        question: bytes[HEADER..end + 4].to_vec(),
        name,
        kind: u16::from_be_bytes([fixed[0], fixed[1]]),
        class_in: class == CLASS_IN,
        edns: payload.is_some(),
        udp_limit: payload.map_or(UDP_WITHOUT_EDNS, usize::from).clamp(UDP_WITHOUT_EDNS, UDP_MOST),
    })
}

/// The question's name, and where it ends.
fn name(bytes: &[u8]) -> Option<(Option<String>, usize)> {
    const LONGEST: usize = 255;
    let mut at = HEADER;
    let mut text = Some(String::new());
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if at - HEADER > LONGEST || length > 63 {
            return None;
        }
        if length == 0 {
            return Some((text, at));
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        text = text.filter(|_| label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.')).map(
            |mut text| {
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
                text
            },
        );
    }
}

/// The payload size in an OPT record that follows the question at once.
fn edns(bytes: &[u8]) -> Option<u16> {
    let [0, kind_high, kind_low, high, low] = *bytes.first_chunk::<5>()? else { return None };
    (u16::from_be_bytes([kind_high, kind_low]) == TYPE_OPT).then_some(u16::from_be_bytes([high, low]))
}

fn header_only(id: u16, kept_flags: u8, code: Code) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![high, low, kept_flags | 0x80, 0x80 | code as u8, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// An answer of ours, one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    Name(String),
}

impl Query {
    /// The answer, at most `limit` bytes: what does not fit is left out, and the client told so.
    pub(super) fn answer(&self, code: Code, records: &[Record], limit: usize) -> Vec<u8> {
        let mut bytes = header_only(self.id, u8::from(self.recursion_desired), code);
        bytes[5] = 1;
        bytes.extend_from_slice(&self.question);
        let opt: &[u8] =
            if self.edns { &[0, 0, TYPE_OPT as u8, (UDP_MOST >> 8) as u8, 0, 0, 0, 0, 0, 0, 0] } else { &[] };
        let mut count = 0u16;
        for record in records {
            let Some(record) = record.bytes() else { continue };
            if bytes.len() + record.len() + opt.len() > limit {
                bytes[2] |= 0x02; // TC
                break;
            }
            bytes.extend_from_slice(&record);
            count += 1;
        }
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(opt);
        bytes[11] = u8::from(self.edns);
        bytes
    }

    /// An upstream's answer as the client is to get it: with its own id, and cut to what it takes.
    pub(super) fn pass_on(&self, mut answer: Vec<u8>, limit: usize) -> Vec<u8> {
        if answer.len() > limit {
            let mut cut = self.answer(Code::NoError, &[], limit);
            cut[2] |= 0x02; // TC
            return cut;
        }
        answer[..2].copy_from_slice(&self.id.to_be_bytes());
        answer
    }

    /// Whether a message is an answer to this question, sent under `id`.
    pub(super) fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        answer.len() >= HEADER
            && answer[..2] == id.to_be_bytes()
            && answer[2] & 0x80 != 0
            && answer[4..6] == [0, 1]
            && answer.get(HEADER..HEADER + self.question.len()).is_some_and(|question| {
                question.eq_ignore_ascii_case(&self.question) // a server may repeat the name in another case
            })
    }

    /// The address that a PTR query asks for: 2.0.201.10.in-addr.arpa.
    pub(super) fn asked_address(&self) -> Option<IpAddr> {
        let name = self.name.as_deref()?;
        if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
            let octets: Vec<u8> =
                reversed.rsplit('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into());
        }
        let reversed = name.strip_suffix(".ip6.arpa")?;
        let mut address = 0u128;
        let mut digits = 0;
        for part in reversed.rsplit('.') {
            let digit = part.chars().next().filter(|_| part.len() == 1)?.to_digit(16)?;
            address = address << 4 | u128::from(digit);
            digits += 1;
            if digits > 32 {
                return None;
            }
        }
        (digits == 32).then(|| Ipv6Addr::from_bits(address).into())
    }
}

/// The code in an answer's header.
pub(super) fn failed(answer: &[u8]) -> bool {
    const REFUSED: u8 = 5;
    answer.get(3).is_none_or(
        |flags| matches!(flags & 0x0f, code if code == Code::ServerFailure as u8 || code == REFUSED),
    )
}

impl Record {
    /// The record with a pointer to the question's name; `None` for a name that cannot be written.
    fn bytes(&self) -> Option<Vec<u8>> {
        let (kind, data) = match self {
            Record::Address(IpAddr::V4(address)) => (TYPE_A, address.octets().to_vec()),
            Record::Address(IpAddr::V6(address)) => (TYPE_AAAA, address.octets().to_vec()),
            Record::Name(name) => (TYPE_PTR, encode(name)?),
        };
        let mut bytes = vec![0xc0, HEADER as u8];
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        bytes.extend_from_slice(&TIME_TO_LIVE.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&data);
        Some(bytes)
    }
}

fn encode(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(encode(name).unwrap());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    fn with_edns(mut bytes: Vec<u8>, size: u16) -> Vec<u8> {
        bytes[11] = 1;
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes
    }

    #[test]
    fn a_question_is_read() {
        let read = parse(&query("Web.Example.", TYPE_A)).unwrap();
        assert_eq!((read.id, read.kind, read.name.as_deref()), (0x1234, TYPE_A, Some("web.example")));
        assert_eq!((read.udp_limit, read.edns), (512, false));
        let read = parse(&with_edns(query("web", TYPE_A), 1232)).unwrap();
        assert_eq!((read.udp_limit, read.edns), (1232, true));
        assert_eq!(parse(&with_edns(query("web", TYPE_A), 65535)).unwrap().udp_limit, UDP_MOST);
        assert_eq!(parse(&with_edns(query("web", TYPE_A), 0)).unwrap().udp_limit, 512);
        assert_eq!(parse(&query("a b", TYPE_A)).unwrap().name, None);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let good = query("web", TYPE_A);
        assert_eq!(parse(&good[..11]), Err(Refused::Silently));
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(parse(&answer), Err(Refused::Silently), "two responders must not talk for ever");
        let mut update = good.clone();
        update[2] = 5 << 3;
        assert!(
            matches!(parse(&update), Err(Refused::With(bytes)) if bytes[3] & 15 == Code::NotImplemented as u8)
        );
        for cut in 12..good.len() {
            assert!(matches!(parse(&good[..cut]), Err(Refused::With(bytes)) if bytes[3] & 15 == 1), "{cut}");
        }
        let mut pointer = good.clone();
        pointer[12] = 0xc0;
        assert!(matches!(parse(&pointer), Err(Refused::With(_))), "a pointer in a question");
        let mut two = good;
        two[5] = 2;
        assert!(matches!(parse(&two), Err(Refused::With(_))));
    }

    #[test]
    fn an_answer_is_cut_to_what_the_client_takes() {
        let records: Vec<_> = (0..100).map(|host| Record::Address([10, 0, 0, host].into())).collect();
        let small = parse(&query("web", TYPE_A)).unwrap();
        let bytes = small.answer(Code::NoError, &records, small.udp_limit);
        assert!(bytes.len() <= 512 && bytes[2] & 2 != 0);
        let count = usize::from(u16::from_be_bytes([bytes[6], bytes[7]]));
        assert_eq!(bytes.len(), 12 + 9 + 16 * count);
        let large = parse(&with_edns(query("web", TYPE_A), 4096)).unwrap();
        let bytes = large.answer(Code::NoError, &records, large.udp_limit);
        assert_eq!((bytes[2] & 2, bytes[7], bytes[11]), (0, 100, 1));
        assert_eq!(bytes.len(), 12 + 9 + 1600 + 11);
        let passed = small.pass_on(vec![0; 600], 512);
        assert_eq!((passed[0], passed[1], passed[2] & 2), (0x12, 0x34, 2));
    }

    #[test]
    fn reverse_names() {
        let asked =
            |name: &str| parse(&query(name, TYPE_PTR)).unwrap().asked_address().map(|ip| ip.to_string());
        assert_eq!(asked("2.0.201.10.in-addr.arpa").as_deref(), Some("10.201.0.2"));
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.2.0.0.d.f.ip6.arpa";
        assert_eq!(asked(six).as_deref(), Some("fd00:2001::1"));
        for wrong in [
            "0.201.10.in-addr.arpa",
            "1.2.0.201.10.in-addr.arpa",
            "256.0.0.1.in-addr.arpa",
            "1.ip6.arpa",
            "web",
        ] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
        assert_eq!(asked(&format!("0.{six}")), None);
    }

    /// Random bytes, and a good query with random bytes changed: no panic, and an answer that is well-formed, bears the
    /// query's id and never outgrows its limit.
    #[test]
    fn random_packets() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let good = with_edns(query("some.name.example", TYPE_AAAA), 1400);
        let records = [Record::Address([10, 0, 0, 1].into()), Record::Name("web.net".into())];
        for round in 0..300_000 {
            let bytes: Vec<u8> = if round % 3 == 0 {
                (0..random() % 80).map(|_| random() as u8).collect()
            } else {
                let mut bytes = good.clone();
                for _ in 0..random() % 6 {
                    let at = random() as usize % bytes.len();
                    bytes[at] = random() as u8;
                }
                bytes.truncate(random() as usize % (bytes.len() + 1));
                bytes
            };
            match parse(&bytes) {
                Ok(query) => {
                    assert_eq!(query.id.to_be_bytes(), bytes[..2]);
                    let answer = query.answer(Code::NoError, &records, query.udp_limit);
                    assert!(answer.len() <= query.udp_limit && query.is_answered_by(&answer, query.id));
                    assert_eq!(answer[12..12 + query.question.len()], query.question);
                    query.asked_address();
                    assert!(parse(&answer) == Err(Refused::Silently));
                }
                Err(Refused::With(answer)) => {
                    assert_eq!((answer.len(), &answer[..2], answer[2] & 0x80), (12, &bytes[..2], 0x80));
                    assert!(answer.len() <= bytes.len(), "a refusal is no amplification");
                }
                Err(Refused::Silently) => assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
            }
        }
    }
}
