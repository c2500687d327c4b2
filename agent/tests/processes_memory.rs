//! What processes, their cgroups and listeners cost at most: every table full, each entry with the longest path there is.
//!
//! A test binary of its own: it compares the process's resident memory before and after. A machine has fewer processes than
//! this by default, so that no lab fills these tables.

#[path = "pipeline/events.rs"]
#[expect(dead_code, reason = "of the events of the pipeline's tests these are a few")]
mod events;

use agent_ebpf::event::LISTENER_OPEN;
use hopline::pipeline::{Pipeline, PipelineSettings};

/// What they may take of the 512 MiB that hopline is shipped with.
const BOUND_BYTES: usize = 96 << 20;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is there");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number is resident pages") * 4_096
}

#[test]
fn full_tables_of_processes_fit_their_share() {
    let before = resident_bytes();
    let mut pipeline = Pipeline::new(PipelineSettings::default());
    let long = "p".repeat(240);
    for number in 1..40_000_u32 {
        // Each is the child of the one before: the longest ancestry, and none has it in common with another.
        let time_ns = u64::from(number);
        pipeline.apply(&events::fork_by(
            time_ns,
            number + 1,
            (number, &format!("n{number:014}")),
            "x",
        ));
        pipeline.apply(&events::exec(
            time_ns,
            number + 1,
            number,
            &format!("/{number:07}{long}/x"),
        ));
    }
    for id in 1..20_000_u64 {
        pipeline.apply(&events::cgroup(id, id, &format!("/{id:07}{long}")));
    }
    for cookie in 1..20_000_u64 {
        let mut state = events::listener(cookie);
        state.pid = 39_000 - (cookie % 30_000) as u32;
        pipeline.apply(&events::connection(LISTENER_OPEN, cookie, state));
    }
    let used = resident_bytes().saturating_sub(before);
    let counts = pipeline.snapshot().counts;
    for table in ["processes", "cgroups", "listeners", "listener_owners"] {
        let usage = counts.tables.iter().find(|usage| usage.table == table);
        let usage = usage.expect("it is among the tables");
        println!("{table}: {} of {}", usage.entries, usage.limit);
        assert_eq!(usage.entries, usage.limit, "{table}");
    }
    println!("{used} bytes");
    assert!(used < BOUND_BYTES, "{used} bytes");
}
