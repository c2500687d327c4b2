//! The bound on memory that `dns::Names` states, with every unit in use and the longest names there are.
//!
//! A test binary of its own: it compares the process's resident memory before and after.

use std::net::Ipv4Addr;

use hopline::dns::{Ending, Lookup, Names};
use hopline::protocol::dns::{Address, DnsName};

/// What `Names` keeps by default.
const UNITS: usize = 24_576;
/// What the module's documentation says.
const BOUND_BYTES: usize = 32 << 20;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is there");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number is resident pages") * 4_096
}

fn long_name(number: u32) -> DnsName {
    let filler = "x".repeat(60);
    let name = format!("{number:060}.{filler}.{filler}.{filler}.example");
    assert!(name.len() <= 253);
    DnsName::Valid(name.into())
}

#[test]
fn all_names_in_use_fit_the_bound() {
    let before = resident_bytes();
    let mut names = Names::default();
    // Every name once, each with one address and in one scope alone: nothing can be shared.
    for number in 0..2 * UNITS as u32 {
        let lookup = Lookup {
            pid: 0,
            cgroup_id: u64::from(number % 100) + 1,
            netns: 0,
            asked: long_name(2 * number),
            resolved: long_name(2 * number + 1),
            kind: 1,
            resolver: (Ipv4Addr::LOCALHOST, 53).into(),
            ending: Ending::Answered(0),
            started_ns: 0,
            answered_ns: 1,
            queries: 1,
            tcp: false,
            addresses: vec![Address {
                address: Ipv4Addr::from(number).into(),
                ttl_s: 60,
            }],
            aliases: Vec::new(),
        };
        names.learn(&lookup, false);
    }
    assert_eq!(names.len(), UNITS);
    assert_eq!(names.evicted(), UNITS as u64);
    let used = resident_bytes().saturating_sub(before);
    println!("{used} bytes with {UNITS} units");
    assert!(used < BOUND_BYTES, "{used} bytes");
}
