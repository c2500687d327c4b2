//! Payload that arrives with a listener as its socket: it completes a handshake (`TCP_DEFER_ACCEPT`, TCP Fast Open, a
//! final ACK that was lost), so its connection has no socket yet. Its timeline is kept until the child appears.

use core::ptr;

use agent_ebpf::{
    connection::{ConnectionState, ROLE_SERVER},
    event::ConnectionEvent,
    hello::FORWARD,
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    helpers::generated::{bpf_map_update_elem, bpf_skb_load_bytes},
};

use crate::{
    maps::{EARLY, EARLY_SEEN, EMPTY},
    phases::Payload,
    segment::Segment,
    socket,
};

/// The child of a handshake appears at once; what is older was somebody else's.
const FRESH_NS: u64 = 10_000_000_000;

/// Whose payload: a listener and a peer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EarlyKey {
    listener_cookie: u64,
    /// IPv4 in the first four bytes, v4-mapped too.
    address: [u8; 16],
    port: [u8; 2],
    reserved: [u8; 6],
}

/// A connection that has no socket yet, with the payload that goes into its timeline.
#[inline(always)]
pub fn keep<'a>(skb: *const __sk_buff, listener: &ConnectionState) -> Option<(&'a mut ConnectionEvent, Payload)> {
    let segment = Segment::with_payload(skb)?;
    let key = key_of_packet(skb, listener.cookie, &segment)?;
    let now = socket::now();
    if let Some(kept) = EARLY.get_ptr(key) {
        // SAFETY: the entry lives as long as this program runs.
        let state = unsafe { &(*kept).state };
        if state.timeline.next_seq[0] == segment.seq.wrapping_add(segment.length)
            && now.saturating_sub(state.intent_ns) < FRESH_NS
        {
            // The same again.
            return None;
        }
    }
    let empty = EMPTY.get_ptr(0)?;
    // SAFETY: key and value are what the map holds.
    let result = unsafe {
        bpf_map_update_elem(
            ptr::from_ref(&EARLY).cast_mut().cast(),
            (&raw const key).cast_mut().cast(),
            empty.cast_mut().cast(),
            u64::from(BPF_ANY),
        )
    };
    if result != 0 {
        return None;
    }
    if let Some(seen) = EARLY_SEEN.get_ptr_mut(0) {
        // SAFETY: the entry lives as long as the map; only ever set.
        unsafe { *seen = 1 };
    }
    // SAFETY: the entry lives as long as this program runs, and this peer's segments come one after the other.
    let event = unsafe { &mut *EARLY.get_ptr_mut(key)? };
    event.state.role = ROLE_SERVER;
    event.state.cgroup_id = listener.cgroup_id;
    event.state.intent_ns = now;
    // Its bytes are sent under this number; sockets count theirs from 1.
    event.state.cookie = now | 1 << 63;
    event.state.timeline.next_seq[0] = segment.seq.wrapping_add(segment.length);
    let payload = Payload {
        now,
        at: segment.at,
        length: segment.length,
        seq: segment.seq,
        ack: segment.ack,
        direction: FORWARD,
        egress: 0,
    };
    Some((event, payload))
}

/// The child appears: its timeline began with its listener.
#[inline(always)]
pub fn adopt(state: &mut ConnectionState) {
    let Some(seen) = EARLY_SEEN.get(0) else { return };
    if *seen == 0 {
        return;
    }
    let mut key = EarlyKey {
        listener_cookie: state.listener_cookie,
        address: state.remote_address,
        port: state.remote_port,
        reserved: [0; 6],
    };
    if state.remote_address[..10] == [0; 10] && state.remote_address[10] == 0xff && state.remote_address[11] == 0xff {
        key.address = [0; 16];
        key.address[..4].copy_from_slice(&state.remote_address[12..]);
    }
    let Some(kept) = EARLY.get_ptr(key) else { return };
    // SAFETY: the entry lives as long as this program runs.
    let kept = unsafe { &(*kept).state };
    if socket::now().saturating_sub(kept.intent_ns) < FRESH_NS {
        state.timeline = kept.timeline;
        state.timeline.hello_stream = kept.cookie;
    }
    let _just_found = EARLY.remove(key);
}

#[inline(always)]
fn key_of_packet(skb: *const __sk_buff, listener_cookie: u64, segment: &Segment) -> Option<EarlyKey> {
    let mut key = EarlyKey {
        listener_cookie,
        address: [0; 16],
        port: [0; 2],
        reserved: [0; 6],
    };
    let (at, bytes) = if segment.ipv4 { (12, 4) } else { (8, 16) };
    // SAFETY: as long as said.
    let results = unsafe {
        let address = if bytes == 4 {
            bpf_skb_load_bytes(skb.cast(), at, key.address.as_mut_ptr().cast(), 4)
        } else {
            bpf_skb_load_bytes(skb.cast(), at, key.address.as_mut_ptr().cast(), 16)
        };
        address | bpf_skb_load_bytes(skb.cast(), segment.tcp, key.port.as_mut_ptr().cast(), 2)
    };
    (results == 0).then_some(key)
}
