//! `struct sock` and `struct socket`: what every socket has.

use super::{Cgroup, Field, SkBuff};

/// Kernel's `struct sock`.
pub struct Sock;
/// Kernel's `struct socket`: the side that a file descriptor points to.
pub struct Socket;
/// Kernel's `struct net`: a network namespace.
pub struct Net;

/// Bit of `sock.sk_flags`: the peer's FIN was received (include/net/sock.h, `enum sock_flags`).
const SOCK_DONE: u64 = 1 << 1;
/// Number of this protocol in `sock.sk_protocol`.
const IPPROTO_TCP: u16 = 6;

#[unsafe(no_mangle)]
static SKC_FAMILY: Field<Sock, u16> = Field::new();
#[unsafe(no_mangle)]
static SKC_DADDR: Field<Sock, u32> = Field::new();
#[unsafe(no_mangle)]
static SKC_RCV_SADDR: Field<Sock, u32> = Field::new();
#[unsafe(no_mangle)]
static SKC_V6_DADDR: Field<Sock, [u8; 16]> = Field::new();
#[unsafe(no_mangle)]
static SKC_V6_RCV_SADDR: Field<Sock, [u8; 16]> = Field::new();
#[unsafe(no_mangle)]
static SKC_DPORT: Field<Sock, u16> = Field::new();
#[unsafe(no_mangle)]
static SKC_NUM: Field<Sock, u16> = Field::new();
#[unsafe(no_mangle)]
static SKC_STATE: Field<Sock, u8> = Field::new();
#[unsafe(no_mangle)]
static SKC_FLAGS: Field<Sock, u64> = Field::new();
#[unsafe(no_mangle)]
static SKC_NET: Field<Sock, *const Net> = Field::new();
#[unsafe(no_mangle)]
static SK_PROTOCOL: Field<Sock, u16> = Field::new();
#[unsafe(no_mangle)]
static SK_ERR: Field<Sock, i32> = Field::new();
#[unsafe(no_mangle)]
static SK_ERR_SOFT: Field<Sock, i32> = Field::new();
#[unsafe(no_mangle)]
static SK_ERROR_QUEUE_LENGTH: Field<Sock, u32> = Field::new();
#[unsafe(no_mangle)]
static SK_ERROR_QUEUE_LAST: Field<Sock, *const SkBuff> = Field::new();
#[unsafe(no_mangle)]
static SK_CGROUP: Field<Sock, *const Cgroup> = Field::new();
#[unsafe(no_mangle)]
static SK_SOCKET: Field<Sock, *const Socket> = Field::new();
#[unsafe(no_mangle)]
static SOCKET_SK: Field<Socket, *mut Sock> = Field::new();
#[unsafe(no_mangle)]
static SOCKET_INODE_NUMBER: Field<Socket, u64> = Field::new();
#[unsafe(no_mangle)]
static NET_INUM: Field<Net, u32> = Field::new();
#[unsafe(no_mangle)]
static NET_COOKIE: Field<Net, u64> = Field::new();

impl Net {
    /// What `lsns` and `/proc/PID/ns/net` show.
    #[inline(always)]
    pub fn inode_number(net: *const Self) -> u32 {
        NET_INUM.read(net)
    }

    /// Number that no other network namespace has until the next boot, unlike the inode's; 0 when it has none (before 5.12 the
    /// kernel gives it to those that are asked for it).
    #[inline(always)]
    pub fn cookie(net: *const Self) -> u64 {
        if NET_COOKIE.is_present() {
            NET_COOKIE.read(net)
        } else {
            0
        }
    }
}

impl Sock {
    #[inline(always)]
    pub fn family(sk: *const Self) -> u16 {
        SKC_FAMILY.read(sk)
    }

    /// Remote IPv4 address, network byte order.
    #[inline(always)]
    pub fn remote_ipv4(sk: *const Self) -> [u8; 4] {
        SKC_DADDR.read(sk).to_ne_bytes()
    }

    /// Local IPv4 address, network byte order.
    #[inline(always)]
    pub fn local_ipv4(sk: *const Self) -> [u8; 4] {
        SKC_RCV_SADDR.read(sk).to_ne_bytes()
    }

    /// Remote IPv6 address.
    #[inline(always)]
    pub fn remote_ipv6(sk: *const Self) -> [u8; 16] {
        SKC_V6_DADDR.probe_read(sk).unwrap_or_default()
    }

    /// Local IPv6 address.
    #[inline(always)]
    pub fn local_ipv6(sk: *const Self) -> [u8; 16] {
        SKC_V6_RCV_SADDR.probe_read(sk).unwrap_or_default()
    }

    /// Remote port, network byte order.
    #[inline(always)]
    pub fn remote_port(sk: *const Self) -> [u8; 2] {
        SKC_DPORT.read(sk).to_ne_bytes()
    }

    /// Local port, network byte order (the kernel keeps this one in host order).
    #[inline(always)]
    pub fn local_port(sk: *const Self) -> [u8; 2] {
        SKC_NUM.read(sk).to_be_bytes()
    }

    /// RFC 9293 state, kernel numbering.
    #[inline(always)]
    pub fn state(sk: *const Self) -> u8 {
        SKC_STATE.read(sk)
    }

    /// MPTCP's parent sockets change state too, with no address: only this protocol counts.
    #[inline(always)]
    pub fn is_tcp(sk: *const Self) -> bool {
        SK_PROTOCOL.read(sk) == IPPROTO_TCP
    }

    /// Positive errno that the application will be given, or 0.
    #[inline(always)]
    pub fn error(sk: *const Self) -> u16 {
        SK_ERR.read(sk) as u16
    }

    /// Positive errno that the kernel has noted without ending the connection, or 0.
    #[inline(always)]
    pub fn soft_error(sk: *const Self) -> u16 {
        SK_ERR_SOFT.read(sk) as u16
    }

    /// Positive errno that the kernel is just reporting, or 0.
    ///
    /// An ICMP error at a connect of IPv4 waits in the error queue, where its code is (5.10, 45af29ca761c); `sk_err` is set later, or
    /// never while a system call holds the socket, and `SO_ERROR` then gives the soft error (read in 6.18).
    #[inline(always)]
    pub fn reported_error(sk: *const Self) -> u16 {
        let of_queue = if SK_ERROR_QUEUE_LENGTH.is_present()
            && SK_ERROR_QUEUE_LAST.is_present()
            && SK_ERROR_QUEUE_LENGTH.read(sk) != 0
        {
            SkBuff::icmp_error(SK_ERROR_QUEUE_LAST.read(sk))
        } else {
            0
        };
        if of_queue == 0 { Self::error(sk) } else { of_queue }
    }

    /// The peer's FIN was received.
    #[inline(always)]
    pub fn fin_received(sk: *const Self) -> bool {
        SKC_FLAGS.read(sk) & SOCK_DONE != 0
    }

    /// Id of the cgroup that the socket belongs to.
    #[inline(always)]
    pub fn cgroup_id(sk: *const Self) -> u64 {
        Cgroup::id(SK_CGROUP.read(sk))
    }

    /// The cgroup that the socket belongs to.
    #[inline(always)]
    pub fn cgroup(sk: *const Self) -> *const Cgroup {
        SK_CGROUP.read(sk)
    }

    /// Inode number of the network namespace.
    #[inline(always)]
    pub fn netns(sk: *const Self) -> u32 {
        Net::inode_number(SKC_NET.read(sk))
    }

    /// Number that no other network namespace has.
    #[inline(always)]
    pub fn netns_cookie(sk: *const Self) -> u64 {
        Net::cookie(SKC_NET.read(sk))
    }

    /// Inode number of the file that holds the socket; 0 when nothing does any more.
    #[inline(always)]
    pub fn inode(sk: *const Self) -> u32 {
        let socket = SK_SOCKET.read(sk);
        if socket.is_null() {
            0
        } else {
            SOCKET_INODE_NUMBER.probe_read(socket).unwrap_or(0) as u32
        }
    }
}

impl Socket {
    #[inline(always)]
    pub fn sk(socket: *const Self) -> *mut Sock {
        SOCKET_SK.read(socket)
    }

    /// The same of a pointer that the verifier knows nothing of.
    #[inline(always)]
    pub fn sk_by_reading(socket: *const Self) -> Option<*mut Sock> {
        SOCKET_SK.probe_read(socket)
    }
}
