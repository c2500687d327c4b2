//! Messages written byte by byte, messages that `hickory-proto` encodes, cut and mutated ones, and streams of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message as Built, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::super::malformed::{Malformed, MalformedCounts};
use super::*;

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let labels = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [&[id, flags][..], &counts]
        .concat()
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .collect()
}

fn question(text: &str, kind: u16) -> Vec<u8> {
    [name(text), kind.to_be_bytes().to_vec(), vec![0, 1]].concat()
}

fn record(owner: &[u8], kind: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [owner, &kind.to_be_bytes(), &[0, 1], &ttl_s.to_be_bytes(), &length, data].concat()
}

/// An answer to `A api.example` with these records.
fn answer(records: &[Vec<u8>]) -> Vec<u8> {
    let header = header(7, 0x8180, [1, records.len() as u16, 0, 0]);
    [header, question("Api.eXample", 1), records.concat()].concat()
}

fn read(bytes: &[u8]) -> Result<Message, Vec<Malformed>> {
    let mut malformed = MalformedCounts::default();
    let message = Message::read(bytes, true, &mut malformed);
    message.ok_or_else(|| malformed.iter().map(|(kind, _)| kind).collect())
}

fn check_malformed(bytes: &[u8], kind: Malformed) {
    assert_eq!(read(bytes), Err(vec![kind]), "{bytes:?}");
}

/// Reads an answer: addresses with their TTL, and aliases.
fn check_answer(records: &[Vec<u8>], addresses: &[([u8; 4], u32)], aliases: &[&str]) {
    let message = read(&answer(records)).expect("it is well formed");
    let found: Vec<_> = message
        .answers
        .addresses
        .iter()
        .map(|found| (found.address, found.ttl_s))
        .collect();
    let expected: Vec<_> = addresses
        .iter()
        .map(|(octets, ttl_s)| (IpAddr::from(*octets), *ttl_s))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(
        message.answers.aliases.iter().map(DnsName::as_str).collect::<Vec<_>>(),
        aliases
    );
    assert_eq!(message.answers.is_found, !addresses.is_empty());
}

#[test]
fn a_query_and_its_answer() {
    let query = [header(0xbeef, 0x0100, [1, 0, 0, 0]), question("_Ldap._tcp.Example", 33)].concat();
    let message = read(&query).expect("a query");
    assert_eq!(
        (message.id, message.is_response, message.opcode, message.rcode),
        (0xbeef, false, 0, 0)
    );
    let asked = message.question.expect("a question");
    assert_eq!(
        (asked.name.as_str(), asked.query_type()),
        ("_ldap._tcp.example", QueryType::Srv)
    );

    let denied = [header(1, 0x8183, [1, 0, 0, 0]), question("a", 28)].concat();
    let message = read(&denied).expect("an answer");
    assert_eq!(
        (message.is_response, ResponseCode::of(message.rcode)),
        (true, ResponseCode::NxDomain)
    );
    assert!(!message.answers.is_found);
}

#[test]
fn addresses_follow_from_the_question() {
    let at_question = [0xc0, 12];
    check_answer(
        &[record(&at_question, 1, 60, &[10, 0, 0, 1])],
        &[([10, 0, 0, 1], 60)],
        &[],
    );
    // Not asked for, another type, another class, another length.
    check_answer(&[record(&name("other.example"), 1, 60, &[10, 0, 0, 1])], &[], &[]);
    check_answer(&[record(&at_question, 28, 60, &[1; 16])], &[], &[]);
    let chaos = [&at_question[..], &[0, 1, 0, 3, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]].concat();
    check_answer(&[chaos], &[], &[]);
    let short = read(&answer(&[record(&at_question, 1, 60, &[10, 0, 1])])).expect("it is well formed");
    assert_eq!(short.answers.addresses, []);
    // A TTL with the highest bit is none.
    check_answer(
        &[record(&at_question, 1, 1 << 31, &[10, 0, 0, 1])],
        &[([10, 0, 0, 1], 0)],
        &[],
    );
}

#[test]
fn aliases_are_followed_in_any_order() {
    let first = record(&[0xc0, 12], 5, 300, &name("Cdn.example"));
    let second = record(&name("cdn.EXAMPLE"), 5, 20, &name("edge.example"));
    let address = record(&name("edge.example"), 1, 60, &[10, 0, 0, 1]);
    let other = record(&name("edge.example"), 1, 10, &[10, 0, 0, 2]);
    let expected = [([10, 0, 0, 1], 20), ([10, 0, 0, 2], 10)];
    let aliases = ["cdn.example", "edge.example"];
    check_answer(
        &[first.clone(), second.clone(), address.clone(), other.clone()],
        &expected,
        &aliases,
    );
    check_answer(
        &[address.clone(), other, second.clone(), first.clone()],
        &expected,
        &aliases,
    );
    // A chain with a hole, and one that ends nowhere.
    check_answer(&[first.clone(), address], &[], &aliases[..1]);
    check_answer(&[first, second], &[], &aliases);
}

#[test]
fn chains_and_sets_have_a_bound() {
    let circle = record(&[0xc0, 12], 5, 300, &[0xc0, 12]);
    check_answer(&[circle], &[], &["api.example"; 16]);
    let chain = |length: u8| {
        let step = |number: u8| {
            if number == 0 {
                "api.example".to_owned()
            } else {
                format!("a{number}")
            }
        };
        let mut records: Vec<_> = (0..length)
            .map(|number| record(&name(&step(number)), 5, 300, &name(&step(number + 1))))
            .collect();
        records.push(record(&name(&step(length)), 1, 300, &[10, 0, 0, 1]));
        read(&answer(&records)).expect("it is well formed").answers
    };
    assert!(chain(16).is_found);
    assert_eq!((chain(17).is_found, chain(17).aliases.len()), (false, 16));

    let many: Vec<_> = (0..100)
        .map(|number| record(&[0xc0, 12], 1, 300, &[10, 0, 0, number]))
        .collect();
    let message = read(&answer(&many)).expect("it is well formed");
    assert_eq!(message.answers.addresses.len(), 32);
}

#[test]
fn an_invalid_name_is_counted_and_teaches_nothing() {
    let mut malformed = MalformedCounts::default();
    for bad in ["a b", "a\u{1b}[2Jb", "caf\u{e9}.example", "127.0.0.1"] {
        let records = record(&[0xc0, 12], 1, 60, &[10, 0, 0, 1]);
        let bytes = [header(7, 0x8180, [1, 1, 0, 0]), question(bad, 1), records].concat();
        let message = Message::read(&bytes, true, &mut malformed).expect("it is well formed");
        assert_eq!(message.question.map(|question| question.name), Some(DnsName::Invalid));
        assert_eq!(
            (message.answers.is_found, message.answers.addresses),
            (true, Vec::new())
        );
    }
    assert_eq!(malformed.get(Malformed::DnsQuestionName), 4);
}

#[test]
fn what_is_no_message() {
    check_malformed(&[0; 11], Malformed::DnsHeader);
    check_malformed(&header(1, 0, [0, 0, 0, 0]), Malformed::DnsQuestions);
    check_malformed(&header(1, 0x8180, [0, 0, 0, 0]), Malformed::DnsQuestions);
    let two = [header(1, 0, [2, 0, 0, 0]), question("a", 1), question("b", 1)].concat();
    check_malformed(&two, Malformed::DnsQuestions);
    check_malformed(&header(1, 0, [1, 0, 0, 0]), Malformed::Incomplete);
    let of_itself = [header(1, 0, [1, 0, 0, 0]), vec![0xc0, 12, 0, 1, 0, 1]].concat();
    check_malformed(&of_itself, Malformed::DnsName);
    let long = [
        header(1, 0, [1, 0, 0, 0]),
        question(&["a".repeat(59).as_str(); 5].join("."), 1),
    ]
    .concat();
    check_malformed(&long, Malformed::DnsName);
    let whole = answer(&[record(&[0xc0, 12], 1, 60, &[10, 0, 0, 1])]);
    check_malformed(&whole[..whole.len() - 1], Malformed::DnsRecord);
    check_malformed(
        &answer(&[record(&[0xc0, 200], 1, 60, &[10, 0, 0, 1])]),
        Malformed::DnsName,
    );
    // An error may come without its question.
    let bare = read(&header(1, 0x8181, [0, 0, 0, 0])).expect("FORMERR of a server that reads no more");
    assert_eq!((bare.question, bare.rcode), (None, 1));
}

#[test]
fn what_was_cut_counts_as_far_as_it_goes() {
    let records = [1, 2].map(|number| record(&[0xc0, 12], 1, 60, &[10, 0, 0, number]));
    let whole = answer(&records);
    let mut malformed = MalformedCounts::default();
    let cut = Message::read(&whole[..whole.len() - 3], false, &mut malformed).expect("the capture is short");
    assert_eq!(cut.answers.addresses.len(), 1);
    let mut by_server = whole[..whole.len() - 3].to_vec();
    by_server[2] |= 2;
    let cut = Message::read(&by_server, true, &mut malformed).expect("TC says so");
    assert_eq!((cut.truncated, cut.answers.addresses.len()), (true, 1));
    assert_eq!(malformed, MalformedCounts::default());

    let mut many = vec![record(&[0xc0, 12], 1, 60, &[10, 0, 0, 1])];
    many.resize(40, record(&[0xc0, 12], 16, 60, &[0; 200]));
    let long = Message::read(&answer(&many), true, &mut malformed).expect("only the first 4 096 bytes are read");
    assert!(long.answers.is_found && malformed == MalformedCounts::default());
}

fn host(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).expect("a name")
}

/// What a server answers: the aliases and addresses, records that nobody asked for between them, all turned by `turn`.
#[derive(Clone, Debug)]
struct Plan {
    id: u16,
    rcode: u16,
    is_ipv6: bool,
    names: Vec<String>,
    ttls: Vec<u32>,
    addresses: Vec<u32>,
    turn: usize,
}

impl Plan {
    fn kind(&self) -> RecordType {
        if self.is_ipv6 { RecordType::AAAA } else { RecordType::A }
    }

    fn address(&self, number: u32) -> IpAddr {
        if self.is_ipv6 {
            Ipv6Addr::from(u128::from(number) << 64 | 1).into()
        } else {
            Ipv4Addr::from(number).into()
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut built = Built::new(self.id, MessageType::Response, OpCode::Query);
        built.metadata.response_code =
            hickory_proto::op::ResponseCode::from((self.rcode >> 4) as u8, self.rcode as u8 & 0xf);
        built.add_query(Query::query(host(&self.names[0]), self.kind()));
        let mut records = vec![Record::from_rdata(
            host("un.asked"),
            9,
            RData::A(A(Ipv4Addr::LOCALHOST)),
        )];
        for (names, ttl_s) in self.names.windows(2).zip(&self.ttls) {
            records.push(Record::from_rdata(
                host(&names[0]),
                *ttl_s,
                RData::CNAME(CNAME(host(&names[1]))),
            ));
            records.push(Record::from_rdata(
                host(&names[0]),
                5,
                RData::TXT(TXT::new(vec!["x".to_owned()])),
            ));
        }
        let owner = self.names.last().expect("at least one");
        for number in &self.addresses {
            let data = match self.address(*number) {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            };
            records.push(Record::from_rdata(host(owner), 600, data));
        }
        let turn = self.turn % records.len();
        records.rotate_left(turn);
        built.add_answers(records);
        built.set_edns(Edns::new());
        built.to_vec().expect("it can be encoded")
    }

    fn expected(&self) -> Message {
        let least = self
            .ttls
            .iter()
            .take(self.names.len() - 1)
            .copied()
            .min()
            .unwrap_or(600)
            .min(600);
        let owner_at = 1 + 2 * (self.names.len() - 1);
        let records = owner_at + self.addresses.len();
        // In the order of the message.
        let turned = (0..records).map(|place| (place + self.turn % records) % records);
        let addresses = turned.filter_map(|place| self.addresses.get(place.checked_sub(owner_at)?));
        Message {
            id: self.id,
            is_response: true,
            opcode: 0,
            truncated: false,
            rcode: self.rcode,
            question: Some(Question {
                name: DnsName::Valid(self.names[0].to_lowercase().into()),
                kind: self.kind().into(),
            }),
            answers: Answers {
                is_found: !self.addresses.is_empty(),
                addresses: addresses
                    .map(|number| Address {
                        address: self.address(*number),
                        ttl_s: least,
                    })
                    .collect(),
                aliases: self.names[1..]
                    .iter()
                    .map(|name| DnsName::Valid(name.to_lowercase().into()))
                    .collect(),
            },
        }
    }
}

prop_compose! {
    fn plan()(
        id: u16,
        rcode in prop_oneof![0..11_u16, 16..24_u16],
        is_ipv6: bool,
        names in prop::collection::hash_set("[a-zA-Z][a-z0-9_]{0,9}\\.(a|svc)\\.Example", 1..6),
        ttls in prop::collection::vec(0..10_000_u32, 6),
        addresses in prop::collection::vec(any::<u32>(), 0..20),
        turn: usize,
    ) -> Plan {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_by_key(|name| name.to_lowercase());
        names.dedup_by_key(|name| name.to_lowercase());
        Plan { id, rcode, is_ipv6, names, ttls, addresses, turn }
    }
}

proptest! {
    #[test]
    fn what_others_encode_is_read_the_same(plan in plan()) {
        prop_assert_eq!(read(&plan.encode()), Ok(plan.expected()));
    }

    #[test]
    fn any_bytes_are_a_message_or_malformed(mut bytes in prop::collection::vec(any::<u8>(), 0..600), plan in plan(), cut: prop::sample::Index, is_whole: bool) {
        let mut malformed = MalformedCounts::default();
        Message::read(&bytes, is_whole, &mut malformed);
        // Mutated and cut ones get further.
        let mut encoded = plan.encode();
        for pair in bytes.chunks_exact(24) {
            let at = usize::from(u16::from_be_bytes([pair[0], pair[1]])) % encoded.len();
            encoded[at] ^= pair[2];
        }
        Message::read(&encoded, is_whole, &mut malformed);
        encoded.truncate(cut.index(encoded.len()));
        Message::read(&encoded, is_whole, &mut malformed);
        // A stream of whatever is there.
        bytes.extend(encoded);
        let mut reader = StreamReader::new();
        reader.feed(0, &bytes, &mut malformed, drop);
        prop_assert!(reader.buffered() <= MESSAGE_LIMIT + 2);
    }

    #[test]
    fn a_stream_gives_the_same_however_it_is_cut(plans in prop::collection::vec(plan(), 0..6), pieces in prop::collection::vec(1..90_usize, 1..8)) {
        let mut stream = Vec::new();
        for plan in &plans {
            let message = plan.encode();
            stream.extend((message.len() as u16).to_be_bytes());
            stream.extend(message);
        }
        let (mut reader, mut malformed, mut found) = (StreamReader::new(), MalformedCounts::default(), Vec::new());
        let (mut offset, mut piece) = (0, pieces.iter().cycle());
        while offset < stream.len() {
            let end = stream.len().min(offset + piece.next().expect("it goes round"));
            // Each piece begins with what the last one ended with.
            let start = offset.saturating_sub(3);
            reader.feed(start as u64, &stream[start..end], &mut malformed, |message| found.push(message));
            offset = end;
        }
        prop_assert_eq!(found, plans.iter().map(Plan::expected).collect::<Vec<_>>());
        prop_assert_eq!((malformed, reader.buffered(), reader.is_lost()), (MalformedCounts::default(), 0, false));
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

#[test]
fn a_long_message_is_stepped_over() {
    let query = framed(&[header(1, 0x0100, [1, 0, 0, 0]), question("a", 1)].concat());
    let stream = [framed(&[7; 5000]), query.clone(), framed(&vec![0; 60_000]), query].concat();
    for piece in [1, 100, 4096, usize::MAX] {
        let (mut reader, mut malformed, mut found) = (StreamReader::new(), MalformedCounts::default(), 0);
        let mut offset = 0;
        for piece in stream.chunks(piece.min(stream.len())) {
            reader.feed(offset, piece, &mut malformed, |_| found += 1);
            offset += piece.len() as u64;
        }
        assert_eq!(
            (found, malformed.get(Malformed::DnsLength), reader.buffered()),
            (2, 2, 0)
        );
    }
}

#[test]
fn a_hole_ends_a_stream_for_good() {
    let query = framed(&[header(1, 0x0100, [1, 0, 0, 0]), question("a", 1)].concat());
    let check = |offsets: &[u64], bytes: &[u8], kind: Malformed, expected: u32| {
        let (mut reader, mut malformed, mut found) = (StreamReader::new(), MalformedCounts::default(), 0);
        for offset in offsets {
            reader.feed(*offset, bytes, &mut malformed, |_| found += 1);
        }
        assert_eq!((found, malformed.get(kind), reader.is_lost()), (expected, 1, true));
    };
    let length = query.len() as u64;
    check(&[0, length + 1, length, 2 * length], &query, Malformed::Incomplete, 1);
    check(&[1, 0], &query, Malformed::Incomplete, 0);
    // No DNS at all.
    check(&[0, 6], &[0, 4, 1, 2, 3, 4], Malformed::DnsHeader, 0);
}
