//! A client's connect: the intent with its owner, the `syn` mark, and what fails before a SYN leaves; and who sends
//! datagrams of DNS.

use agent_ebpf::{
    connection::{ConnectionState, FLAG_MPTCP, ROLE_CLIENT},
    event::{CONNECTION_CLOSE, ConnectionEvent},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, bpf_sock_addr},
    helpers::generated::bpf_get_socket_cookie,
    macros::{cgroup_sock_addr, fentry, fexit, kprobe, tracepoint},
    programs::{FEntryContext, FExitContext, ProbeContext, SockAddrContext, TracePointContext},
};

use crate::{
    datagram, intent,
    kernel::{Sock, Socket, TcpSock, private_stack},
    maps::CONNECT_STARTED,
    owner, settings, socket,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const EINPROGRESS: i64 = 115;
/// Offset of `ret` in `sys_exit_connect`'s record: a fixed ABI (8 common bytes, then the call's number padded to 8).
const SYS_EXIT_RET: usize = 16;

/// What a cgroup/connect program returns to let the connect go on: hopline never decides.
const ALLOW: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    intend(&ctx, AF_INET, |address, asked| {
        // SAFETY: the context is valid for the program's run.
        asked[..4].copy_from_slice(&unsafe { (*address).user_ip4 }.to_ne_bytes());
    });
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    intend(&ctx, AF_INET6, |address, asked| {
        // One word at a time: the verifier allows no other access to this member.
        // SAFETY: the context is valid for the program's run.
        unsafe {
            asked[..4].copy_from_slice(&(*address).user_ip6[0].to_ne_bytes());
            asked[4..8].copy_from_slice(&(*address).user_ip6[1].to_ne_bytes());
            asked[8..12].copy_from_slice(&(*address).user_ip6[2].to_ne_bytes());
            asked[12..].copy_from_slice(&(*address).user_ip6[3].to_ne_bytes());
        }
    });
    ALLOW
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram::own(ctx.sock_addr.cast_const());
    ALLOW
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram::own(ctx.sock_addr.cast_const());
    ALLOW
}

/// Process context: the one place where the owner of a client is taken.
#[inline(always)]
fn intend(ctx: &SockAddrContext, family: u16, asked: impl FnOnce(*const bpf_sock_addr, &mut [u8; 16])) {
    let address = ctx.sock_addr.cast_const();
    // SAFETY: the context is valid for the program's run.
    let (protocol, port, sk) = unsafe {
        (
            (*address).protocol,
            (*address).user_port,
            (*address).__bindgen_anon_1.sk.cast::<Sock>(),
        )
    };
    if protocol == IPPROTO_UDP {
        datagram::own(address);
        return;
    }
    if protocol != IPPROTO_TCP || sk.is_null() || !settings::takes_connects() {
        return;
    }
    let Some(event) = socket::find_or_create(sk) else {
        return;
    };
    let state = &mut event.state;
    // SAFETY: the helper takes this context.
    socket::restart(state, unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }, ROLE_CLIENT);
    state.intent_ns = socket::now();
    state.family = family;
    asked(address, &mut state.asked_address);
    state.remote_address = state.asked_address;
    // The port sits in the first two bytes of the word, in network byte order.
    state.asked_port = [port.to_ne_bytes()[0], port.to_ne_bytes()[1]];
    state.remote_port = state.asked_port;
    if let Some(tcp) = TcpSock::of(sk) {
        state.netns = Sock::netns(tcp.cast());
        state.netns_cookie = Sock::netns_cookie(tcp.cast());
        state.cgroup_id = Sock::cgroup_id(tcp.cast());
        owner::take(state, tcp);
        if TcpSock::is_mptcp(tcp) {
            state.flags |= FLAG_MPTCP;
        }
    }
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "process {} connects, attempt {}", state.pid, state.attempt);
    intent::remember(event);
}

#[fentry(function = "tcp_connect")]
pub fn tcp_connect_fentry(ctx: FEntryContext) -> i32 {
    mark_syn(ctx.arg(0));
    0
}

#[inline(always)]
fn mark_syn(sk: *const Sock) {
    if let Some(event) = socket::find(sk) {
        event.state.syn_ns = socket::now();
    }
}

#[kprobe(function = "tcp_connect")]
pub fn tcp_connect_kprobe(ctx: ProbeContext) -> u32 {
    // A kprobe's pointer has no type, so it cannot reach the storage: sock_ops, which follows at once, picks the time up.
    if let Some(sk) = ctx.arg::<u64>(0) {
        let _lost_mark_is_set_by_sock_ops = CONNECT_STARTED.insert(sk, socket::now(), u64::from(BPF_ANY));
    }
    0
}

/// The connect system call's worker returned: had it failed without a SYN, nothing else would tell.
#[fexit(function = "inet_stream_connect")]
pub fn inet_stream_connect_fexit(ctx: FExitContext) -> i32 {
    const RETURN_VALUE: usize = 4;
    let result = i64::from(ctx.arg::<i32>(RETURN_VALUE));
    if result < 0 && result != -EINPROGRESS {
        let sk = Socket::sk(ctx.arg(0));
        if sk.is_null() {
            return 0;
        }
        match socket::find(sk.cast_const()) {
            Some(event) if is_unsent(&event.state) => {
                fail(event, result);
                intent::forget(&event.state);
            }
            Some(_) => {}
            // MPTCP from 6.6 on: the socket is the parent, the intent is its subflow's.
            None => intent::take(|event| fail(event, result)),
        }
    }
    0
}

/// The same without fexit: by thread, as the system call has no pointer to the socket.
#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
pub fn sys_exit_connect(ctx: TracePointContext) -> u32 {
    private_stack::turn_off();
    // SAFETY: within the record of this tracepoint.
    let Ok(result) = (unsafe { ctx.read_at::<i64>(SYS_EXIT_RET) }) else {
        return 0;
    };
    if result >= 0 || result == -EINPROGRESS {
        return 0;
    }
    intent::take(|event| fail(event, result));
    0
}

/// Intended, but neither sent nor ended.
#[inline(always)]
fn is_unsent(state: &ConnectionState) -> bool {
    state.role == ROLE_CLIENT && state.intent_ns != 0 && state.syn_ns == 0 && state.closed_ns == 0
}

#[inline(always)]
fn fail(event: &mut ConnectionEvent, result: i64) {
    event.state.error = (-result) as u16;
    event.state.closed_ns = socket::now();
    event.state.tcp_state = agent_ebpf::connection::tcp_state::CLOSE;
    socket::send(event, CONNECTION_CLOSE);
}
