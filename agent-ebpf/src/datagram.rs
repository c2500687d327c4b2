//! DNS over UDP: which datagrams are of DNS, whose they are, and their way to userspace.

use core::ptr;

use agent_ebpf::{
    connection::{ROLE_CLIENT, ROLE_SERVER},
    dns::{DNS_LIMIT, DnsHeader, TRANSPORT_UDP},
    event::{DNS_MESSAGE, EventHeader},
    hello::{BACKWARD, FORWARD},
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get, bpf_skb_cgroup_id, bpf_skb_load_bytes},
};

use crate::{
    hellos::load,
    kernel::{Task, from_one_to},
    maps::DNS_OWNERS,
    output, segment, settings, socket,
};

const IPPROTO_UDP: u8 = 17;
const UDP_HEADER: u32 = 8;
const LONG_BYTES: u32 = DNS_LIMIT as u32;
const SHORT_BYTES: u32 = 512;

/// The process that sends from a datagram socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DnsOwner {
    comm: [u8; 16],
    pid: u32,
    netns: u32,
    netns_cookie: u64,
}

#[repr(C)]
struct Message<B> {
    header: DnsHeader,
    bytes: B,
}

/// The running process is about to send a datagram, or to choose a peer for datagrams: it owns what it sends to a DNS
/// port, or from one.
///
/// In process context only: the programs that see the packets may not ask for the task before 6.10.
#[inline(always)]
pub fn own(address: *const bpf_sock_addr) {
    if !settings::notes_dns_owners() {
        return;
    }
    // SAFETY: the context is valid for the program's run.
    let (port, sk) = unsafe { ((*address).user_port, (*address).__bindgen_anon_1.sk) };
    if sk.is_null() {
        return;
    }
    // The port sits in the first two bytes of the word, in network byte order.
    let remote = u16::from_be_bytes([port.to_ne_bytes()[0], port.to_ne_bytes()[1]]);
    if !settings::is_dns_port(remote) {
        // SAFETY: the context's socket is a full one.
        let local = unsafe { (*sk).src_port } as u16;
        if !settings::is_dns_port(local) {
            return;
        }
    }
    let task = Task::current();
    if Task::is_kernel_thread(task) {
        return;
    }
    if let Some(owner) = socket::create(|flags| owner(sk, flags)) {
        owner.pid = Task::tgid(task);
        owner.netns = Task::netns(task);
        owner.netns_cookie = Task::netns_cookie(task);
        owner.comm = Task::process_comm(task);
    }
}

#[inline(always)]
fn owner<'a>(sk: *mut bpf_sock, flags: u64) -> Option<&'a mut DnsOwner> {
    // SAFETY: the verifier checks that `sk` is a socket that this hook may pass; the storage outlives the run.
    unsafe {
        bpf_sk_storage_get(DNS_OWNERS.as_ptr(), sk.cast(), ptr::null_mut(), flags)
            .cast::<DnsOwner>()
            .as_mut()
    }
}

/// A packet of a socket that is no watched connection: sent to userspace when it is a datagram of DNS.
#[inline(always)]
pub fn observe(skb: *const __sk_buff, egress: bool) {
    let Some(datagram) = segment::datagram(skb, IPPROTO_UDP) else {
        return;
    };
    let (local, remote) = if egress {
        (datagram.source, datagram.destination)
    } else {
        (datagram.destination, datagram.source)
    };
    let role = if settings::is_dns_port(remote) {
        ROLE_CLIENT
    } else if settings::is_dns_port(local) {
        ROLE_SERVER
    } else {
        return;
    };
    dns_datagram(skb.cast_mut(), datagram.at, u32::from(role), u32::from(egress));
}

/// Sends a datagram's payload; `at` is its UDP header.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn dns_datagram(skb: *mut __sk_buff, at: u32, role: u32, egress: u32) -> u32 {
    let Some(lengths) = load::<4>(skb, at.wrapping_add(4)) else {
        return 0;
    };
    let length = u32::from(u16::from_be_bytes([lengths[0], lengths[1]])).wrapping_sub(UDP_HEADER);
    if length == 0 || length > u32::from(u16::MAX) {
        return 0;
    }
    let sent = if length > LONG_BYTES { LONG_BYTES } else { length };
    if sent <= SHORT_BYTES {
        send::<SHORT_BYTES, [u8; SHORT_BYTES as usize]>(skb, at, length, sent, role as u8, egress != 0);
    } else {
        send::<LONG_BYTES, [u8; LONG_BYTES as usize]>(skb, at, length, sent, role as u8, egress != 0);
    }
    0
}

#[inline(always)]
fn send<const N: u32, B>(skb: *mut __sk_buff, at: u32, length: u32, sent: u32, role: u8, egress: bool) {
    // SAFETY: the helper takes this context.
    let cgroup_id = unsafe { bpf_skb_cgroup_id(skb) };
    output::fill_dns::<Message<B>>(cgroup_id, |message| {
        // SAFETY: the reserved room is a message's; all of its header is written, and the helper fills no more than
        // `sent` of its bytes, which the verifier checks.
        unsafe {
            let header = &raw mut (*message).header;
            (*header).header = EventHeader::of::<Message<B>>(DNS_MESSAGE, socket::now());
            (*header).cookie = bpf_get_socket_cookie(skb.cast());
            (*header).cgroup_id = cgroup_id;
            let is_query = (role == ROLE_CLIENT) == egress;
            (*header).direction = if is_query { FORWARD } else { BACKWARD };
            (*header).role = role;
            (*header).transport = TRANSPORT_UDP;
            (*header).offset = 0;
            (*header).length = sent as u16;
            (*header).message_length = length as u16;
            let sk = (*skb).__bindgen_anon_2.sk;
            let known = if sk.is_null() { None } else { owner(sk, 0) };
            if let Some(owner) = known {
                (*header).pid = owner.pid;
                (*header).netns = owner.netns;
                (*header).netns_cookie = owner.netns_cookie;
                (*header).comm = owner.comm;
            } else {
                (*header).pid = 0;
                (*header).netns = 0;
                (*header).netns_cookie = 0;
                (*header).comm = [0; 16];
            }
            let ends = if egress {
                Ends { local: 0, remote: 1 }
            } else {
                Ends { local: 1, remote: 0 }
            };
            if !ends.load(skb, at, header) {
                return false;
            }
            let sent = from_one_to::<N>(sent);
            bpf_skb_load_bytes(skb.cast(), at + UDP_HEADER, (&raw mut (*message).bytes).cast(), sent) == 0
        }
    });
}

/// Which end of a packet is whose: 0 for the source, 1 for the destination.
#[derive(Clone, Copy)]
struct Ends {
    local: u32,
    remote: u32,
}

impl Ends {
    /// Reads addresses and ports straight into the room: an address on the way would be read from the stack before it is
    /// written there, which 6.1 refuses.
    ///
    /// # Safety
    /// `header` is room of a ring.
    #[inline(always)]
    unsafe fn load(self, skb: *mut __sk_buff, at: u32, header: *mut DnsHeader) -> bool {
        // SAFETY: as the caller says; each call fills as many bytes as the member has, or the first four.
        unsafe {
            let mut first = 0_u8;
            let mut failed = bpf_skb_load_bytes(skb.cast(), 0, (&raw mut first).cast(), 1);
            (*header).ip_version = first >> 4;
            (*header).local_address = [0; 16];
            (*header).remote_address = [0; 16];
            let local = (&raw mut (*header).local_address).cast();
            let remote = (&raw mut (*header).remote_address).cast();
            if first >> 4 == 4 {
                failed |= bpf_skb_load_bytes(skb.cast(), 12 + 4 * self.local, local, 4);
                failed |= bpf_skb_load_bytes(skb.cast(), 12 + 4 * self.remote, remote, 4);
            } else {
                failed |= bpf_skb_load_bytes(skb.cast(), 8 + 16 * self.local, local, 16);
                failed |= bpf_skb_load_bytes(skb.cast(), 8 + 16 * self.remote, remote, 16);
            }
            let local_port = (&raw mut (*header).local_port).cast();
            let remote_port = (&raw mut (*header).remote_port).cast();
            failed |= bpf_skb_load_bytes(skb.cast(), at + 2 * self.local, local_port, 2);
            failed |= bpf_skb_load_bytes(skb.cast(), at + 2 * self.remote, remote_port, 2);
            failed == 0
        }
    }
}
