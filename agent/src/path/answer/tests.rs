//! Answers as routers and hosts send them, and what is none.
use proptest::prelude::*;

use super::*;
use crate::path::probe::{Flow, Kind, build};

fn flow(kind: Kind, v6: bool) -> Flow {
    let (source, destination) = if v6 {
        ("fd00::1", "2001:db8::7")
    } else {
        ("10.0.0.1", "192.0.2.7")
    };
    Flow {
        kind,
        source: source.parse().expect("an address"),
        source_port: 40_000,
        destination: destination.parse().expect("an address"),
        destination_port: 443,
    }
}

/// An IPv4 packet of router 10.9.9.9 with an ICMP message about `probe`, of which `kept` bytes are quoted.
fn error_v4(kind: u8, code: u8, probe: &[u8], kept: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 61, 1, 0, 0, 10, 9, 9, 9, 10, 0, 0, 1];
    packet.extend([kind, code, 0, 0, 0, 0, 0, 0]);
    packet.extend(&probe[..kept.min(probe.len())]);
    packet
}

fn error_v6(kind: u8, code: u8, probe: &[u8], kept: usize) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(&probe[..kept.min(probe.len())]);
    message
}

fn router() -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 9)
}

#[test]
fn a_router_where_the_ttl_ended() {
    let quoted = |flow: &Flow, transport| Quoted {
        source: flow.source,
        destination: flow.destination,
        transport,
    };
    let tcp = QuotedTransport::Tcp {
        source_port: 40_000,
        destination_port: 443,
        sequence: 0x0102_0304,
    };
    let echo = QuotedTransport::Echo {
        id: 40_000,
        sequence: 0x0304,
    };
    for (kind, transport) in [(Kind::Tcp, tcp), (Kind::Echo, echo)] {
        let v4 = flow(kind, false);
        // The header and eight bytes are all that RFC 792 promises.
        let read = read_ipv4(&error_v4(11, 0, &build(&v4, 1, 0x0102_0304), 28)).expect("an answer");
        assert_eq!(read.from, IpAddr::from([10, 9, 9, 9]));
        assert_eq!(
            (read.ttl, read.answer),
            (Some(61), Answer::Expired(quoted(&v4, transport)))
        );
        let v6 = flow(kind, true);
        let message = error_v6(3, 0, &build(&v6, 1, 0x0102_0304), 2_000);
        let read = read_icmpv6(router(), Some(60), &message).expect("an answer");
        assert_eq!(
            (read.ttl, read.answer),
            (Some(60), Answer::Expired(quoted(&v6, transport)))
        );
    }
}

#[test]
fn reasons() {
    let (v4, v6) = (
        build(&flow(Kind::Tcp, false), 1, 1),
        build(&flow(Kind::Tcp, true), 1, 1),
    );
    let reason = |read: Result<Arrival, Ignored>| match read.expect("an answer").answer {
        Answer::Unreachable(reason, _) => reason.name(),
        other => panic!("{other:?}"),
    };
    for (code, name) in [
        (0, "network_unreachable"),
        (1, "host_unreachable"),
        (3, "port_unreachable"),
        (4, "unreachable"),
        (13, "prohibited"),
        (255, "unreachable"),
    ] {
        assert_eq!(reason(read_ipv4(&error_v4(3, code, &v4, 28))), name);
    }
    for (code, name) in [
        (0, "network_unreachable"),
        (1, "prohibited"),
        (3, "host_unreachable"),
        (4, "port_unreachable"),
        (99, "unreachable"),
    ] {
        assert_eq!(reason(read_icmpv6(router(), None, &error_v6(1, code, &v6, 60))), name);
    }
}

#[test]
fn answers_of_the_destination() {
    let answered = |flags: u8| {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 59, 6, 0, 0, 192, 0, 2, 7, 10, 0, 0, 1];
        packet.extend([
            1, 187, 0x9c, 0x40, 0, 0, 0, 9, 0, 0, 0, 8, 0x50, flags, 0, 0, 0, 0, 0, 0,
        ]);
        match read_ipv4(&packet).expect("an answer").answer {
            Answer::Tcp {
                source_port: 443,
                destination_port: 40_000,
                acknowledgment: 8,
                syn_ack,
                reset,
                ack,
            } => (syn_ack, reset, ack),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(answered(0x12), (true, false, false));
    assert_eq!(answered(0x14), (false, true, false));
    // An ACK alone, a RST that acknowledges nothing, everything at once.
    assert_eq!(answered(0x10), (false, false, true));
    assert_eq!(answered(0x04), (false, false, false));
    assert_eq!(answered(0x3f), (false, true, false));
    let echo = [129, 0, 0, 0, 0x9c, 0x40, 0, 5];
    assert_eq!(
        read_icmpv6(router(), Some(9), &echo).map(|read| read.answer),
        Ok(Answer::Echo {
            id: 40_000,
            sequence: 5
        })
    );
}

#[test]
fn what_is_none() {
    let probe = build(&flow(Kind::Tcp, false), 1, 1);
    for (kept, expected) in [
        (0, Ignored::Malformed),
        (19, Ignored::Malformed),
        (27, Ignored::Malformed),
    ] {
        assert_eq!(read_ipv4(&error_v4(11, 0, &probe, kept)), Err(expected), "{kept}");
    }
    let mut udp = probe.clone();
    udp[9] = 17;
    assert_eq!(read_ipv4(&error_v4(11, 0, &udp, 28)), Err(Ignored::Unrelated));
    let mut fragment = probe.clone();
    fragment[7] = 1;
    assert_eq!(read_ipv4(&error_v4(11, 0, &fragment, 28)), Err(Ignored::Unrelated));
    let mut options = probe.clone();
    options[0] = 0x4f;
    assert_eq!(read_ipv4(&error_v4(11, 0, &options, 40)), Err(Ignored::Malformed));
    options[0] = 0x44;
    assert_eq!(read_ipv4(&error_v4(11, 0, &options, 40)), Err(Ignored::Malformed));
    // An echo request of somebody else, a redirect, a fragment that came too late.
    for (kind, code) in [(8, 0), (5, 0), (11, 1)] {
        assert_eq!(read_ipv4(&error_v4(kind, code, &probe, 28)), Err(Ignored::Unrelated));
    }
    let v6 = build(&flow(Kind::Tcp, true), 1, 1);
    assert_eq!(
        read_icmpv6(router(), None, &error_v6(3, 0, &v6, 47)),
        Err(Ignored::Malformed)
    );
    assert_eq!(
        read_icmpv6(router(), None, &error_v6(2, 0, &v6, 60)),
        Err(Ignored::Unrelated)
    );
    // More extension headers than are walked through.
    let mut long = v6[..40].to_vec();
    long[6] = 0;
    long.extend([0; 64]);
    assert_eq!(
        read_icmpv6(router(), None, &error_v6(3, 0, &long, 200)),
        Err(Ignored::Unrelated)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), limit in any::<u8>()) {
        let _ = read_ipv4(&bytes);
        let _ = read_icmpv6(router(), Some(limit), &bytes);
        let _ = read_tcp_ipv6(router(), Some(limit), &bytes);
    }

    #[test]
    fn a_damaged_error_names_the_probe_or_nothing_of_it(at in 0_usize..56, byte in any::<u8>(), kept in 0_usize..60) {
        let probe = build(&flow(Kind::Tcp, false), 1, 77);
        let mut packet = error_v4(11, 0, &probe, kept);
        let at = at % packet.len();
        packet[at] = byte;
        if let Ok(read) = read_ipv4(&packet) {
            let is_segment = matches!(read.answer, Answer::Tcp { .. });
            prop_assert!(!is_segment || packet[9] == 6);
        }
    }
}
