//! Headers of one IP packet: where the TCP payload is and what it acknowledges, or which ports a datagram has.

use aya_ebpf::bindings::__sk_buff;

const IPV4_MINIMUM: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_MINIMUM: usize = 20;
const UDP_HEADER: usize = 8;
const IPPROTO_TCP: u8 = 6;
/// Extension headers that are stepped over (RFC 8200 section 4): hop-by-hop (BIG TCP has one), routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const MOST_EXTENSIONS: usize = 3;

/// The longest headers without extensions: IPv6, and TCP with all its options.
const LONGEST_BARE: u32 = 40 + 60;

/// Payload of one TCP segment, or of a super-packet of several.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Offset of the payload in the packet.
    pub at: u32,
    /// Bytes of payload, not 0.
    pub length: u32,
    /// Sequence number of its first byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// A SYN that carries payload (TCP Fast Open).
    pub syn: bool,
    /// The packet is IPv4.
    pub ipv4: bool,
    /// Offset of the TCP header.
    pub tcp: u32,
}

impl Segment {
    /// A TCP segment without payload: an acknowledgement, most of all. Told from the packet alone, before the socket's
    /// storage is looked for; most packets are found to be none by their length.
    #[inline(always)]
    pub fn is_bare(skb: *const __sk_buff) -> bool {
        // SAFETY: the context is valid for the program's run.
        let (data, end, length) = unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).len) };
        if length > LONGEST_BARE || data + IPV4_MINIMUM + TCP_MINIMUM > end {
            return false;
        }
        let Some(at) = transport_header(data, end, IPPROTO_TCP) else {
            return false;
        };
        let tcp = data + at;
        if tcp + TCP_MINIMUM > end {
            return false;
        }
        at as u32 + u32::from(byte(tcp + 12) >> 4) * 4 >= length
    }

    /// `None` for anything without TCP payload, and for headers that are not what they should be.
    #[inline(always)]
    pub fn with_payload(skb: *const __sk_buff) -> Option<Self> {
        // SAFETY: the context is valid for the program's run.
        let (data, end, length) = unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).len) };
        if data + IPV4_MINIMUM + TCP_MINIMUM > end {
            return None;
        }
        let first: u8 = byte(data);
        let ipv4 = first >> 4 == 4;
        let at = transport_header(data, end, IPPROTO_TCP)?;
        let tcp = data + at;
        if tcp + TCP_MINIMUM > end {
            return None;
        }
        let header = u32::from(byte(tcp + 12) >> 4) * 4;
        let at_tcp = at as u32;
        let at = at_tcp + header;
        // The packet's own length: headers say 0 for super-packets that are too long for them.
        if at >= length || header < TCP_MINIMUM as u32 {
            return None;
        }
        let syn = byte(tcp + 13) & 2 != 0;
        let seq = word(tcp + 4).wrapping_add(u32::from(syn));
        Some(Self {
            at,
            length: length - at,
            seq,
            ack: word(tcp + 8),
            syn,
            ipv4,
            tcp: at_tcp,
        })
    }
}

/// TTL or hop limit of the packet; 0 where there is no header.
#[inline(always)]
pub fn ttl(skb: *const __sk_buff) -> u8 {
    // SAFETY: the context is valid for the program's run.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if data + IPV4_MINIMUM > end {
        return 0;
    }
    byte(if byte(data) >> 4 == 4 { data + 8 } else { data + 7 })
}

/// Ports of a datagram, in host byte order.
pub struct Datagram {
    /// Offset of its header in the packet.
    pub at: u32,
    pub source: u16,
    pub destination: u16,
}

/// `None` for anything but this protocol.
#[inline(always)]
pub fn datagram(skb: *const __sk_buff, protocol: u8) -> Option<Datagram> {
    // SAFETY: the context is valid for the program's run.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if data + IPV4_MINIMUM + UDP_HEADER > end {
        return None;
    }
    let at = transport_header(data, end, protocol)?;
    let header = data + at;
    if header + UDP_HEADER > end {
        return None;
    }
    let ports = word(header);
    Some(Datagram {
        at: at as u32,
        source: (ports >> 16) as u16,
        destination: ports as u16,
    })
}

/// Offset of the transport's header; `None` when it is of another protocol. 20 bytes of the packet are there.
#[inline(always)]
fn transport_header(data: usize, end: usize, protocol: u8) -> Option<usize> {
    let first = byte(data);
    if first >> 4 == 4 {
        (byte(data + 9) == protocol).then_some(usize::from(first & 0xf) * 4)
    } else {
        after_extensions(data, end, protocol)
    }
}

#[inline(always)]
fn after_extensions(data: usize, end: usize, protocol: u8) -> Option<usize> {
    let mut next = byte(data + 6);
    let mut at = IPV6_HEADER;
    for _ in 0..MOST_EXTENSIONS {
        if next == protocol {
            break;
        }
        if !EXTENSIONS.contains(&next) || data + at + 2 > end {
            return None;
        }
        next = byte(data + at);
        at += (usize::from(byte(data + at + 1)) + 1) * 8;
        if at > 0x1ff {
            return None;
        }
    }
    (next == protocol).then_some(at)
}

/// A byte of the packet that the caller has found to be there.
#[inline(always)]
fn byte(at: usize) -> u8 {
    // SAFETY: checked against the packet's end by the caller, and by the verifier.
    unsafe { (at as *const u8).read() }
}

/// A big-endian word of the packet; headers are aligned to 4 bytes.
#[inline(always)]
fn word(at: usize) -> u32 {
    // SAFETY: as above.
    u32::from_be(unsafe { (at as *const u32).read() })
}
