//! The sockets of one trace. They stay in the network namespace of the thread that opened them.
//!
//! Probes go out by a raw socket as whole packets. Answers come in by two more: ICMP of whoever is on the way, and TCP of
//! the destination. Filters in the kernel keep all other packets out of them: a busy host must not pay for a trace.
use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, SockaddrStorage,
        bind, connect, recvmsg, sendto, setsockopt, socket,
        sockopt::{Ipv6RecvHopLimit, ReceiveTimestampns},
    },
    time::{ClockId, clock_gettime},
};

use crate::{
    host,
    path::{
        Flow, Kind,
        answer::{Arrival, Ignored, read_icmpv6, read_ipv4, read_tcp_ipv6},
    },
};

/// Answers are short; of a longer one the beginning is enough.
const PACKET_BYTES: usize = 2_048;
/// Packets that are taken in one go: more wait for the next.
const MOST_AT_ONCE: usize = 256;
/// Addresses of any port: raw sockets have none.
const NO_PORT: u16 = 0;

/// Why a trace cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// Raw sockets are refused.
    #[error("probes need CAP_NET_RAW, which this process does not have: run as root or add the capability")]
    NotAllowed,
    /// There is no way to the destination.
    #[error("no route to {0}: {1}")]
    NoRoute(IpAddr, io::Error),
    /// Any other failure.
    #[error("opening a socket for probes: {0}")]
    Socket(#[from] io::Error),
}

impl From<Errno> for TracerError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EPERM | Errno::EACCES => Self::NotAllowed,
            other => Self::Socket(other.into()),
        }
    }
}

/// Whether this thread may send probes.
pub fn is_allowed() -> bool {
    raw(AddressFamily::Inet, SockProtocol::Raw).is_ok()
}

/// Sockets for one flow.
#[derive(Debug)]
pub struct Sockets {
    flow: Flow,
    send: OwnedFd,
    icmp: OwnedFd,
    /// Without it there is no answer but ICMP.
    tcp: Option<OwnedFd>,
    /// Holds the source port for as long as the trace lasts, so that no program gets it.
    _reserved: OwnedFd,
    buffer: Vec<u8>,
    /// Packets that came in and could not be read.
    pub malformed: u64,
}

impl Sockets {
    /// Opens them. `source_port` is tried first, so that later traces take the same way.
    pub fn open(kind: Kind, destination: SocketAddr, source_port: Option<u16>) -> Result<Self, TracerError> {
        let source = source_for(destination).map_err(|error| TracerError::NoRoute(destination.ip(), error))?;
        let family = match destination {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let (reserved, source_port) = reserve(family, source, source_port)?;
        let flow = Flow {
            kind,
            source,
            source_port,
            destination: destination.ip(),
            destination_port: destination.port(),
        };
        // This protocol means that packets come with their IP header.
        let send = raw(family, SockProtocol::Raw)?;
        bind(
            send.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(source, NO_PORT)),
        )?;
        let is_ipv6 = family == AddressFamily::Inet6;
        let protocol = if is_ipv6 {
            SockProtocol::IcmpV6
        } else {
            SockProtocol::Icmp
        };
        let icmp = receiver(family, protocol, source)?;
        filter::only(&icmp, &if is_ipv6 { filter::icmpv6() } else { filter::icmp() })?;
        let tcp = match kind {
            Kind::Echo => None,
            Kind::Tcp => {
                let tcp = receiver(family, SockProtocol::Tcp, source)?;
                let ports = [flow.destination_port, flow.source_port];
                filter::only(
                    &tcp,
                    &if is_ipv6 {
                        filter::tcp_v6(ports)
                    } else {
                        filter::tcp(ports)
                    },
                )?;
                // The kernel makes no copy of what others send.
                connect(
                    tcp.as_raw_fd(),
                    &SockaddrStorage::from(SocketAddr::new(destination.ip(), NO_PORT)),
                )?;
                Some(tcp)
            }
        };
        Ok(Self {
            flow,
            send,
            icmp,
            tcp,
            _reserved: reserved,
            buffer: vec![0; PACKET_BYTES],
            malformed: 0,
        })
    }

    /// What the probes have in common.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// What to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.icmp), self.tcp.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
    }

    /// Sends a packet; the time just before, nanoseconds. What the kernel refuses to send is lost like any other probe.
    pub fn send(&self, packet: &[u8]) -> u64 {
        let to = SockaddrStorage::from(SocketAddr::new(self.flow.destination, NO_PORT));
        let at_ns = host::monotonic_ns();
        if let Err(error) = sendto(self.send.as_raw_fd(), packet, &to, MsgFlags::MSG_DONTWAIT) {
            tracing::debug!(%error, destination = %self.flow.destination, "a probe could not be sent");
        }
        at_ns
    }

    /// Takes in what has come, with the time at which the kernel got it, nanoseconds.
    pub fn receive(&mut self, mut each: impl FnMut(&Arrival, u64)) {
        let sockets = [Some(&self.icmp), self.tcp.as_ref()];
        for (at, socket) in sockets.into_iter().enumerate() {
            let Some(socket) = socket else { continue };
            for _ in 0..MOST_AT_ONCE {
                let Some((arrival, at_ns)) = receive_one(socket, at == 1, &mut self.buffer) else {
                    break;
                };
                match arrival {
                    Ok(arrival) => each(&arrival, at_ns),
                    Err(Ignored::Malformed) => self.malformed += 1,
                    Err(Ignored::Unrelated) => {}
                }
            }
        }
    }
}

/// `None`: nothing more is there.
fn receive_one(socket: &OwnedFd, is_tcp: bool, buffer: &mut [u8]) -> Option<(Result<Arrival, Ignored>, u64)> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec, libc::c_int);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    );
    let message = match message {
        Ok(message) => message,
        // The error of an earlier probe, which its ICMP message tells as well.
        Err(Errno::EINTR | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {
            return Some((Err(Ignored::Unrelated), 0));
        }
        Err(_) => return None,
    };
    let (length, address) = (message.bytes, message.address);
    let (mut at_ns, mut hop_limit) = (None, None);
    for each in message.cmsgs().into_iter().flatten() {
        match each {
            ControlMessageOwned::ScmTimestampns(time) => at_ns = Some(monotonic(&time)),
            ControlMessageOwned::Ipv6HopLimit(limit) => hop_limit = u8::try_from(limit).ok(),
            _ => {}
        }
    }
    let packet = &buffer[..length.min(PACKET_BYTES)];
    let from = address
        .as_ref()
        .and_then(SockaddrStorage::as_sockaddr_in6)
        .map(SockaddrIn6::ip);
    let arrival = match from {
        None => read_ipv4(packet),
        Some(from) if is_tcp => read_tcp_ipv6(from, hop_limit, packet),
        Some(from) => read_icmpv6(from, hop_limit, packet),
    };
    Some((arrival, at_ns.unwrap_or_else(host::monotonic_ns)))
}

/// The kernel tells when a packet came by the wall clock, which may be set: what counts is how long ago that was.
fn monotonic(arrived: &nix::sys::time::TimeSpec) -> u64 {
    let now_ns = host::monotonic_ns();
    let ns = |time: &nix::sys::time::TimeSpec| time.tv_sec() * 1_000_000_000 + time.tv_nsec();
    let Ok(wall) = clock_gettime(ClockId::CLOCK_REALTIME) else {
        return now_ns;
    };
    let ago_ns = u64::try_from(ns(&wall) - ns(arrived)).unwrap_or_default();
    // More than the time limit of answers: the clock was set.
    if ago_ns > 2_000_000_000 {
        now_ns
    } else {
        now_ns.saturating_sub(ago_ns)
    }
}

/// The address that packets to the destination leave from. Nothing is sent.
fn source_for(destination: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = match destination {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    let port = if destination.port() == 0 { 9 } else { destination.port() };
    socket.connect(SocketAddr::new(destination.ip(), port))?;
    Ok(socket.local_addr()?.ip())
}

/// A bound socket that neither connects nor listens: nobody else gets its port, and the kernel resets what is sent to it.
fn reserve(family: AddressFamily, source: IpAddr, wanted: Option<u16>) -> Result<(OwnedFd, u16), TracerError> {
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = |port| {
        bind(
            socket.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(source, port)),
        )
    };
    match wanted.map(bound) {
        Some(Ok(())) => {}
        None | Some(Err(_)) => bound(0)?,
    }
    let socket = TcpStream::from(socket);
    let port = socket.local_addr()?.port();
    Ok((socket.into(), port))
}

fn receiver(family: AddressFamily, protocol: SockProtocol, source: IpAddr) -> Result<OwnedFd, TracerError> {
    let socket = raw(family, protocol)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
    }
    bind(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(source, NO_PORT)),
    )?;
    Ok(socket)
}

fn raw(family: AddressFamily, protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        protocol,
    )
}

/// Socket filters in the classic language of BPF.
mod filter {
    use std::{io, mem::size_of, os::fd::AsRawFd as _, os::fd::OwnedFd};

    use libc::{
        BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, sock_filter,
    };

    const WHOLE: u32 = 0x4_0000;

    /// Only what these instructions accept reaches the socket.
    pub(super) fn only(socket: &OwnedFd, filter: &[sock_filter]) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: the descriptor is open; the kernel reads a `sock_fprog` of this size and the instructions that it points
        // to, which all live through the call, and writes nothing.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as u32,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Echo replies, unreachable, time exceeded.
    pub(super) fn icmp() -> Vec<sock_filter> {
        one_of(&[LENGTH_OF_IPV4, load(BPF_B | BPF_IND, 0)], &[0, 3, 11])
    }

    /// Unreachable, time exceeded, echo replies. The socket sees no IPv6 header.
    pub(super) fn icmpv6() -> Vec<sock_filter> {
        one_of(&[load(BPF_B | BPF_ABS, 0)], &[1, 3, 129])
    }

    /// Segments between these ports.
    pub(super) fn tcp(ports: [u16; 2]) -> Vec<sock_filter> {
        between(&[LENGTH_OF_IPV4], BPF_IND, ports)
    }

    pub(super) fn tcp_v6(ports: [u16; 2]) -> Vec<sock_filter> {
        between(&[], BPF_ABS, ports)
    }

    /// The index register is the length of the IPv4 header.
    const LENGTH_OF_IPV4: sock_filter = load(BPF_LDX | BPF_B | BPF_MSH, 0);

    fn one_of(head: &[sock_filter], values: &[u32]) -> Vec<sock_filter> {
        let mut filter = head.to_vec();
        for (at, value) in values.iter().enumerate() {
            // To `accept`, behind the other comparisons and `refuse`.
            let skip = values.len() - at;
            filter.push(jump_if(*value, skip as u8, 0));
        }
        filter.extend([ret(0), ret(WHOLE)]);
        filter
    }

    fn between(head: &[sock_filter], mode: u32, [from, to]: [u16; 2]) -> Vec<sock_filter> {
        let mut filter = head.to_vec();
        filter.extend([
            load(BPF_H | mode, 0),
            jump_if(u32::from(from), 0, 3),
            load(BPF_H | mode, 2),
            jump_if(u32::from(to), 0, 1),
            ret(WHOLE),
            ret(0),
        ]);
        filter
    }

    const fn load(mode: u32, k: u32) -> sock_filter {
        sock_filter {
            code: (BPF_LD | mode) as u16,
            jt: 0,
            jf: 0,
            k,
        }
    }

    fn jump_if(k: u32, jt: u8, jf: u8) -> sock_filter {
        sock_filter {
            code: (BPF_JMP | BPF_JEQ | BPF_K) as u16,
            jt,
            jf,
            k,
        }
    }

    fn ret(k: u32) -> sock_filter {
        sock_filter {
            code: (BPF_RET | BPF_K) as u16,
            jt: 0,
            jf: 0,
            k,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_source_is_the_one_that_the_kernel_would_take() {
        let source = source_for(([127, 0, 0, 1], 80).into()).expect("loopback");
        assert!(source.is_loopback());
    }

    #[test]
    fn a_reserved_port_is_nobody_elses() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let (held, port) = reserve(AddressFamily::Inet, loopback, None).expect("a port");
        assert!(std::net::TcpListener::bind((loopback, port)).is_err());
        let (_other, other) = reserve(AddressFamily::Inet, loopback, Some(port)).expect("another port");
        assert_ne!(other, port);
        drop(held);
        let (_again, again) = reserve(AddressFamily::Inet, loopback, Some(port)).expect("the port");
        assert_eq!(again, port);
        assert!(
            UdpSocket::bind((loopback, port)).is_ok(),
            "other protocols are not in the way"
        );
    }
}
