//! What the windows of open connections cost, each with samples all the time.
//!
//! A test binary of its own: it compares the process's resident memory before and after.

use hopline::windows::Connection;

/// A fifth of them, so that it takes seconds.
const CONNECTIONS: usize = 20_000;
/// A fifth of 36 MiB, which is a part of what 100 000 open connections may cost in all.
const BOUND_BYTES: usize = (36 << 20) / 5;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is there");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number is resident pages") * 4_096
}

#[test]
fn windows_of_open_connections_fit_their_share() {
    let before = resident_bytes();
    let mut connections: Vec<Option<Box<Connection>>> = (0..CONNECTIONS).map(|_| None).collect();
    // Four reports of a few samples each, from 9 to 11 ms; ten minutes and more in all.
    for report in 0..140_u64 {
        for (number, connection) in (0..).zip(&mut connections) {
            let connection = connection.get_or_insert_default();
            connection.set_min(9_000_000);
            for sample in 0..4_u64 {
                let sample_ns = 9_000_000 + (number * 7 + report * 3 + sample * 5) % 20 * 100_000;
                connection.rtt(sample_ns, 5, 1_000 + 5 * report);
            }
        }
    }
    let used = resident_bytes().saturating_sub(before);
    println!("{used} bytes, {} each", used / CONNECTIONS);
    assert!(
        connections
            .iter_mut()
            .flatten()
            .all(|connection| connection.judge(1_000 + 5 * 139).is_some())
    );
    assert!(used < BOUND_BYTES, "{used} bytes");
}
