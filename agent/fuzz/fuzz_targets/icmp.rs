//! Any packets make no trace panic, and none of them becomes an answer unless it quotes a probe.
//!
//! The first byte is which kind of trace, then come packets, each after its length in a byte.
#![no_main]

use hopline::path::{
    Flow, Hop, Kind, Settings, Step, Trace,
    answer::{read_icmpv6, read_ipv4, read_tcp_ipv6},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, mut rest)) = bytes.split_first() else {
        return;
    };
    let (is_ipv4, is_tcp) = (first & 1 == 0, first & 2 == 0);
    let flow = Flow {
        kind: if is_tcp { Kind::Tcp } else { Kind::Echo },
        source: if is_ipv4 {
            [10, 0, 0, 1].into()
        } else {
            [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()
        },
        source_port: 40_000,
        destination: if is_ipv4 {
            [10, 0, 0, 2].into()
        } else {
            [0xfd00, 0, 0, 0, 0, 0, 0, 2].into()
        },
        destination_port: 443,
    };
    let settings = Settings {
        rounds: 2,
        ..Settings::default()
    };
    let mut trace = Trace::new(settings, flow);
    let mut now_ns = 1_000_000;
    let mut sent = 0;
    while let Some((length, after)) = rest.split_first() {
        let (packet, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        if let Step::Send { .. } = trace.step(now_ns) {
            trace.sent(now_ns);
            sent += 1;
        }
        now_ns += 100_000_000;
        let from = [0xfd00, 0, 0, 0, 0, 0, 0, 9].into();
        let arrivals = [
            read_ipv4(packet),
            read_icmpv6(from, Some(1), packet),
            read_tcp_ipv6(from, None, packet),
        ];
        for arrival in arrivals.into_iter().flatten() {
            trace.answer(&arrival, now_ns);
        }
    }
    let settled: u64 = trace.hops().iter().map(Hop::settled).sum();
    assert!(settled <= sent);
    assert!(trace.hops().len() <= usize::from(Settings::MOST_HOPS));
});
