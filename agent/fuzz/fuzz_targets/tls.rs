//! Any bytes of either direction give the same facts however they are cut, and little is kept between the pieces.
//!
//! The first byte is the direction and the length of the pieces.
#![no_main]

use agent_ebpf::hello::HELLO_LIMIT;
use hopline::protocol::certificate::{Chain, Circumstances, Roots};
use hopline::protocol::tls::certificate_list::certificate_list;
use hopline::protocol::tls::reader::{Direction, TlsReader};
use hopline::protocol::tls::{ClientHello, ServerHello};
use hopline::protocol::{MalformedCounts, TlsFacts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let direction = if first & 1 == 0 {
        Direction::Forward
    } else {
        Direction::Backward
    };
    let whole = read(direction, bytes, usize::MAX);
    assert_eq!(whole, read(direction, bytes, usize::from(first >> 1) + 1));

    if let Some(hello) = ClientHello::parse(bytes) {
        let prefix = ClientHello::parse_prefix(bytes).expect("the whole is a prefix too");
        assert_eq!(
            ClientHello {
                truncated: false,
                ..prefix
            },
            hello
        );
    }
    let _ = ServerHello::parse(bytes);
    let roots = Roots::default();
    let circumstances = Circumstances {
        server_name: Some("a.example"),
        now_unix_s: 0,
        roots: &roots,
        is_authority_refused: true,
    };
    let certificates = certificate_list(bytes);
    for chain in [Chain::read(&[bytes]), certificates.as_deref().and_then(Chain::read)]
        .into_iter()
        .flatten()
    {
        chain.state(circumstances);
    }
});

fn read(direction: Direction, bytes: &[u8], piece: usize) -> (TlsFacts, MalformedCounts) {
    let mut reader = TlsReader::new(direction);
    let (mut facts, mut malformed) = (TlsFacts::default(), MalformedCounts::default());
    for piece in bytes.chunks(piece.min(bytes.len().max(1))) {
        reader.feed(piece, &mut facts, &mut malformed);
        assert!(reader.buffered() <= HELLO_LIMIT);
    }
    reader.finish(&mut facts, &mut malformed);
    assert!(reader.is_done() && reader.buffered() == 0);
    (facts, malformed)
}
