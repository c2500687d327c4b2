//! `struct sk_buff`, as far as TCP's own packets and the errors of its sockets need it.

use super::Field;

/// Kernel's `struct sk_buff`.
pub struct SkBuff;
/// Kernel's `struct tcp_skb_cb`: what TCP keeps in `sk_buff.cb`.
#[derive(Clone, Copy)]
pub struct TcpSkb;
/// Kernel's `struct sock_exterr_skb`: what `sk_buff.cb` holds of an error that waits for the program.
#[derive(Clone, Copy)]
pub struct Exterr;

/// Origins of such an error (include/uapi/linux/errqueue.h): what a router or the peer sent by ICMP; others are time stamps.
const SO_EE_ORIGIN_ICMP: u8 = 2;
const SO_EE_ORIGIN_ICMP6: u8 = 3;
/// ICMP "destination unreachable", and its codes for a prohibition (RFC 792, RFC 1122, RFC 1812): network, host, filter. For these
/// IPv4's errno is that of any unreachable host.
const ICMP_DEST_UNREACH: u8 = 3;
const ICMP_NET_ANO: u8 = 9;
const ICMP_HOST_ANO: u8 = 10;
const ICMP_PKT_FILTERED: u8 = 13;
const EACCES: u16 = 13;

#[unsafe(no_mangle)]
static SKB_CB: Field<SkBuff, TcpSkb> = Field::new();
#[unsafe(no_mangle)]
static TCP_SKB_SEGMENTS: Field<TcpSkb, u16> = Field::new();
#[unsafe(no_mangle)]
static EXTERR_ERRNO: Field<Exterr, u32> = Field::new();
#[unsafe(no_mangle)]
static EXTERR_ORIGIN: Field<Exterr, u8> = Field::new();
#[unsafe(no_mangle)]
static EXTERR_TYPE: Field<Exterr, u8> = Field::new();
#[unsafe(no_mangle)]
static EXTERR_CODE: Field<Exterr, u8> = Field::new();

impl SkBuff {
    /// Segments that a packet of a TCP socket leaves as: what the kernel adds to `TcpRetransSegs` (`tcp_skb_pcount`).
    #[inline(always)]
    pub fn tcp_segments(skb: *const Self) -> u32 {
        let segments = TCP_SKB_SEGMENTS.probe_read(SKB_CB.address(skb));
        u32::from(segments.unwrap_or(1)).max(1)
    }

    /// errno of the ICMP error that this packet of an error queue holds, `EACCES` where it says that the way is prohibited; 0 for
    /// any other packet.
    #[inline(always)]
    pub fn icmp_error(skb: *const Self) -> u16 {
        if !EXTERR_ERRNO.is_present() {
            return 0;
        }
        let exterr: *const Exterr = SKB_CB.address(skb).cast();
        let of_ipv4 = match EXTERR_ORIGIN.probe_read(exterr).unwrap_or(0) {
            SO_EE_ORIGIN_ICMP => true,
            SO_EE_ORIGIN_ICMP6 => false,
            _ => return 0,
        };
        let code = EXTERR_CODE.probe_read(exterr).unwrap_or(0);
        let is_prohibition = EXTERR_TYPE.probe_read(exterr).unwrap_or(0) == ICMP_DEST_UNREACH
            && matches!(code, ICMP_NET_ANO | ICMP_HOST_ANO | ICMP_PKT_FILTERED);
        if of_ipv4 && is_prohibition {
            EACCES
        } else {
            EXTERR_ERRNO.probe_read(exterr).unwrap_or(0) as u16
        }
    }
}
