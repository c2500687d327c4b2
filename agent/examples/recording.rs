//! `cargo run --example recording -- FILE OPEN ROUNDS CLOSES`: a recording made by hand, for `cargo xtask bench replay`.
//!
//! `OPEN` connections that stay open and are told of `ROUNDS` times, with their RTT samples, and `CLOSES` that end at
//! once. Says how many events it has. Knows nothing of kernels.
use std::path::Path;

use agent_ebpf::{
    connection::{CLOSED_BY_LOCAL, ConnectionState, ROLE_CLIENT, RttSamples, TcpCounters, tcp_state},
    event::{
        CONNECTION_CLOSE, CONNECTION_OPEN, CONNECTION_UPDATE, ConnectionEvent, EventHeader, PROCESS_EXEC, RTT_WINDOW,
        UPDATE_INTERVAL_NS,
    },
    process::{ExecEvent, PATH_BYTES},
    rtt::{RttCounts, RttEvent, bucket},
};
use hopline::{
    config::RecordConfig,
    recording::{Header, Recorder, VERSION},
};

const SECOND_NS: u64 = 1_000_000_000;
const BEGIN_NS: u64 = 100 * SECOND_NS;
/// Processes that the connections belong to, and hosts that they go to.
const PROCESSES: u32 = 200;
const FIRST_PID: u32 = 1_000;
const HOSTS: u32 = 1_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, open, rounds, closes] = &arguments[..] else {
        anyhow::bail!("usage: recording FILE OPEN ROUNDS CLOSES");
    };
    let [open, rounds, closes]: [u64; 3] = [open.parse()?, rounds.parse()?, closes.parse()?];
    let header = Header {
        version: VERSION,
        waiting_after_ns: SECOND_NS,
        stuck_after_ns: 5 * SECOND_NS,
        max_connections: open,
        max_processes: 32_768,
        max_series: 20_000,
        ..Header::default()
    };
    let settings = RecordConfig {
        file: None,
        rotate_bytes: u64::MAX,
        keep: 1,
    };
    let mut recorder = Recorder::create(Path::new(file), &settings, header)?;
    let mut now_ns = BEGIN_NS;
    let mut events = 0;
    for pid in FIRST_PID..FIRST_PID + PROCESSES {
        recorder.sample(bytes(&process(now_ns, pid)));
        events += 1;
    }
    for cookie in 1..=open {
        recorder.sample(bytes(&connection(CONNECTION_OPEN, now_ns, cookie, 1)));
        events += 1;
    }
    for round in 1..=rounds {
        now_ns += UPDATE_INTERVAL_NS;
        for cookie in 1..=open {
            recorder.sample(bytes(&connection(CONNECTION_UPDATE, now_ns, cookie, round)));
            recorder.sample(bytes(&samples(now_ns, cookie, round)));
        }
        recorder.tick(now_ns);
        events += 2 * open;
    }
    for number in 0..closes {
        let cookie = open + 1 + number;
        recorder.sample(bytes(&connection(CONNECTION_CLOSE, now_ns, cookie, 1)));
        events += 1;
        if number % 10_000 == 0 {
            now_ns += SECOND_NS;
            recorder.tick(now_ns);
        }
    }
    recorder.flush();
    anyhow::ensure!(recorder.dropped() == 0, "the file could not be written");
    println!("{events}");
    Ok(())
}

fn process(time_ns: u64, pid: u32) -> ExecEvent {
    let mut event = ExecEvent {
        header: header::<ExecEvent>(PROCESS_EXEC, time_ns),
        cgroup_id: 7,
        pid,
        parent_pid: 1,
        comm: [0; 16],
        path: [0; PATH_BYTES],
    };
    event.comm[..4].copy_from_slice(b"load");
    event.path[..9].copy_from_slice(b"/bin/load");
    event
}

fn connection(kind: u32, time_ns: u64, cookie: u64, round: u64) -> ConnectionEvent {
    let host = (cookie as u32).wrapping_mul(2_654_435_761) % HOSTS;
    // Those that stay open were opened before the first report.
    let begin_ns = if kind == CONNECTION_CLOSE {
        time_ns - 60_000_000
    } else {
        BEGIN_NS - 60_000_000
    };
    let mut state = ConnectionState {
        role: ROLE_CLIENT,
        tcp_state: tcp_state::ESTABLISHED,
        family: 2,
        cookie,
        cgroup_id: 7,
        attempt: 1,
        pid: FIRST_PID + cookie as u32 % PROCESSES,
        netns: 1,
        intent_ns: begin_ns,
        syn_ns: begin_ns + 1_000_000,
        established_ns: begin_ns + 20_000_000,
        reported_ns: time_ns,
        remote_port: 443_u16.to_be_bytes(),
        local_port: (cookie as u16).to_be_bytes(),
        rttvar_us: 500,
        rtt: rtt(round),
        counters: TcpCounters {
            bytes_sent: 1_000 * round,
            bytes_received: 9_000 * round,
            segments_sent: 10 * round as u32,
            segments_received: 12 * round as u32,
            ..TcpCounters::default()
        },
        ..ConnectionState::default()
    };
    state.local_address[..4].copy_from_slice(&[10, 0, 0, 1]);
    state.remote_address[..4].copy_from_slice(&(0x0a01_0000 + host).to_be_bytes());
    state.comm[..4].copy_from_slice(b"load");
    if kind == CONNECTION_CLOSE {
        state.tcp_state = tcp_state::CLOSE;
        state.closed_ns = time_ns;
        state.closed_by = CLOSED_BY_LOCAL;
    }
    ConnectionEvent {
        header: header::<ConnectionEvent>(kind, time_ns),
        state,
    }
}

fn rtt(round: u64) -> RttSamples {
    RttSamples {
        sum_us: 20_000 * 100 * round,
        count: 100 * round as u32,
        min_us: 18_000,
        last_us: 20_000,
        gate: 0,
    }
}

/// Samples around 20 ms, as a path has them: a handful of buckets, 100 more each round.
fn samples(time_ns: u64, cookie: u64, round: u64) -> RttEvent {
    let mut counts = RttCounts::default();
    for step in 0..6 {
        let us = 18_000 + step * 900 + cookie as u32 % 700;
        counts.buckets[bucket(us) as usize] += 16 * round as u16;
        counts.samples += 16 * round as u32;
    }
    RttEvent {
        header: header::<RttEvent>(RTT_WINDOW, time_ns),
        cookie,
        rtt: rtt(round),
        srtt_us: 20_000,
        rttvar_us: 500,
        counts,
    }
}

fn header<T>(kind: u32, time_ns: u64) -> EventHeader {
    EventHeader {
        kind,
        size: size_of::<T>() as u32,
        time_ns,
    }
}

/// An event as it leaves the kernel.
fn bytes<T: Copy>(event: &T) -> &[u8] {
    // SAFETY: the events are `repr(C)` integers without padding, so that each of their bytes is initialized; the slice
    // lives as long as the event.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(event).cast::<u8>(), size_of::<T>()) }
}
