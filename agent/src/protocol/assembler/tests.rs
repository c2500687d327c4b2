//! Chunks in order, doubled, torn, lost; CONNECT before TLS; bounds.

use agent_ebpf::event::{EventHeader, HELLO_BYTES};
use proptest::prelude::*;

use super::super::facts::{HttpFacts, TlsFacts};
use super::*;

/// A `ClientHello` record for `a.example` with ALPN h2.
fn hello() -> Vec<u8> {
    let name = b"\0\0\0\x0e\0\x0c\0\0\x09a.example";
    let alpn = b"\0\x10\0\x05\0\x03\x02h2";
    let padding = [&[0, 21, 0, 200][..], &[0; 200]].concat();
    let extensions = [&name[..], alpn, &padding].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

fn push(
    assembler: &mut Assembler,
    stream: u64,
    direction: u8,
    protocol: u8,
    offset: usize,
    bytes: &[u8],
    time_ns: u64,
) {
    let header = HelloHeader {
        header: EventHeader {
            kind: HELLO_BYTES,
            size: 40 + bytes.len() as u32,
            time_ns,
        },
        stream,
        cgroup_id: 1,
        offset: offset as u32,
        length: bytes.len() as u16,
        direction,
        protocol,
    };
    assembler.push(&header, bytes);
}

fn name(facts: &Facts) -> Option<&str> {
    facts.tls.as_ref().and_then(TlsFacts::server_name)
}

#[test]
fn facts_are_there_as_soon_as_the_bytes_are_and_the_bytes_are_gone() {
    let mut assembler = Assembler::new(AssemblerLimits::default());
    let hello = hello();
    for (at, byte) in hello.iter().enumerate() {
        assert!(assembler.facts(1).is_none_or(|facts| name(facts).is_none()));
        push(&mut assembler, 1, FORWARD, PROTOCOL_TLS, at, &[*byte], 1);
    }
    assert_eq!(assembler.facts(1).and_then(name), Some("a.example"));
    assert_eq!(assembler.buffered_bytes(), 0);
    assert!(assembler.take(1).is_some() && assembler.take(1).is_none() && assembler.is_empty());
}

#[test]
fn tls_after_connect_keeps_counting() {
    let connect = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
    let answer = b"HTTP/1.1 200 Connection established\r\n\r\n";
    for reversed in [false, true] {
        let mut assembler = Assembler::new(AssemblerLimits::default());
        let mut chunks = vec![
            (PROTOCOL_HTTP1, 0, connect.to_vec()),
            (PROTOCOL_TLS, connect.len(), hello()),
        ];
        if reversed {
            chunks.reverse();
        }
        for (protocol, offset, bytes) in chunks {
            push(&mut assembler, 1, FORWARD, protocol, offset, &bytes, 1);
        }
        push(&mut assembler, 1, BACKWARD, PROTOCOL_HTTP1, 0, answer, 1);
        let facts = assembler.take(1).expect("it is there");
        assert_eq!(name(&facts), Some("a.example"));
        let http = facts.http.expect("it began with HTTP");
        assert!(http.connect_target().is_some_and(|target| target.port == Some(443)));
        assert_eq!(http.status, Some(200));
        assert_eq!(facts.malformed, MalformedCounts::default());
    }
}

#[test]
fn tls_behind_a_lost_chunk_is_read_in_the_end() {
    let mut assembler = Assembler::new(AssemblerLimits::default());
    push(&mut assembler, 1, FORWARD, PROTOCOL_TLS, 60, &hello(), 1);
    assert_eq!(assembler.facts(1).and_then(name), None);
    assert_eq!(assembler.take(1).as_ref().and_then(name), Some("a.example"));
    let hello = hello();
    push(&mut assembler, 2, FORWARD, PROTOCOL_TLS, 0, &hello[..100], 1);
    push(&mut assembler, 2, FORWARD, PROTOCOL_TLS, 120, &hello[120..], 1);
    let facts = assembler.take(2).expect("it is there");
    assert_eq!(name(&facts), Some("a.example"), "the first part has the name");
    assert!(facts.malformed.get(Malformed::Incomplete) > 0);
    assert!(
        facts
            .tls
            .is_some_and(|tls| tls.client_hello.is_some_and(|hello| hello.truncated))
    );
}

#[test]
fn streams_bytes_and_age_are_bounded_and_counted() {
    let limits = AssemblerLimits {
        streams: 4,
        bytes: 1000,
        idle_ns: 100,
    };
    let mut assembler = Assembler::new(limits);
    for stream in 0..10 {
        push(&mut assembler, stream, FORWARD, PROTOCOL_TLS, 0, &[22], stream);
    }
    assert_eq!((assembler.len(), assembler.counts().evicted), (4, 6));
    assert!(assembler.facts(5).is_none() && assembler.facts(6).is_some());
    push(&mut assembler, 6, FORWARD, PROTOCOL_TLS, 100, &[0; 990], 20);
    push(&mut assembler, 7, FORWARD, PROTOCOL_TLS, 100, &[0; 990], 20);
    assert!(assembler.buffered_bytes() <= 1000 && assembler.facts(7).is_some() && assembler.facts(6).is_none());
    let evicted = assembler.counts().evicted;
    push(&mut assembler, 50, FORWARD, PROTOCOL_TLS, 0, &[22], 1000);
    assert_eq!((assembler.len(), assembler.counts().evicted), (1, evicted));
    assert_eq!(u64::from(assembler.counts().expired > 0) + evicted, 1 + evicted);
    assembler.expire(2000);
    assert!(assembler.is_empty() && assembler.buffered_bytes() == 0);
}

#[test]
fn chunks_that_the_kernel_cannot_send_are_counted() {
    let mut assembler = Assembler::new(AssemblerLimits::default());
    push(&mut assembler, 1, 2, PROTOCOL_TLS, 0, &[22], 1);
    push(&mut assembler, 1, FORWARD, 1, 0, &[22], 1);
    push(&mut assembler, 1, FORWARD, PROTOCOL_TLS, HELLO_LIMIT, &[22], 1);
    assert_eq!(assembler.counts().malformed.get(Malformed::Chunk), 3);
    assert!(assembler.is_empty());
}

#[test]
fn http_that_is_none_is_counted_once() {
    let mut assembler = Assembler::new(AssemblerLimits::default());
    push(
        &mut assembler,
        1,
        FORWARD,
        PROTOCOL_HTTP1,
        0,
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        1,
    );
    push(&mut assembler, 1, BACKWARD, PROTOCOL_HTTP1, 0, b"nonsense", 1);
    let facts = assembler.take(1).expect("it is there");
    assert_eq!(facts.malformed.get(Malformed::HttpHost), 1);
    assert_eq!(facts.malformed.get(Malformed::Http), 1);
    assert_eq!(facts.malformed, assembler.counts().malformed);
    assert_eq!(facts.http.map(|http: HttpFacts| http.status), Some(None));
}

proptest! {
    #[test]
    fn any_order_with_doubles_and_overlaps_gives_the_same(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..120), 0..12),
        order in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let hello = hello();
        // Chunks of 40 bytes that are the whole, and others that overlap them.
        let mut chunks: Vec<_> = (0..hello.len()).step_by(40).map(|at| (at, 40)).collect();
        chunks.extend(cuts.iter().map(|(at, length)| (at.index(hello.len()), *length)));
        let mut order: Vec<_> = order.into_iter().filter(|at| *at < chunks.len()).collect();
        order.extend(24..chunks.len());
        let mut assembler = Assembler::new(AssemblerLimits::default());
        for at in order {
            let (start, length) = chunks[at];
            let end = (start + length).min(hello.len());
            push(&mut assembler, 1, FORWARD, PROTOCOL_TLS, start, &hello[start..end], 1);
        }
        let facts = assembler.take(1).expect("it is there");
        prop_assert_eq!(name(&facts), Some("a.example"));
        prop_assert_eq!(facts.malformed, MalformedCounts::default());
        prop_assert_eq!(assembler.buffered_bytes(), 0);
    }
}
