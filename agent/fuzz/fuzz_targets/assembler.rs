//! Any sequence of chunks leaves an assembler within its bounds, with sums that add up.
//!
//! The input is a sequence of chunks: stream, flags (direction, protocol, take), offset and length, two bytes each.
#![no_main]

use agent_ebpf::event::{EventHeader, HELLO_BYTES};
use agent_ebpf::hello::HelloHeader;
use hopline::protocol::{Assembler, AssemblerLimits};
use libfuzzer_sys::fuzz_target;

const LIMITS: AssemblerLimits = AssemblerLimits {
    streams: 3,
    bytes: 4096,
    idle_ns: 1 << 20,
};

fuzz_target!(|bytes: &[u8]| {
    let mut assembler = Assembler::new(LIMITS);
    let (mut rest, mut time_ns) = (bytes, 0);
    while let Some((&[stream, flags, high, low, length], after)) = rest.split_first_chunk::<5>() {
        let (body, after) = after.split_at(after.len().min(usize::from(length)));
        rest = after;
        time_ns += 1_u64 << (flags >> 4);
        let header = HelloHeader {
            header: EventHeader {
                kind: HELLO_BYTES,
                size: 40 + u32::from(length),
                time_ns,
            },
            stream: u64::from(stream % 5),
            cgroup_id: 1,
            offset: u32::from(u16::from_be_bytes([high, low])),
            length: u16::from(length),
            direction: flags & 1,
            protocol: 2 + (flags >> 1 & 1),
        };
        assembler.push(&header, body);
        if flags & 0x0c == 0x0c {
            let known = assembler.facts(header.stream).is_some();
            assert_eq!(assembler.take(header.stream).is_some(), known);
        }
        assert!(assembler.len() <= LIMITS.streams && assembler.buffered_bytes() <= LIMITS.bytes);
    }
    assembler.expire(u64::MAX);
    assert!(assembler.is_empty() && assembler.buffered_bytes() == 0);
});
