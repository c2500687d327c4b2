//! The thread that asks the kernel for its sockets, namespace by namespace: started by `agent`, asked by `owner`.
//!
//! Takes one order at a time, at most a twentieth of one processor, and at most [`SWEEP_LIMIT`] for each: an order that
//! comes while it works is refused, and the owner counts it. Interprets nothing: that is `pipeline`'s.
use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};
use tokio::sync::mpsc::WeakSender;

use crate::{
    host, namespaces,
    owner::Input,
    privileges::{self, Keep},
    sockets::{
        Adding, NamespaceSweep, PortRange, SweepReport,
        diag::{Message, messages, request},
    },
};

/// Longest that one sweep may take; what was not read by then is told as missing.
const SWEEP_LIMIT: Duration = Duration::from_secs(3);
/// A pause after each sweep, in times of how long it took.
const REST: u32 = 19;
/// The kernel answers at once; if ever it does not, the sweep goes on without it.
const ANSWER_LIMIT_S: i64 = 1;
/// The kernel fills up to 32 KiB at a time.
const ANSWER_BYTES: usize = 65_536;

/// Bits of the states (`1 << TCP_LISTEN`); all others but CLOSE.
const LISTENERS: u32 = 1 << 10;
const ALL_BUT_LISTENERS: u32 = 0xfff & !LISTENERS & !(1 << 7);
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// Namespaces to look at, by inode number.
pub type Order = HashSet<u32>;

/// Starts the thread. An order is taken only when it has nothing to do: `try_send` tells.
pub fn start(inputs: WeakSender<Input>) -> io::Result<SyncSender<Order>> {
    let (orders, inbox) = sync_channel(0);
    thread::Builder::new()
        .name("sweeper".to_owned())
        .spawn(move || run(&inbox, &inputs))?;
    Ok(orders)
}

fn run(inbox: &Receiver<Order>, inputs: &WeakSender<Input>) {
    privileges::drop_capabilities(Keep {
        enters_namespaces: true,
        ..Keep::default()
    });
    let mut told = false;
    while let Ok(order) = inbox.recv() {
        let began = Instant::now();
        let mut report = SweepReport {
            started_ns: host::monotonic_ns(),
            ..SweepReport::default()
        };
        let mut look = |error: io::Error| {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%error, "sockets cannot be listed (sock_diag): their gauges may be missing");
            }
        };
        sweep(order, began + SWEEP_LIMIT, &mut report, &mut look);
        report.took = began.elapsed();
        let rest = report.took * REST;
        let Some(inputs) = inputs.upgrade() else { return };
        if inputs.blocking_send(Input::Swept(Box::new(report))).is_err() {
            return;
        }
        drop(inputs);
        thread::sleep(rest);
    }
}

fn sweep(mut order: Order, deadline: Instant, report: &mut SweepReport, failed: &mut impl FnMut(io::Error)) {
    let mut answer = vec![0; ANSWER_BYTES];
    // The namespace that this thread is in goes like any other: processes of its own are in it.
    for path in namespaces::files() {
        if order.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            report.unseen = order.len() as u64;
            return;
        }
        let wanted = namespaces::inode(&path).filter(|netns| order.contains(netns));
        let Some(netns) = wanted else { continue };
        match sweep_one(&path, netns, &report.namespaces, deadline, &mut answer) {
            Ok(Some(sweep)) => {
                order.remove(&netns);
                report.namespaces.push(sweep);
            }
            // Gone since; another file may lead to it.
            Ok(None) => {}
            Err(error) => failed(error),
        }
    }
    report.vanished = order.into_iter().collect();
}

/// `None` when the namespace is no longer there, or no longer that one.
fn sweep_one(
    path: &Path,
    netns: u32,
    others: &[NamespaceSweep],
    deadline: Instant,
    answer: &mut [u8],
) -> io::Result<Option<NamespaceSweep>> {
    let Ok(namespace) = File::open(path) else {
        return Ok(None);
    };
    let opened = format!("/proc/thread-self/fd/{}", namespace.as_raw_fd());
    if namespaces::inode(Path::new(&opened)) != Some(netns) {
        return Ok(None);
    }
    setns(&namespace, CloneFlags::CLONE_NEWNET)?;
    drop(namespace);
    let sysctl = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let range = PortRange::read(&sysctl("ip_local_port_range"), &sysctl("ip_local_reserved_ports"));
    let netstat = fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default();
    let mut adding = Adding::new(netns, range, &netstat).beside(others);
    let diag = open()?;
    let lists = [LISTENERS, ALL_BUT_LISTENERS]
        .into_iter()
        .flat_map(|states| FAMILIES.map(|family| request(family, states, states == LISTENERS)));
    // A list that broke off blocks those behind it.
    for request in lists {
        if !dump(&diag, &request, &mut adding, deadline, answer)? {
            adding.break_off();
            break;
        }
    }
    Ok(Some(adding.finish()))
}

fn open() -> io::Result<OwnedFd> {
    let diag = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&diag, ReceiveTimeout, &TimeVal::new(ANSWER_LIMIT_S, 0))?;
    Ok(diag)
}

/// Reads one list; `false` when its end was not seen.
fn dump(diag: &OwnedFd, request: &[u8], adding: &mut Adding, deadline: Instant, answer: &mut [u8]) -> io::Result<bool> {
    send(diag.as_raw_fd(), request, MsgFlags::empty())?;
    loop {
        let length = match recv(diag.as_raw_fd(), answer, MsgFlags::empty()) {
            Ok(0) | Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => return Ok(false),
            Err(nix::Error::EINTR) => continue,
            length => length?,
        };
        for message in messages(&answer[..length]) {
            match message {
                Message::Socket(socket) => adding.add(&socket),
                Message::Done => return Ok(true),
                Message::Failed(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Message::Other => {}
            }
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn lists_a_listener_of_the_own_namespace() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let own = namespaces::inode(Path::new("/proc/self/ns/net")).expect("there is /proc");
        let answer = thread::spawn(move || {
            let mut answer = vec![0; ANSWER_BYTES];
            let deadline = Instant::now() + SWEEP_LIMIT;
            let diag = open().expect("sock_diag");
            let mut adding = Adding::new(own, PortRange::default(), "");
            let request = request(libc::AF_INET as u8, LISTENERS, true);
            let ended = dump(&diag, &request, &mut adding, deadline, &mut answer).expect("a list");
            (ended, adding.finish())
        });
        let (ended, sweep) = answer.join().expect("no panic");
        assert!(ended);
        let found = sweep.listeners.iter().find(|listener| listener.local.port == port);
        let found = found.expect("it is among them");
        assert_eq!((found.depth, found.drops), (0, Some(0)));
        assert!(found.limit > 0);
    }

    #[test]
    fn a_namespace_that_has_gone_is_no_error() {
        let mut answer = vec![0; ANSWER_BYTES];
        let gone = sweep_one(Path::new("/proc/0/ns/net"), 1, &[], Instant::now(), &mut answer);
        assert_eq!(gone.expect("no error"), None);
    }
}
