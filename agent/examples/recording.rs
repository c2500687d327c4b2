//! `cargo run --example recording -- FILE OPEN ROUNDS CLOSES`: a recording made by hand, for `cargo xtask bench replay`.
//!
//! `OPEN` connections of TLS 1.3 that stay open and are told of `ROUNDS` times, with their RTT samples and turns, and
//! `CLOSES` that end at once. Says how many events it has. Knows nothing of kernels.
use std::path::Path;

use agent_ebpf::{
    connection::{CLOSED_BY_LOCAL, ConnectionState, ROLE_CLIENT, RttSamples, TcpCounters, tcp_state},
    event::{
        CONNECTION_CLOSE, CONNECTION_OPEN, CONNECTION_UPDATE, ConnectionEvent, EventHeader, HELLO_BYTES, PROCESS_EXEC,
        RTT_WINDOW, UPDATE_INTERVAL_NS,
    },
    hello::{BACKWARD, FORWARD, HelloHeader},
    process::{ExecEvent, PATH_BYTES},
    rtt::{RttCounts, RttEvent, bucket},
    timeline::{ANSWER_ACKS_REQUEST, AnswerRecord, PROTOCOL_TLS, TIMELINE_TLS13, Timeline},
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
        for (direction, said) in [(FORWARD, client_hello(cookie)), (BACKWARD, server_hello(cookie))] {
            recorder.sample(&hello(now_ns, cookie, direction, &said));
        }
        recorder.sample(bytes(&connection(CONNECTION_OPEN, now_ns, cookie, 1)));
        events += 3;
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
        mount_namespace: 0,
        reserved: 0,
        comm: [0; 16],
        path: [0; PATH_BYTES],
    };
    event.comm[..4].copy_from_slice(b"load");
    event.path[..9].copy_from_slice(b"/bin/load");
    event
}

fn connection(kind: u32, time_ns: u64, cookie: u64, round: u64) -> ConnectionEvent {
    let host = host(cookie);
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
    if kind != CONNECTION_CLOSE {
        state.timeline = timeline(begin_ns + 20_000_000, round);
    }
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

fn host(cookie: u64) -> u32 {
    (cookie as u32).wrapping_mul(2_654_435_761) % HOSTS
}

/// A handshake, tickets, an answer, and turns of 30 ms.
fn timeline(established_ns: u64, round: u64) -> Timeline {
    let mut timeline = Timeline {
        protocol: PROTOCOL_TLS,
        flags: TIMELINE_TLS13,
        cipher: 0x1301,
        client_hello_ns: established_ns + 100_000,
        server_hello_ns: established_ns + 20_100_000,
        tls_done_ns: established_ns + 21_000_000,
        request_ns: established_ns + 21_100_000,
        turns: 3 * round as u32,
        answer_count: 3,
        next_seq: [0x1234_5678, 0x8765_4321],
        turn_seq: 0x1234_5678,
        ..Timeline::default()
    };
    for (answer, (length, flags)) in timeline
        .answers
        .iter_mut()
        .zip([(250, 0), (250, 0), (900, ANSWER_ACKS_REQUEST)])
    {
        *answer = AnswerRecord {
            after_us: 30_000,
            length,
            content_type: 23,
            flags,
        };
    }
    let kept = timeline.recent_turns_us.iter_mut().take(3 * round as usize);
    kept.for_each(|turn_us| *turn_us = 30_000);
    timeline
}

/// A piece of a conversation's hellos.
fn hello(time_ns: u64, stream: u64, direction: u8, said: &[u8]) -> Vec<u8> {
    let size = (size_of::<HelloHeader>() + said.len()) as u32;
    let header = HelloHeader {
        header: EventHeader {
            kind: HELLO_BYTES,
            size,
            time_ns,
        },
        stream,
        cgroup_id: 7,
        offset: 0,
        length: said.len() as u16,
        direction,
        protocol: PROTOCOL_TLS,
    };
    [bytes(&header), said].concat()
}

/// A session of TLS 1.3's compatibility mode: no two connections have the same.
fn session(cookie: u64) -> Vec<u8> {
    [&[32][..], &[5; 24], &cookie.to_be_bytes()].concat()
}

fn client_hello(cookie: u64) -> Vec<u8> {
    let name = format!("host-{}.example.test", host(cookie));
    let name = [&[0], &sized(name.as_bytes())[..]].concat();
    let extensions = [
        [&[0, 0], &sized(&sized(&name))[..]].concat(),
        vec![
            0, 16, 0, 14, 0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1',
        ],
        vec![0, 43, 0, 5, 4, 3, 4, 3, 3],
        vec![0, 45, 0, 2, 1, 1],
    ];
    let suites = [0, 2, 0x13, 1, 1, 0];
    handshake(
        1,
        &[
            &[3, 3][..],
            &[7; 32],
            &session(cookie),
            &suites,
            &sized(&extensions.concat()),
        ]
        .concat(),
    )
}

fn server_hello(cookie: u64) -> Vec<u8> {
    let extensions = [0, 43, 0, 2, 3, 4];
    let suite = [0x13, 1, 0];
    handshake(
        2,
        &[&[3, 3][..], &[9; 32], &session(cookie), &suite, &sized(&extensions)].concat(),
    )
}

/// A message in a record of its own.
fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0], &sized(body)[..]].concat();
    [&[22, 3, 1], &sized(&message)[..]].concat()
}

/// Bytes behind their length of two bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn rtt(round: u64) -> RttSamples {
    RttSamples {
        sum_us: 20_000 * 100 * round,
        count: 100 * round as u32,
        min_us: 18_000,
        var_us: 500,
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
