//! The messages of `NETLINK_SOCK_DIAG` (`include/uapi/linux/{netlink,sock_diag,inet_diag}.h`): one request, its answers.
//!
//! Total on any bytes: what is cut or makes no sense ends the reading, and nothing is taken from it.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection::Endpoint;

/// Length of [`request`].
pub const REQUEST_BYTES: usize = HEADER_BYTES + 56;

const HEADER_BYTES: usize = 16;
const SOCKET_BYTES: usize = 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_FLAGS: u16 = 0x1 | 0x300;
/// `INET_DIAG_SKMEMINFO`, and where `SK_MEMINFO_DROPS` stands in it.
const SKMEMINFO: u16 = 7;
const DROPS_AT: usize = 8 * 4;
/// Upper bits of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// `idiag_timer` of a socket that only lingers: a full one never has it.
const TIMER_LINGERS: u8 = 3;

/// One socket as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiagSocket {
    /// RFC 9293 state in the kernel's numbering; a request that waits for its final ACK is in `SYN_RECV`.
    pub state: u8,
    /// Nothing but a timer is left of it: it is in `TIME_WAIT`, or in `FIN_WAIT2` without an owner.
    pub lingers: bool,
    /// This side.
    pub local: Endpoint,
    /// The other side; port 0 for a listener.
    pub remote: Endpoint,
    /// The socket's cookie; what lingers has that of its connection.
    pub cookie: u64,
    /// Of a listener: connections that wait for `accept`.
    pub receive_queue: u32,
    /// Of a listener: how many may.
    pub send_queue: u32,
    /// What was dropped at this socket, where it was asked for.
    pub drops: Option<u32>,
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A socket.
    Socket(DiagSocket),
    /// The list is complete.
    Done,
    /// The kernel refuses, with this errno.
    Failed(i32),
    /// Of no interest.
    Other,
}

/// Asks for all TCP sockets of an address family (`AF_INET`, `AF_INET6`) whose state is among the bits `states`.
pub fn request(family: u8, states: u32, with_drops: bool) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST_FLAGS.to_ne_bytes());
    bytes[16] = family;
    bytes[17] = libc::IPPROTO_TCP as u8;
    bytes[18] = if with_drops { 1 << (SKMEMINFO - 1) } else { 0 };
    bytes[20..24].copy_from_slice(&states.to_ne_bytes());
    bytes
}

/// The messages in what one `recv` gave.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Message> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let kind = u16_at(rest, 4)?;
        let body = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some(match kind {
            SOCK_DIAG_BY_FAMILY => socket(body).map_or(Message::Other, Message::Socket),
            NLMSG_ERROR => Message::Failed(errno(body)),
            // A dump that broke off says so in its last word.
            NLMSG_DONE => match errno(body) {
                0 => Message::Done,
                errno => Message::Failed(errno),
            },
            _ => Message::Other,
        })
    })
}

/// `struct inet_diag_msg` and its attributes.
fn socket(body: &[u8]) -> Option<DiagSocket> {
    let attributes = body.get(SOCKET_BYTES..)?;
    let family = *body.first()?;
    let endpoint = |port: usize, address: usize| {
        Some(Endpoint {
            address: address_at(family, body, address)?,
            port: u16::from_be_bytes(array_at(body, port)?),
        })
    };
    Some(DiagSocket {
        state: *body.get(1)?,
        lingers: *body.get(2)? == TIMER_LINGERS,
        local: endpoint(4, 8)?,
        remote: endpoint(6, 24)?,
        cookie: u64::from(u32_at(body, 44)?) | u64::from(u32_at(body, 48)?) << 32,
        receive_queue: u32_at(body, 56)?,
        send_queue: u32_at(body, 60)?,
        drops: drops(attributes),
    })
}

fn drops(mut attributes: &[u8]) -> Option<u32> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)? & ATTRIBUTE_TYPE;
        let value = attributes.get(4..length)?;
        if kind == SKMEMINFO {
            return u32_at(value, DROPS_AT);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

/// An IPv4 address behind an IPv6 socket comes as IPv4.
fn address_at(family: u8, body: &[u8], at: usize) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(array_at::<4>(body, at)?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(array_at::<16>(body, at)?).to_canonical()),
        _ => None,
    }
}

/// The errno at the start of an answer, which the kernel gives negated; 0 for none.
fn errno(body: &[u8]) -> i32 {
    array_at(body, 0).map_or(0, |bytes| i32::from_ne_bytes(bytes).saturating_neg())
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel sends for a listener at 10.0.0.1:80 with 3 of 128 waiting and 7 dropped.
    fn listener() -> Vec<u8> {
        let mut body = vec![0; SOCKET_BYTES];
        (body[0], body[1]) = (libc::AF_INET as u8, 10);
        body[4..6].copy_from_slice(&80_u16.to_be_bytes());
        body[8..12].copy_from_slice(&[10, 0, 0, 1]);
        body[44..52].copy_from_slice(&0x1_0000_0002_u64.to_ne_bytes());
        body[56..60].copy_from_slice(&3_u32.to_ne_bytes());
        body[60..64].copy_from_slice(&128_u32.to_ne_bytes());
        // An attribute of one byte with its padding, then the memory of nine numbers.
        body.extend([5, 0, 8, 0, 1, 0, 0, 0, 40, 0, 7, 0]);
        body.extend([0; 32]);
        body.extend(7_u32.to_ne_bytes());
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_listener_and_the_end() {
        let mut bytes = listener();
        bytes.extend(message(99, &[1, 2, 3, 4]));
        bytes.extend(message(NLMSG_DONE, &0_i32.to_ne_bytes()));
        let read: Vec<Message> = messages(&bytes).collect();
        let [Message::Socket(socket), Message::Other, Message::Done] = read[..] else {
            panic!("{read:?}");
        };
        assert_eq!(
            socket.local,
            Endpoint {
                address: [10, 0, 0, 1].into(),
                port: 80
            }
        );
        assert_eq!((socket.remote.port, socket.cookie), (0, 0x1_0000_0002));
        assert_eq!(
            (socket.receive_queue, socket.send_queue, socket.drops),
            (3, 128, Some(7))
        );
        assert!(!socket.lingers);
    }

    #[test]
    fn refusals() {
        for (kind, body, expected) in [
            (NLMSG_ERROR, (-2_i32).to_ne_bytes(), Message::Failed(2)),
            (NLMSG_DONE, (-11_i32).to_ne_bytes(), Message::Failed(11)),
            (NLMSG_DONE, i32::MIN.to_ne_bytes(), Message::Failed(i32::MAX)),
        ] {
            assert!(messages(&message(kind, &body)).eq([expected]), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            // Every message takes its header at least.
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
        }

        #[test]
        fn a_damaged_answer_is_read_to_an_end(at in 0_usize..140, byte in any::<u8>(), cut in 0_usize..140) {
            let mut bytes = listener();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
        }
    }
}
