//! Bytes to events: every kind, every truncation, and bytes that are no event.
use super::events::{Random, bytes, cgroup, client, close, connection, exec, exit, fork, listener, samples};
use agent_ebpf::{
    event::{
        CONNECTION_CLOSE, CONNECTION_OPEN, EventHeader, HELLO_BYTES, KINDS, LISTENER_OPEN, SYNACK_RETRANSMIT, kind_name,
    },
    hello::HelloHeader,
};
use hopline::decode::{DecodeError, Event, decode};

fn one_of_each() -> Vec<Vec<u8>> {
    vec![
        connection(CONNECTION_OPEN, 1, client(1)),
        close(2, client(1)),
        connection(LISTENER_OPEN, 3, listener(2)),
        connection(SYNACK_RETRANSMIT, 4, listener(2)),
        bytes(&samples(4, 1, &[10_000])),
        fork(5, 2, 1, "sh"),
        exec(6, 2, 1, "/usr/bin/curl"),
        exit(7, 2),
        cgroup(8, 3, "/a"),
    ]
}

/// An event back to bytes, so that every field is compared.
fn encode(event: &Event<'_>) -> Vec<u8> {
    match event {
        Event::Hello(header, said) => [bytes(header), said.to_vec()].concat(),
        Event::Dns(header, said) => [bytes(header), said.to_vec()].concat(),
        Event::TlsFact(event) => bytes(event),
        Event::TlsProtocol(event) => bytes(event),
        Event::TlsCertificate(header, said) => [bytes(header), said.to_vec()].concat(),
        Event::Connection(event) => bytes(event),
        Event::Rtt(event) => bytes(event),
        Event::Turns(event) => bytes(event),
        Event::Fork(event) => bytes(event),
        Event::Exec(event) => bytes(event.as_ref()),
        Event::Exit(event) => bytes(event),
        Event::Cgroup(event) => bytes(event.as_ref()),
    }
}

#[test]
fn whole_events_at_any_alignment() {
    for sample in one_of_each() {
        for offset in 0..8 {
            let shifted = [vec![0xff; offset], sample.clone()].concat();
            let event = decode(&shifted[offset..]).expect("a whole event");
            assert_eq!(encode(&event), sample);
        }
    }
}

#[test]
fn every_truncation_is_named() {
    for sample in one_of_each() {
        for length in 0..sample.len() {
            let expected = if length < 16 { 16 } else { sample.len() };
            assert_eq!(
                decode(&sample[..length]),
                Err(DecodeError::Truncated {
                    expected,
                    actual: length
                })
            );
        }
    }
}

#[test]
fn a_chunk_has_the_room_it_was_given() {
    let header = HelloHeader {
        header: EventHeader {
            kind: HELLO_BYTES,
            size: 40 + 512,
            time_ns: 1,
        },
        stream: 7,
        cgroup_id: 0,
        offset: 0,
        length: 3,
        direction: 0,
        protocol: 3,
    };
    let sample = [bytes(&header), vec![0xaa; 512]].concat();
    assert_eq!(decode(&sample), Ok(Event::Hello(header, &[0xaa; 3])));
    for length in 16..sample.len() {
        assert!(decode(&sample[..length]).is_err(), "{length}");
    }
    for length in [513_u16, u16::MAX] {
        let long = HelloHeader { length, ..header };
        let sample = [bytes(&long), vec![0xaa; 512]].concat();
        assert!(matches!(decode(&sample), Err(DecodeError::WrongSize { .. })));
    }
}

#[test]
fn sizes_that_disagree() {
    for sample in one_of_each() {
        let longer = [sample.clone(), vec![0]].concat();
        assert!(matches!(decode(&longer), Err(DecodeError::WrongSize { .. })));
        let mut lying = sample.clone();
        lying[4] ^= 1;
        let Err(DecodeError::WrongSize {
            stated,
            actual,
            expected,
            ..
        }) = decode(&lying)
        else {
            panic!("the size in the header is wrong");
        };
        assert_eq!((actual, expected), (sample.len(), sample.len()));
        assert_eq!(stated as usize, sample.len() ^ 1);
    }
}

#[test]
fn only_named_kinds_are_known() {
    for kind in (0..=KINDS as u32).chain([u32::MAX]) {
        // Long enough for any kind; a chunk's own length is that of nothing.
        let mut sample = close(1, client(1));
        sample[..4].copy_from_slice(&kind.to_ne_bytes());
        let unknown = decode(&sample) == Err(DecodeError::UnknownKind(kind));
        assert_eq!(unknown, kind_name(kind).is_none(), "kind {kind}");
    }
    assert_eq!(kind_name(CONNECTION_CLOSE), Some("connection_close"));
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(1);
    let samples = one_of_each();
    for _ in 0..20_000 {
        let mut sample = samples[random.below(samples.len() as u64) as usize].clone();
        for _ in 0..random.below(8) {
            let at = random.below(sample.len() as u64) as usize;
            sample[at] = random.next() as u8;
        }
        sample.truncate(random.below(sample.len() as u64 + 8) as usize);
        if let Ok(event) = decode(&sample) {
            assert_eq!(encode(&event), sample);
        }
    }
}
