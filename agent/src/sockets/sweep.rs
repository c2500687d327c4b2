//! Adds up the sockets of one namespace as they are read; bounded, and what finds no room is counted.
use std::{collections::BTreeMap, time::Duration};

use agent_ebpf::connection::tcp_state;

use super::{
    diag::DiagSocket,
    ports::{PeerPorts, PortRange, PortSet},
};
use crate::connection::{Endpoint, TcpState};

/// Sockets of one namespace that are looked at one by one, of each kind; beyond it they are counted and no more.
const MOST_SOCKETS: usize = 262_144;
/// Listeners with requests that wait; a flood of SYNs knows no more.
const MOST_LISTENERS: usize = 4_096;

/// What is left of a closed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lingering {
    /// The cookie that the connection had.
    pub cookie: u64,
    /// Its local port.
    pub local_port: u16,
    /// `TIME_WAIT`, or `FIN_WAIT2`.
    pub state: TcpState,
}

/// A listener's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The listener's cookie.
    pub cookie: u64,
    /// Where it listens.
    pub local: Endpoint,
    /// Connections that wait for `accept`.
    pub depth: u32,
    /// How many may wait.
    pub limit: u32,
    /// Segments that were dropped there, for whatever reason, since the socket was made (wraps).
    pub drops: Option<u32>,
}

/// One namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSweep {
    /// Inode number of the namespace.
    pub netns: u32,
    /// What is left of closed connections.
    pub lingering: Vec<Lingering>,
    /// Requests that wait for their final ACK, by where the listener is.
    pub half_open: BTreeMap<Endpoint, u64>,
    /// Listeners.
    pub listeners: Vec<Backlog>,
    /// SYNs and final ACKs that found a queue full, of all listeners since the namespace was made.
    pub overflows: Option<u64>,
    /// Ports that a connect may be given here.
    pub usable_ports: u32,
    /// Destinations that have used most of them, the worst first.
    pub peers: Vec<PeerPorts>,
    /// Sockets that were read.
    pub sockets: u64,
    /// Sockets that found no room here, so that some numbers are too small.
    pub refused: u64,
    /// Not all sockets were read: the time was up, or the kernel broke off.
    pub is_partial: bool,
}

/// All namespaces of one sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// When it began, `CLOCK_MONOTONIC` nanoseconds.
    pub started_ns: u64,
    /// How long it took.
    pub took: Duration,
    /// The namespaces that were there.
    pub namespaces: Vec<NamespaceSweep>,
    /// Namespaces that could not be found or entered any more.
    pub vanished: Vec<u32>,
    /// Namespaces for which there was no time.
    pub unseen: u64,
}

/// A namespace while it is read: listeners first.
#[derive(Debug)]
pub struct Adding {
    sweep: NamespaceSweep,
    range: PortRange,
    listening: PortSet,
    uses: Vec<(Endpoint, u16, u64)>,
    /// Entries of each list that there is room for.
    room: usize,
}

impl Adding {
    /// Nothing read yet but the text of the namespace's `net/netstat`.
    pub fn new(netns: u32, range: PortRange, netstat: &str) -> Self {
        Self {
            sweep: NamespaceSweep {
                netns,
                overflows: listen_overflows(netstat),
                usable_ports: range.len(),
                ..NamespaceSweep::default()
            },
            range,
            listening: PortSet::default(),
            uses: Vec::new(),
            room: MOST_SOCKETS,
        }
    }

    /// The same where a report has these namespaces already: all of them together have no more room than one.
    #[must_use]
    pub fn beside(self, others: &[NamespaceSweep]) -> Self {
        let kept = |other: &NamespaceSweep| other.lingering.len() + other.listeners.len();
        let kept: usize = others.iter().map(kept).sum();
        Self {
            room: MOST_SOCKETS.saturating_sub(kept),
            ..self
        }
    }

    /// One socket.
    pub fn add(&mut self, socket: &DiagSocket) {
        let sweep = &mut self.sweep;
        sweep.sockets += 1;
        let Some(state) = TcpState::of(socket.state) else {
            return;
        };
        if socket.state == tcp_state::LISTEN {
            self.listening.insert(socket.local.port);
            keep(&mut sweep.listeners, self.room, &mut sweep.refused, || Backlog {
                cookie: socket.cookie,
                local: socket.local,
                depth: socket.receive_queue,
                limit: socket.send_queue,
                drops: socket.drops,
            });
            return;
        }
        if state == TcpState::SynReceived {
            if sweep.half_open.len() < MOST_LISTENERS || sweep.half_open.contains_key(&socket.local) {
                *sweep.half_open.entry(socket.local).or_default() += 1;
            } else {
                sweep.refused += 1;
            }
        }
        if socket.lingers {
            keep(&mut sweep.lingering, self.room, &mut sweep.refused, || Lingering {
                cookie: socket.cookie,
                local_port: socket.local.port,
                state,
            });
        }
        let port = socket.local.port;
        if self.range.contains(port) && !self.listening.contains(port) && socket.remote.port != 0 {
            keep(&mut self.uses, self.room, &mut sweep.refused, || {
                (socket.remote, port, socket.cookie)
            });
        }
    }

    /// Not all sockets could be read.
    pub fn break_off(&mut self) {
        self.sweep.is_partial = true;
    }

    /// Everything that was read.
    pub fn finish(mut self) -> NamespaceSweep {
        self.sweep.peers = self.range.worst(&self.listening, &mut self.uses);
        self.sweep
    }
}

/// `ListenOverflows` of the extended counters: one line has the names, the next one the numbers.
fn listen_overflows(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "ListenOverflows")?;
    numbers.split(' ').nth(at)?.parse().ok()
}

fn keep<T>(all: &mut Vec<T>, room: usize, refused: &mut u64, one: impl FnOnce() -> T) {
    if all.len() < room {
        all.push(one());
    } else {
        *refused += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(state: u8, lingers: bool, local_port: u16, remote_port: u16, cookie: u64) -> DiagSocket {
        let end = |port| Endpoint {
            address: [10, 0, 0, 1].into(),
            port,
        };
        DiagSocket {
            state,
            lingers,
            local: end(local_port),
            remote: end(remote_port),
            cookie,
            receive_queue: 2,
            send_queue: 5,
            drops: Some(1),
        }
    }

    #[test]
    fn each_socket_has_its_place() {
        let mut adding = Adding::new(7, PortRange::read("1000 1009", ""), "");
        for socket in [
            socket(tcp_state::LISTEN, false, 1009, 0, 1),
            socket(tcp_state::TIME_WAIT, true, 1000, 80, 2),
            socket(tcp_state::FIN_WAIT2, true, 1001, 80, 3),
            // It still has an owner: events tell of it.
            socket(tcp_state::FIN_WAIT2, false, 1002, 80, 4),
            socket(tcp_state::SYN_RECV, false, 1009, 5, 5),
            socket(tcp_state::SYN_RECV, false, 1009, 6, 6),
            socket(tcp_state::ESTABLISHED, false, 1003, 80, 7),
            // A server's connection takes no port.
            socket(tcp_state::ESTABLISHED, false, 1009, 81, 8),
            socket(99, false, 1004, 80, 9),
        ] {
            adding.add(&socket);
        }
        let sweep = adding.finish();
        let lingering: Vec<_> = sweep.lingering.iter().map(|one| (one.cookie, one.state)).collect();
        assert_eq!(lingering, [(2, TcpState::TimeWait), (3, TcpState::FinWait2)]);
        assert_eq!(sweep.half_open.values().collect::<Vec<_>>(), [&2]);
        assert_eq!(sweep.listeners.len(), 1);
        assert_eq!((sweep.usable_ports, sweep.peers.len(), sweep.peers[0].used), (10, 1, 5));
        assert_eq!((sweep.sockets, sweep.refused, sweep.is_partial), (9, 0, false));
    }

    #[test]
    fn overflows_of_a_namespace() {
        for (text, expected) in [
            (
                "TcpExt: A ListenOverflows B\nTcpExt: 1 22 3\nIpExt: C\nIpExt: 4\n",
                Some(22),
            ),
            ("TcpExt: A ListenOverflows\nTcpExt: 1\n", None),
            ("TcpExt: A ListenOverflows\nTcpExt: 1 x\n", None),
            ("TcpExt: A\nTcpExt: 1\n", None),
            ("", None),
        ] {
            assert_eq!(listen_overflows(text), expected, "{text}");
        }
    }

    #[test]
    fn a_hundred_thousand_sockets() {
        let mut adding = Adding::new(7, PortRange::read("1000 65535", ""), "");
        for number in 0..400_000_u32 {
            let state = if number % 2 == 0 {
                tcp_state::TIME_WAIT
            } else {
                tcp_state::SYN_RECV
            };
            let port = (number % 64_000) as u16 + 1_000;
            adding.add(&socket(
                state,
                number % 2 == 0,
                port,
                1 + (number / 64_000) as u16,
                number.into(),
            ));
        }
        let sweep = adding.finish();
        assert_eq!(sweep.sockets, 400_000);
        assert_eq!(sweep.lingering.len(), 200_000);
        assert_eq!(sweep.half_open.len(), MOST_LISTENERS);
        assert!(
            sweep.refused >= 400_000 - MOST_SOCKETS as u64,
            "what found no room is counted"
        );
    }
}
