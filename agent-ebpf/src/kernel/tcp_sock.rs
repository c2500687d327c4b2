//! `struct tcp_sock` and a listener's `struct request_sock`.

use agent_ebpf::connection::TcpCounters;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_skc_to_tcp_sock};

use super::{Field, Sock};

/// Kernel's `struct tcp_sock`; begins with a [`Sock`].
pub struct TcpSock;
/// Kernel's `struct mptcp_subflow_context`: what makes a TCP socket a subflow.
pub struct Subflow;
/// Kernel's `struct mptcp_sock`: what subflows belong to.
pub struct MptcpSock;
/// Kernel's `struct tcp_request_sock`: a handshake that a listener is in.
pub struct RequestSock;

/// `icsk_ca_state` values (include/uapi/linux/tcp.h, `enum tcp_ca_state`): fast recovery and RTO recovery.
const CA_RECOVERY: u8 = 3;
const CA_LOSS: u8 = 4;
/// `icsk_ca_state` shares its byte with three flags.
const CA_STATE_MASK: u8 = 0x1f;
/// Unit of the timestamps in segments (RFC 7323).
const TIMESTAMP_US: u32 = 1_000;
/// Bits of a SYN cookie's timestamp that keep the window scale; all are set where there is none (`TS_OPT_WSCALE_MASK`).
const COOKIE_WSCALE: u32 = 0xf;
/// `icsk_pending` while a tail loss probe is sent (`include/net/inet_connection_sock.h`, `ICSK_TIME_LOSS_PROBE`).
const TIMER_LOSS_PROBE: u8 = 5;

/// A sender pauses that has sent nothing for so many ticks of the kernel's clock, 1 to 10 ms each.
const PAUSE_TICKS: u32 = 3;
/// The same where it is seen from the other end of the path.
const PAUSE_TICKS_AT_SERVER: u32 = 25;

#[unsafe(no_mangle)]
static TCP_BYTES_SENT: Field<TcpSock, u64> = Field::new();
#[unsafe(no_mangle)]
static TCP_BYTES_RETRANS: Field<TcpSock, u64> = Field::new();
#[unsafe(no_mangle)]
static TCP_BYTES_RECEIVED: Field<TcpSock, u64> = Field::new();
#[unsafe(no_mangle)]
static TCP_SEGS_OUT: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_SEGS_IN: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_TOTAL_RETRANS: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_SRTT_US: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_MDEV_US: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_MSTAMP: Field<TcpSock, u64> = Field::new();
#[unsafe(no_mangle)]
static TCP_RCV_TSVAL: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_RCV_TSECR: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_SND_WSCALE: Field<TcpSock, u8> = Field::new();
#[unsafe(no_mangle)]
static TCP_RACK_RTT_US: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_WRITE_SEQ: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_SND_UNA: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_LSNDTIME: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_RCV_TSTAMP: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static ICSK_LRCVTIME: Field<TcpSock, u32> = Field::new();
#[unsafe(no_mangle)]
static TCP_IS_MPTCP: Field<TcpSock, u8> = Field::new();
#[unsafe(no_mangle)]
static ICSK_CA_STATE: Field<TcpSock, u8> = Field::new();
#[unsafe(no_mangle)]
static ICSK_PENDING: Field<TcpSock, u8> = Field::new();
#[unsafe(no_mangle)]
static ICSK_ULP_DATA: Field<TcpSock, *const Subflow> = Field::new();
#[unsafe(no_mangle)]
static SUBFLOW_CONN: Field<Subflow, u64> = Field::new();
#[unsafe(no_mangle)]
static MPTCP_FIRST: Field<MptcpSock, u64> = Field::new();
#[unsafe(no_mangle)]
static REQUEST_SNT_SYNACK: Field<RequestSock, u64> = Field::new();

/// Why the kernel sends a segment again.
pub enum RetransmitReason {
    Fast,
    Rto,
    LossProbe,
    Other,
}

impl TcpSock {
    /// The TCP view of a socket, `None` for any other kind and for request and `TIME_WAIT` sockets.
    #[inline(always)]
    pub fn of(sk: *const Sock) -> Option<*mut Self> {
        // SAFETY: the verifier checks that `sk` is a socket; the helper checks the rest.
        let tcp: *mut Self = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) }.cast();
        if tcp.is_null() { None } else { Some(tcp) }
    }

    #[inline(always)]
    pub fn counters(tcp: *const Self) -> TcpCounters {
        TcpCounters {
            bytes_sent: TCP_BYTES_SENT.read(tcp),
            bytes_retransmitted: TCP_BYTES_RETRANS.read(tcp),
            bytes_received: TCP_BYTES_RECEIVED.read(tcp),
            segments_sent: TCP_SEGS_OUT.read(tcp),
            segments_received: TCP_SEGS_IN.read(tcp),
        }
    }

    /// A segment, the SYN that is, has left.
    #[inline(always)]
    pub fn has_sent(tcp: *const Self) -> bool {
        TCP_SEGS_OUT.read(tcp) != 0
    }

    /// A segment of the peer's has come: a RST, if the connect has failed. ICMP is no segment.
    #[inline(always)]
    pub fn has_received(tcp: *const Self) -> bool {
        TCP_SEGS_IN.read(tcp) != 0
    }

    /// Ticks of the kernel's clock since this side last sent payload; 0 when the kernel does not say.
    #[inline(always)]
    pub fn ticks_since_sent(tcp: *const Self) -> u32 {
        Self::ticks_since(&TCP_LSNDTIME, tcp)
    }

    /// The same since payload last came.
    #[inline(always)]
    pub fn ticks_since_received(tcp: *const Self) -> u32 {
        Self::ticks_since(&ICSK_LRCVTIME, tcp)
    }

    /// The same since the peer last acknowledged anything.
    #[inline(always)]
    pub fn ticks_since_acknowledged(tcp: *const Self) -> u32 {
        Self::ticks_since(&TCP_RCV_TSTAMP, tcp)
    }

    /// The client pauses: all that it wrote has arrived, and that was some ticks ago. Of a server's client its payload tells, in
    /// which the path makes gaps of its own.
    #[inline(always)]
    pub fn client_pauses(tcp: *const Self, is_client: bool) -> bool {
        if is_client {
            TCP_WRITE_SEQ.read(tcp) == TCP_SND_UNA.read(tcp) && Self::ticks_since_sent(tcp) >= PAUSE_TICKS
        } else {
            Self::ticks_since_received(tcp) >= PAUSE_TICKS_AT_SERVER
        }
    }

    /// The kernel notes the lower half of `jiffies`; 0 where it has noted nothing yet.
    #[inline(always)]
    fn ticks_since(field: &Field<Self, u32>, tcp: *const Self) -> u32 {
        if !field.is_present() {
            return 0;
        }
        let then = field.read(tcp);
        if then == 0 {
            return 0;
        }
        // SAFETY: no preconditions.
        let now = unsafe { bpf_jiffies64() } as u32;
        now.wrapping_sub(then)
    }

    /// Segments sent again over the connection's life.
    #[inline(always)]
    pub fn total_retransmits(tcp: *const Self) -> u32 {
        TCP_TOTAL_RETRANS.read(tcp)
    }

    /// Smoothed RTT of RFC 6298 in microseconds (`srtt_us` holds eight times that); 0 before the first sample.
    #[inline(always)]
    pub fn srtt_us(tcp: *const Self) -> u32 {
        TCP_SRTT_US.read(tcp) >> 3
    }

    /// From SYN-ACK to ACK, microseconds: the first sample of the smoothed RTT of a child that is being established; 0 where the
    /// kernel has not measured it.
    ///
    /// For a SYN cookie and for MPTCP's joined subflows the kernel has no request that knows when its SYN-ACK left, so
    /// `tcp_ack_update_rtt` takes the timestamp that comes back: whole milliseconds, and in that of a cookie the low bits are
    /// options (`cookie_init_timestamp`), so that it is up to 64 ms too long. Such a sample is refused, and with it one in a
    /// thousand of MPTCP's own that were measured, of others one in 8 000.
    #[inline(always)]
    pub fn handshake_us(tcp: *const Self) -> u32 {
        let sample_us = Self::srtt_us(tcp);
        if sample_us % TIMESTAMP_US != 0 {
            return sample_us;
        }
        let options = TCP_RCV_TSECR.read(tcp) & COOKIE_WSCALE;
        // The member shares its byte with the other side's.
        let scale = u32::from(TCP_SND_WSCALE.read(tcp)) & COOKIE_WSCALE;
        let may_be_cookie = options == scale || options == COOKIE_WSCALE;
        if may_be_cookie || Self::is_mptcp(tcp) {
            0
        } else {
            sample_us
        }
    }

    /// RTTVAR of RFC 6298 in microseconds (`mdev_us` holds four times that; `rttvar_us` has the floor of the smallest
    /// RTO and shows no jitter below 200 ms); 0 before the first sample.
    #[inline(always)]
    pub fn rttvar_us(tcp: *const Self) -> u32 {
        TCP_MDEV_US.read(tcp) >> 2
    }

    /// When a segment was last received or sent, microseconds of the monotonic clock: the kernel reads it once per packet,
    /// before it looks at the acknowledgement.
    #[inline(always)]
    pub fn received_us(tcp: *const Self) -> u64 {
        TCP_MSTAMP.read(tcp)
    }

    /// The peer's clock in the segment received last (RFC 7323 `TSval`); 0 when it has sent none.
    #[inline(always)]
    pub fn peer_clock(tcp: *const Self) -> u32 {
        TCP_RCV_TSVAL.read(tcp)
    }

    /// Raw RTT of the segment delivered last (RACK, RFC 8985); 0 before the first sample or when the kernel has none.
    ///
    /// In 6.1 (and 6.6, read there) `tcp_clean_rtx_queue` calls `tcp_rack_advance` for each segment that an ACK delivers,
    /// which stores `tcp_mstamp` less the time it was sent, and only then takes the sample of the smoothed RTT from the
    /// oldest of them: so what stands here at `RTT_CB` is this ACK's own sample, of the newest segment that it delivers.
    /// Segments that were sent twice give none (`TCPCB_RETRANS` below the smallest RTT), as Karn's rule wants it.
    #[inline(always)]
    pub fn last_rtt_us(tcp: *const Self) -> u32 {
        if TCP_RACK_RTT_US.is_present() {
            TCP_RACK_RTT_US.read(tcp)
        } else {
            0
        }
    }

    #[inline(always)]
    pub fn is_mptcp(tcp: *const Self) -> bool {
        TCP_IS_MPTCP.is_present() && TCP_IS_MPTCP.read(tcp) & 1 != 0
    }

    /// Address of the MPTCP socket that a subflow belongs to: names it, is never followed.
    #[inline(always)]
    pub fn mptcp_parent(tcp: *const Self) -> Option<u64> {
        if !ICSK_ULP_DATA.is_present() || !SUBFLOW_CONN.is_present() {
            return None;
        }
        SUBFLOW_CONN.probe_read(ICSK_ULP_DATA.read(tcp))
    }

    /// Whether a subflow was added to an MPTCP connection that had another first.
    #[inline(always)]
    pub fn is_joined(tcp: *const Self, parent: u64) -> bool {
        let parent: *const MptcpSock = core::ptr::without_provenance(parent as usize);
        let first = if MPTCP_FIRST.is_present() {
            MPTCP_FIRST.probe_read(parent).unwrap_or(0)
        } else {
            0
        };
        first != 0 && first != tcp as u64
    }

    /// Read while the segment is sent: the congestion state, or the timer that is being served, tells why.
    #[inline(always)]
    pub fn retransmit_reason(tcp: *const Self) -> RetransmitReason {
        match ICSK_CA_STATE.read(tcp) & CA_STATE_MASK {
            CA_LOSS => RetransmitReason::Rto,
            CA_RECOVERY => RetransmitReason::Fast,
            _ if ICSK_PENDING.read(tcp) == TIMER_LOSS_PROBE => RetransmitReason::LossProbe,
            _ => RetransmitReason::Other,
        }
    }
}

impl RequestSock {
    /// When the first SYN-ACK was sent, in ns of the monotonic clock; 0 when the kernel does not know.
    #[inline(always)]
    pub fn first_synack_ns(request: *const Self) -> u64 {
        REQUEST_SNT_SYNACK.probe_read(request).unwrap_or(0) * 1000
    }
}
