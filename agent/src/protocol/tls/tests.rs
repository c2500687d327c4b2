//! Hellos built field by field, cut at every length, mutated, and compared with `tls-parser`.

use proptest::prelude::*;
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extensions, parse_tls_plaintext};

use super::super::facts::TlsFacts;
use super::super::host_name::HostName;
use super::super::malformed::{Malformed, MalformedCounts};
use super::reader::{Direction, TlsReader};
use super::*;

fn vector16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes(), content].concat()
}

fn vector8(content: &[u8]) -> Vec<u8> {
    [&[content.len() as u8], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[&[0], vector16(name).as_slice()].concat()))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    extension(
        16,
        &vector16(&protocols.iter().flat_map(|name| vector8(name)).collect::<Vec<_>>()),
    )
}

fn client_hello(session_id: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let fixed = [&[3, 3][..], &[7; 32], &vector8(session_id), &[0, 2, 0x13, 1], &[1, 0]].concat();
    [fixed, vector16(&extensions.concat())].concat()
}

fn server_hello(random: &[u8], session_id: &[u8], cipher: u16, extensions: &[Vec<u8>]) -> Vec<u8> {
    let fixed = [&[3, 3][..], random, &vector8(session_id), &cipher.to_be_bytes(), &[0]].concat();
    [fixed, vector16(&extensions.concat())].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

fn record(content_type: u8, fragment: &[u8]) -> Vec<u8> {
    [&[content_type, 3, 3], vector16(fragment).as_slice()].concat()
}

fn read(direction: Direction, facts: &mut TlsFacts, bytes: &[u8]) -> MalformedCounts {
    let mut malformed = MalformedCounts::default();
    let mut reader = TlsReader::new(direction);
    reader.feed(bytes, facts, &mut malformed);
    reader.finish(facts, &mut malformed);
    malformed
}

fn usual_hello() -> Vec<u8> {
    client_hello(
        &[9; 32],
        &[
            extension(0x0a0a, &[]),
            server_name(b"Proxy.Example.ORG"),
            alpn(&[b"h2", b"http/1.1", b"\x1a\x1a"]),
            extension(43, &vector8(&[0x1a, 0x1a, 3, 4, 3, 3])),
            extension(35, &[1]),
            extension(42, &[]),
            extension(
                41,
                &[
                    vector16(&[vector16(&[5; 208]), vec![0; 4]].concat()),
                    vec![0, 33, 32],
                    vec![6; 32],
                ]
                .concat(),
            ),
        ],
    )
}

#[test]
fn a_client_hello_is_read_in_full() {
    let hello = ClientHello::parse(&usual_hello()).expect("it is one");
    assert_eq!(
        hello.server_name.name().map(HostName::as_str),
        Some("proxy.example.org")
    );
    assert_eq!(hello.alpn, [Box::from("h2"), Box::from("http/1.1")]);
    assert_eq!((hello.legacy_version, hello.newest_version()), (TLS12, TLS13));
    assert_eq!(hello.supported_versions, [TLS13, TLS12]);
    assert!(hello.offers_h2() && hello.pre_shared_key && hello.early_data && hello.session_ticket);
    assert!(!hello.truncated);
    assert_eq!(hello.offered_ticket_bytes, 208);
}

#[test]
fn a_hello_cut_anywhere_is_none_and_its_prefix_keeps_the_name() {
    let hello = usual_hello();
    // Up to the compression methods it would be a hello without extensions, which is one.
    let without_extensions = 2 + 32 + 33 + 4 + 2;
    let names = (0..hello.len())
        .filter(|end| *end != without_extensions)
        .inspect(|end| assert_eq!(ClientHello::parse(&hello[..*end]), None, "{end}"))
        .filter_map(|end| ClientHello::parse_prefix(&hello[..end]))
        .inspect(|prefix| assert!(prefix.truncated))
        .filter(|prefix| prefix.server_name.name().is_some())
        .count();
    assert!(names > 60, "{names}");
    assert_eq!(ClientHello::parse(&[hello, vec![0]].concat()), None);
}

#[test]
fn names_that_are_none_are_counted_and_not_learned() {
    for name in [
        &b""[..],
        b"10.0.0.1",
        b"a b",
        b"a\0.example",
        b"\xff",
        &[b'a'; 254],
        b"a;drop",
    ] {
        let bytes = record(
            22,
            &message(1, &client_hello(&[], &[server_name(name), alpn(&[b"h2"])])),
        );
        let mut facts = TlsFacts::default();
        let malformed = read(Direction::Forward, &mut facts, &bytes);
        assert_eq!(malformed.get(Malformed::ServerName), 1, "{name:?}");
        assert_eq!(facts.server_name(), None);
        assert!(facts.client_hello.is_some_and(|hello| hello.offers_h2()));
    }
}

#[test]
fn lists_are_bounded() {
    let protocols = vec![&b"http/1.1"[..]; 1000];
    let versions = extension(43, &vector8(&[3, 4].repeat(100)));
    let hello = ClientHello::parse(&client_hello(&[], &[alpn(&protocols), versions])).expect("it is one");
    assert_eq!(hello.alpn.len(), client_hello::ALPN_LIMIT);
    assert_eq!(hello.supported_versions.len(), client_hello::VERSION_LIMIT);
}

#[test]
fn a_hello_of_64_kib_gives_its_name_and_is_counted() {
    let padding = extension(21, &vec![0; 60_000]);
    let body = client_hello(&[], &[server_name(b"a.example"), padding]);
    let whole = message(1, &body);
    let bytes: Vec<u8> = whole
        .chunks(1 << 14)
        .flat_map(|fragment| record(22, fragment))
        .collect();
    let mut facts = TlsFacts::default();
    let malformed = read(Direction::Forward, &mut facts, &bytes);
    assert_eq!(facts.server_name(), Some("a.example"));
    assert!(facts.client_hello.is_some_and(|hello| hello.truncated));
    assert_eq!(malformed.get(Malformed::Incomplete), 1);
}

#[test]
fn tls13_with_a_retry_in_compatibility_mode() {
    let retry_random: Vec<u8> = (0..64)
        .step_by(2)
        .map(|at| {
            let hex = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c";
            u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")
        })
        .collect();
    let versions = extension(43, &[3, 4]);
    let retry = message(
        2,
        &server_hello(&retry_random, &[9; 32], 0x1302, std::slice::from_ref(&versions)),
    );
    let chosen = message(
        2,
        &server_hello(&[1; 32], &[9; 32], 0x1302, &[versions, extension(41, &[0, 0])]),
    );
    let ccs = record(20, &[1]);
    let backward = [
        record(22, &retry),
        ccs.clone(),
        record(22, &chosen),
        record(23, &[0; 90]),
    ]
    .concat();
    let second = client_hello(
        &[9; 32],
        &[
            server_name(b"b.example"),
            extension(
                41,
                &[
                    vector16(&[vector16(&[5; 208]), vec![0; 4]].concat()),
                    vec![0, 33, 32],
                    vec![6; 32],
                ]
                .concat(),
            ),
        ],
    );
    let forward = [
        record(22, &message(1, &usual_hello())),
        ccs,
        record(22, &message(1, &second)),
        record(23, &[0; 53]),
    ]
    .concat();
    let mut facts = TlsFacts::default();
    let mut malformed = read(Direction::Forward, &mut facts, &forward);
    malformed.add(&read(Direction::Backward, &mut facts, &backward));
    assert_eq!(malformed, MalformedCounts::default());
    assert!(facts.retried && facts.server_hello.as_ref().is_some_and(|hello| !hello.is_retry));
    assert_eq!(
        (facts.version(), facts.cipher(), facts.resumed()),
        (Some(TLS13), Some(0x1302), Some(true))
    );
    assert_eq!(facts.server_name(), Some("b.example"));
    assert_eq!(facts.cipher_name().as_deref(), Some("TLS_AES_256_GCM_SHA384"));
}

#[test]
fn tls12_full_resumed_and_by_ticket() {
    let alpn_h2 = alpn(&[b"h2"]);
    let hello = |session_id: &[u8]| {
        message(
            2,
            &server_hello(&[1; 32], session_id, 0xc02f, std::slice::from_ref(&alpn_h2)),
        )
    };
    let ccs = record(20, &[1]);
    let encrypted = record(22, &[0xa5; 40]);
    let done = message(14, &[]);
    for (session_id, messages, resumed, abbreviated) in [
        (&[1; 32][..], [hello(&[1; 32]), done.clone()].concat(), false, false),
        (&[9; 32], hello(&[9; 32]), true, true),
        (&[], hello(&[]), true, true),
    ] {
        let backward = [record(22, &messages), ccs.clone(), encrypted.clone()].concat();
        let mut facts = TlsFacts::default();
        let mut malformed = read(
            Direction::Forward,
            &mut facts,
            &[record(22, &message(1, &usual_hello())), ccs.clone(), encrypted.clone()].concat(),
        );
        malformed.add(&read(Direction::Backward, &mut facts, &backward));
        assert_eq!(malformed, MalformedCounts::default(), "{session_id:?}");
        assert_eq!(
            (facts.resumed(), facts.abbreviated),
            (Some(resumed), abbreviated),
            "{session_id:?}"
        );
        assert_eq!((facts.version(), facts.alpn_chosen()), (Some(TLS12), Some("h2")));
    }
}

#[test]
fn nothing_comes_after_a_fatal_alert() {
    let hello = record(22, &message(1, &usual_hello()));
    for (alert, reads_on, is_malformed) in [
        (&[1, 112][..], true, 0),
        (&[2, 40], false, 0),
        (&[2], false, 1),
        (&[0, 0], false, 1),
        (&[3, 0], false, 1),
        (&[2, 48, 0], false, 1),
    ] {
        let mut facts = TlsFacts::default();
        let bytes = [record(21, alert), hello.clone()].concat();
        let malformed = read(Direction::Forward, &mut facts, &bytes);
        assert_eq!(malformed.get(Malformed::Alert), is_malformed, "{alert:?}");
        assert_eq!(facts.client_hello.is_some(), reads_on, "{alert:?}");
    }
}

#[test]
fn what_is_no_tls_is_counted_by_kind() {
    for (bytes, kind) in [
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Malformed::Record),
        (record(22, &message(2, &[0; 40])), Malformed::Handshake),
        (record(22, &message(1, &[0; 40])), Malformed::ClientHello),
        (record(22, &[1, 0xff, 0xff, 0xff, 0]), Malformed::Handshake),
        (
            record(22, &message(1, &usual_hello()))[..90].to_vec(),
            Malformed::Incomplete,
        ),
        (b"\x16\x03".to_vec(), Malformed::Incomplete),
    ] {
        let malformed = read(Direction::Forward, &mut TlsFacts::default(), &bytes);
        assert_eq!(malformed.iter().collect::<Vec<_>>(), [(kind, 1)], "{bytes:?}");
    }
}

/// Names, protocols and versions.
type Read = (Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<u16>);

/// What `tls-parser` reads in a record with one hello: names, protocols, versions.
fn oracle(bytes: &[u8]) -> Option<Read> {
    let (_, plaintext) = parse_tls_plaintext(bytes).ok()?;
    let [TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello))] = plaintext.msg.as_slice() else {
        return None;
    };
    let (rest, extensions) = parse_tls_extensions(hello.ext.unwrap_or_default()).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let (mut names, mut protocols, mut versions) = (vec![], vec![], vec![]);
    for extension in extensions {
        match extension {
            TlsExtension::SNI(list) => names.extend(list.into_iter().map(|(_, name)| name.to_vec())),
            TlsExtension::ALPN(list) => protocols.extend(list.into_iter().map(<[u8]>::to_vec)),
            TlsExtension::SupportedVersions(list) => versions.extend(list.into_iter().map(|version| version.0)),
            _ => {}
        }
    }
    Some((names, protocols, versions))
}

/// Where both read a hello, both read the same.
fn agree(bytes: &[u8]) {
    let mut facts = TlsFacts::default();
    read(Direction::Forward, &mut facts, bytes);
    let (Some(hello), Some((names, protocols, versions))) = (facts.client_hello, oracle(bytes)) else {
        return;
    };
    if hello.truncated {
        return;
    }
    if let ServerName::Name(name) = &hello.server_name {
        let lower = names.last().expect("the oracle sees the name").to_ascii_lowercase();
        assert_eq!(lower.strip_suffix(b".").unwrap_or(&lower), name.as_str().as_bytes());
    }
    let protocols = protocols
        .iter()
        .filter_map(|name| alpn_text(name))
        .take(client_hello::ALPN_LIMIT);
    assert_eq!(protocols.collect::<Vec<_>>(), hello.alpn);
    let versions = versions
        .into_iter()
        .filter(|version| !is_grease(*version))
        .take(client_hello::VERSION_LIMIT);
    assert_eq!(versions.collect::<Vec<_>>(), hello.supported_versions);
}

proptest! {
    #[test]
    fn generated_hellos_read_as_the_oracle_reads_them(
        name in "[a-zA-Z0-9_.-]{0,40}",
        protocols in prop::collection::vec("[ -~]{1,12}", 1..12),
        versions in prop::collection::vec(any::<[u8; 2]>(), 1..12),
        session_id in prop::collection::vec(any::<u8>(), 0..=32),
    ) {
        let protocols: Vec<_> = protocols.iter().map(String::as_bytes).collect();
        let extensions = [server_name(name.as_bytes()), alpn(&protocols), extension(43, &vector8(&versions.concat()))];
        let bytes = record(22, &message(1, &client_hello(&session_id, &extensions)));
        prop_assert!(oracle(&bytes).is_some() || name.is_empty());
        agree(&bytes);
        let mut facts = TlsFacts::default();
        read(Direction::Forward, &mut facts, &bytes);
        let hello = facts.client_hello.expect("it is well formed");
        let expected = HostName::parse(name.as_bytes());
        prop_assert_eq!(hello.server_name.name(), expected.as_ref());
        prop_assert_eq!(&*hello.session_id, &session_id[..]);
    }

    #[test]
    fn mutated_hellos_are_read_alike_or_not_at_all(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = record(22, &message(1, &usual_hello()));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        agree(&bytes);
    }

    #[test]
    fn any_bytes_in_any_pieces_give_the_same(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
        forward in any::<bool>(),
        with_hello in any::<bool>(),
    ) {
        let direction = if forward { Direction::Forward } else { Direction::Backward };
        let hello = if with_hello { record(22, &message(1, &usual_hello())) } else { vec![] };
        let bytes = [hello, bytes].concat();
        let (mut whole, mut pieces) = (TlsFacts::default(), TlsFacts::default());
        let counts = read(direction, &mut whole, &bytes);
        let mut malformed = MalformedCounts::default();
        let mut reader = TlsReader::new(direction);
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        reader.feed(first, &mut pieces, &mut malformed);
        second.chunks(1).for_each(|byte| reader.feed(byte, &mut pieces, &mut malformed));
        reader.finish(&mut pieces, &mut malformed);
        prop_assert_eq!((whole, counts), (pieces, malformed));
    }
}

#[test]
fn versions_and_grease() {
    assert_eq!(version_name(TLS13), Some("1.3"));
    assert_eq!(version_name(0x7f1c), None);
    assert!(is_grease(0x0a0a) && is_grease(0xfafa));
    assert!(!is_grease(TLS13) && !is_grease(0x0a1a));
}

#[test]
fn only_printable_protocols_are_kept() {
    assert_eq!(alpn_text(b"http/1.1").as_deref(), Some("http/1.1"));
    for bad in [&b""[..], b"\x0a\x0a", b"h 2", &[b'a'; 33]] {
        assert_eq!(alpn_text(bad), None);
    }
}
