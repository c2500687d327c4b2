//! Events as the kernel programs would send them, made by hand.
use agent_ebpf::{
    connection::{
        CLOSED_BY_LOCAL, ConnectionState, FLAG_FIN_RECEIVED, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, Retransmits,
        RttSamples, TcpCounters, tcp_state,
    },
    event::{
        CGROUP_MKDIR, CONNECTION_CLOSE, ConnectionEvent, EventHeader, HELLO_BYTES, PROCESS_EXEC, PROCESS_EXIT,
        PROCESS_FORK, RTT_WINDOW,
    },
    hello::{FORWARD, HelloHeader},
    process::{CgroupEvent, ExecEvent, ExitEvent, ForkEvent, PATH_BYTES},
    rtt::{RttCounts, RttEvent, bucket},
    timeline::PROTOCOL_TLS,
};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// The bytes of an event, as they come out of a ring.
pub(crate) fn bytes<T: Copy>(event: &T) -> Vec<u8> {
    // SAFETY: the events are `repr(C)` integers without padding, so that each of their bytes is initialized, and the
    // slice ends before the borrow of `event` does.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(event).cast::<u8>(), size_of::<T>()) }.to_vec()
}

fn header<T>(kind: u32, time_ns: u64) -> EventHeader {
    EventHeader {
        kind,
        size: size_of::<T>() as u32,
        time_ns,
    }
}

pub(crate) fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

#[expect(
    clippy::large_types_passed_by_value,
    reason = "tests build a state where they need it"
)]
pub(crate) fn connection(kind: u32, time_ns: u64, state: ConnectionState) -> Vec<u8> {
    let state = ConnectionState {
        reported_ns: time_ns,
        ..state
    };
    bytes(&ConnectionEvent {
        header: header::<ConnectionEvent>(kind, time_ns),
        state,
    })
}

/// The last event of a connection, closed at this time.
#[expect(
    clippy::large_types_passed_by_value,
    reason = "tests build a state where they need it"
)]
pub(crate) fn close(time_ns: u64, state: ConnectionState) -> Vec<u8> {
    let state = ConnectionState {
        closed_ns: time_ns,
        tcp_state: tcp_state::CLOSE,
        ..state
    };
    connection(CONNECTION_CLOSE, time_ns, state)
}

/// A fork by a process that did not change its name since it was last told.
pub(crate) fn fork(time_ns: u64, pid: u32, parent_pid: u32, comm: &str) -> Vec<u8> {
    fork_by(time_ns, pid, (parent_pid, ""), comm)
}

/// A fork by a process that calls itself so.
pub(crate) fn fork_by(time_ns: u64, pid: u32, (parent_pid, parent_comm): (u32, &str), comm: &str) -> Vec<u8> {
    bytes(&ForkEvent {
        header: header::<ForkEvent>(PROCESS_FORK, time_ns),
        cgroup_id: 1,
        parent_pid,
        pid,
        comm: text(comm),
        parent_comm: text(parent_comm),
    })
}

pub(crate) fn exec(time_ns: u64, pid: u32, parent_pid: u32, path: &str) -> Vec<u8> {
    let header = header::<ExecEvent>(PROCESS_EXEC, time_ns);
    let comm = path.rsplit('/').next().expect("a name");
    let path: [u8; PATH_BYTES] = text(path);
    bytes(&ExecEvent {
        header,
        cgroup_id: 1,
        pid,
        parent_pid,
        mount_namespace: 0,
        reserved: 0,
        comm: text(comm),
        path,
    })
}

pub(crate) fn exit(time_ns: u64, pid: u32) -> Vec<u8> {
    bytes(&ExitEvent {
        header: header::<ExitEvent>(PROCESS_EXIT, time_ns),
        pid,
        reserved: 0,
    })
}

pub(crate) fn cgroup(time_ns: u64, cgroup_id: u64, path: &str) -> Vec<u8> {
    let header = header::<CgroupEvent>(CGROUP_MKDIR, time_ns);
    bytes(&CgroupEvent {
        header,
        cgroup_id,
        path: text(path),
    })
}

/// The first bytes that a client sends, all in one chunk: TLS, or what is said to be.
pub(crate) fn hello(time_ns: u64, stream: u64, said: &[u8]) -> Vec<u8> {
    first_bytes(time_ns, stream, (PROTOCOL_TLS, FORWARD), said)
}

/// The first bytes of one direction, all in one chunk.
pub(crate) fn first_bytes(time_ns: u64, stream: u64, (protocol, direction): (u8, u8), said: &[u8]) -> Vec<u8> {
    let header = HelloHeader {
        header: EventHeader {
            kind: HELLO_BYTES,
            size: (size_of::<HelloHeader>() + said.len()) as u32,
            time_ns,
        },
        stream,
        cgroup_id: 1,
        offset: 0,
        length: said.len() as u16,
        direction,
        protocol,
    };
    [bytes(&header), said.to_vec()].concat()
}

/// A `ClientHello` that asks for this name, in its record.
pub(crate) fn client_hello(server_name: &str) -> Vec<u8> {
    fn with_length(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }
    let name = [&[0], &with_length(server_name.as_bytes())[..]].concat();
    let extensions = [&[0, 0], &with_length(&with_length(&name))[..]].concat();
    // Version, random, no session, one cipher suite, no compression.
    let fixed = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let body = [fixed, with_length(&extensions)].concat();
    let message = [&[1, 0], &with_length(&body)[..]].concat();
    [&[22, 3, 1], &with_length(&message)[..]].concat()
}

pub(crate) fn ipv4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

/// A client whose SYN left at 1 s: 10.0.0.1:40000 to 10.0.0.2:443, process 42.
pub(crate) fn client(cookie: u64) -> ConnectionState {
    ConnectionState {
        cookie,
        role: ROLE_CLIENT,
        family: libc::AF_INET as u16,
        intent_ns: SECOND - MILLISECOND,
        syn_ns: SECOND,
        local_address: ipv4([10, 0, 0, 1]),
        local_port: 40_000_u16.to_be_bytes(),
        remote_address: ipv4([10, 0, 0, 2]),
        remote_port: 443_u16.to_be_bytes(),
        pid: 42,
        attempt: 1,
        tcp_state: tcp_state::SYN_SENT,
        ..ConnectionState::default()
    }
}

/// The same, established 20 ms later.
pub(crate) fn established(cookie: u64) -> ConnectionState {
    let established_ns = SECOND + 20 * MILLISECOND;
    ConnectionState {
        established_ns,
        tcp_state: tcp_state::ESTABLISHED,
        ..client(cookie)
    }
}

/// The same, with its owner's FIN first.
pub(crate) fn closed_locally(cookie: u64) -> ConnectionState {
    ConnectionState {
        closed_by: CLOSED_BY_LOCAL,
        ..established(cookie)
    }
}

/// The same, with every number set.
pub(crate) fn moved() -> ConnectionState {
    ConnectionState {
        counters: TcpCounters {
            bytes_sent: 1_100,
            bytes_retransmitted: 100,
            bytes_received: 5_001,
            segments_sent: 12,
            segments_received: 9,
        },
        rtt: RttSamples {
            sum_us: 900,
            count: 3,
            min_us: 200,
            var_us: 70,
            gate: 0,
        },
        retransmits: Retransmits {
            syn: 1,
            synack: 7,
            rto: 2,
            fast: 3,
            tlp: 4,
            other: 5,
        },
        flags: FLAG_FIN_RECEIVED,
        ..closed_locally(1)
    }
}

/// The histogram of a connection with these samples, microseconds; 10 ms smoothed, 500 us of deviation.
pub(crate) fn samples(time_ns: u64, cookie: u64, all_us: &[u32]) -> RttEvent {
    let mut counts = RttCounts::default();
    for us in all_us {
        counts.buckets[bucket(*us) as usize] += 1;
        counts.samples += 1;
    }
    RttEvent {
        header: EventHeader {
            kind: RTT_WINDOW,
            size: size_of::<RttEvent>() as u32,
            time_ns,
        },
        cookie,
        rtt: RttSamples {
            sum_us: all_us.iter().map(|us| u64::from(*us)).sum(),
            count: all_us.len() as u32,
            min_us: all_us.iter().copied().min().unwrap_or_default(),
            ..RttSamples::default()
        },
        srtt_us: 10_000,
        rttvar_us: 500,
        counts,
    }
}

/// A listener on 0.0.0.0:8080 of process 80.
pub(crate) fn listener(cookie: u64) -> ConnectionState {
    ConnectionState {
        cookie,
        role: ROLE_LISTENER,
        family: libc::AF_INET as u16,
        intent_ns: SECOND,
        local_port: 8_080_u16.to_be_bytes(),
        pid: 80,

        tcp_state: tcp_state::LISTEN,
        ..ConnectionState::default()
    }
}

/// A child of that listener.
pub(crate) fn child(cookie: u64, listener_cookie: u64) -> ConnectionState {
    ConnectionState {
        role: ROLE_SERVER,
        listener_cookie,
        intent_ns: 0,
        local_port: 8_080_u16.to_be_bytes(),
        remote_port: 50_000_u16.to_be_bytes(),
        pid: 80,
        ..established(cookie)
    }
}

/// Numbers that look random and are the same in every run (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
