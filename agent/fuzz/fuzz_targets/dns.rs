//! Any bytes are a DNS message within its bounds or a counted malformed one; as a stream they give the same messages
//! however they are cut.
//!
//! The first byte is whether the capture is whole and the length of the pieces.
#![no_main]

use hopline::protocol::MalformedCounts;
use hopline::protocol::dns::{DnsName, MESSAGE_LIMIT, Message, StreamReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let mut malformed = MalformedCounts::default();
    match Message::read(bytes, first & 1 == 0, &mut malformed) {
        Some(message) => check(&message),
        None => assert_eq!(malformed.iter().count(), 1),
    }
    let whole = read(bytes, usize::MAX);
    whole.0.iter().for_each(check);
    assert_eq!(whole, read(bytes, usize::from(first >> 1) + 1));
});

fn check(message: &Message) {
    let answers = &message.answers;
    assert!(answers.addresses.len() <= 32 && answers.aliases.len() <= 16);
    assert!(answers.addresses.is_empty() || answers.is_found && message.is_response);
    let asked = message.question.iter().map(|question| &question.name);
    for name in asked.chain(&answers.aliases).filter_map(DnsName::valid) {
        assert!(
            name.len() <= 253
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
        );
    }
}

fn read(bytes: &[u8], piece: usize) -> (Vec<Message>, MalformedCounts, bool) {
    let mut reader = StreamReader::new();
    let (mut messages, mut malformed, mut offset) = (Vec::new(), MalformedCounts::default(), 0);
    for piece in bytes.chunks(piece.min(bytes.len().max(1))) {
        reader.feed(offset, piece, &mut malformed, |message| messages.push(message));
        offset += piece.len() as u64;
        assert!(reader.buffered() <= MESSAGE_LIMIT + 2);
    }
    (messages, malformed, reader.is_lost())
}
