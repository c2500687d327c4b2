//! `struct sk_buff`, as far as TCP's own packets need it.

use super::Field;

/// Kernel's `struct sk_buff`.
pub struct SkBuff;
/// Kernel's `struct tcp_skb_cb`: what TCP keeps in `sk_buff.cb`.
#[derive(Clone, Copy)]
pub struct TcpSkb;

#[unsafe(no_mangle)]
static SKB_CB: Field<SkBuff, TcpSkb> = Field::new();
#[unsafe(no_mangle)]
static TCP_SKB_SEGMENTS: Field<TcpSkb, u16> = Field::new();

impl SkBuff {
    /// Segments that a packet of a TCP socket leaves as: what the kernel adds to `TcpRetransSegs` (`tcp_skb_pcount`).
    #[inline(always)]
    pub fn tcp_segments(skb: *const Self) -> u32 {
        let segments = TCP_SKB_SEGMENTS.probe_read(SKB_CB.address(skb));
        u32::from(segments.unwrap_or(1)).max(1)
    }
}
