//! Kernel struct members that the programs read, by name; the agent looks their offsets up in the kernel's BTF.
//!
//! One row per global of `agent-ebpf/src/kernel/`. The agent sets each with `must_exist`, and the linker drops unused
//! globals, so a dead row fails the load.

/// Offset of an optional member that this kernel does not have: the programs skip what needs it.
pub const ABSENT: u32 = u32::MAX;

/// One member of one kernel struct.
#[derive(Clone, Copy, Debug)]
pub struct KernelField {
    /// Name of the `Global<u32>` that takes the offset.
    pub global: &'static str,
    /// Kernel struct.
    pub structure: &'static str,
    /// Path of members; anonymous structs and unions in between are not named.
    pub member: &'static str,
    /// Size in bytes that the programs read; must not exceed the member's.
    pub size: u32,
    /// Without it the agent does not start; an optional one only lowers its feature.
    pub required: bool,
}

const fn required(global: &'static str, structure: &'static str, member: &'static str, size: u32) -> KernelField {
    KernelField {
        global,
        structure,
        member,
        size,
        required: true,
    }
}

const fn optional(global: &'static str, structure: &'static str, member: &'static str, size: u32) -> KernelField {
    KernelField {
        global,
        structure,
        member,
        size,
        required: false,
    }
}

/// All members that the programs read.
pub const FIELDS: &[KernelField] = &[
    required("SKC_FAMILY", "sock_common", "skc_family", 2),
    required("SKC_DADDR", "sock_common", "skc_daddr", 4),
    required("SKC_RCV_SADDR", "sock_common", "skc_rcv_saddr", 4),
    required("SKC_V6_DADDR", "sock_common", "skc_v6_daddr", 16),
    required("SKC_V6_RCV_SADDR", "sock_common", "skc_v6_rcv_saddr", 16),
    required("SKC_DPORT", "sock_common", "skc_dport", 2),
    required("SKC_NUM", "sock_common", "skc_num", 2),
    required("SKC_STATE", "sock_common", "skc_state", 1),
    required("SKC_FLAGS", "sock_common", "skc_flags", 8),
    required("SKC_NET", "sock_common", "skc_net.net", 8),
    required("SK_PROTOCOL", "sock", "sk_protocol", 2),
    required("SK_ERR", "sock", "sk_err", 4),
    required("SK_ERR_SOFT", "sock", "sk_err_soft", 4),
    optional("SK_ERROR_QUEUE_LENGTH", "sock", "sk_error_queue.qlen", 4),
    optional("SK_ERROR_QUEUE_LAST", "sock", "sk_error_queue.prev", 8),
    required("SK_CGROUP", "sock", "sk_cgrp_data.cgroup", 8),
    required("SK_SOCKET", "sock", "sk_socket", 8),
    required("SOCKET_SK", "socket", "sk", 8),
    // `socket` is the first member of `socket_alloc`, so the offset holds for a pointer to either.
    required("SOCKET_INODE_NUMBER", "socket_alloc", "vfs_inode.i_ino", 8),
    required("NET_INUM", "net", "ns.inum", 4),
    optional("NET_COOKIE", "net", "net_cookie", 8),
    required("TCP_BYTES_SENT", "tcp_sock", "bytes_sent", 8),
    required("TCP_BYTES_RETRANS", "tcp_sock", "bytes_retrans", 8),
    required("TCP_BYTES_RECEIVED", "tcp_sock", "bytes_received", 8),
    required("TCP_SEGS_OUT", "tcp_sock", "segs_out", 4),
    required("TCP_SEGS_IN", "tcp_sock", "segs_in", 4),
    required("TCP_TOTAL_RETRANS", "tcp_sock", "total_retrans", 4),
    required("TCP_SRTT_US", "tcp_sock", "srtt_us", 4),
    required("TCP_MDEV_US", "tcp_sock", "mdev_us", 4),
    required("TCP_MSTAMP", "tcp_sock", "tcp_mstamp", 8),
    required("TCP_RCV_TSVAL", "tcp_sock", "rx_opt.rcv_tsval", 4),
    required("TCP_WRITE_SEQ", "tcp_sock", "write_seq", 4),
    required("TCP_SND_UNA", "tcp_sock", "snd_una", 4),
    required("TCP_RCV_TSECR", "tcp_sock", "rx_opt.rcv_tsecr", 4),
    required("TCP_SND_WSCALE", "tcp_sock", "rx_opt.snd_wscale", 1),
    optional("TCP_LSNDTIME", "tcp_sock", "lsndtime", 4),
    optional("TCP_RCV_TSTAMP", "tcp_sock", "rcv_tstamp", 4),
    optional("ICSK_LRCVTIME", "inet_connection_sock", "icsk_ack.lrcvtime", 4),
    optional("TCP_RACK_RTT_US", "tcp_sock", "rack.rtt_us", 4),
    optional("TCP_IS_MPTCP", "tcp_sock", "is_mptcp", 1),
    required("ICSK_CA_STATE", "inet_connection_sock", "icsk_ca_state", 1),
    required("ICSK_PENDING", "inet_connection_sock", "icsk_pending", 1),
    optional("ICSK_ULP_DATA", "inet_connection_sock", "icsk_ulp_data", 8),
    optional("SUBFLOW_CONN", "mptcp_subflow_context", "conn", 8),
    optional("MPTCP_FIRST", "mptcp_sock", "first", 8),
    required("SKB_CB", "sk_buff", "cb", 0),
    optional("EXTERR_ERRNO", "sock_exterr_skb", "ee.ee_errno", 4),
    optional("EXTERR_ORIGIN", "sock_exterr_skb", "ee.ee_origin", 1),
    optional("EXTERR_TYPE", "sock_exterr_skb", "ee.ee_type", 1),
    optional("EXTERR_CODE", "sock_exterr_skb", "ee.ee_code", 1),
    required("TCP_SKB_SEGMENTS", "tcp_skb_cb", "tcp_gso_segs", 2),
    required("REQUEST_SNT_SYNACK", "tcp_request_sock", "snt_synack", 8),
    required("CGROUP_KN", "cgroup", "kn", 8),
    required("CGROUP_LEVEL", "cgroup", "level", 4),
    required("CGROUP_ANCESTORS", "cgroup", "ancestors", 0),
    required("CGROUP_ROOT", "cgroup", "root", 8),
    required("CGROUP_ROOT_HIERARCHY", "cgroup_root", "hierarchy_id", 4),
    required("KERNFS_ID", "kernfs_node", "id", 8),
    required("TASK_PID", "task_struct", "pid", 4),
    required("TASK_TGID", "task_struct", "tgid", 4),
    required("TASK_FLAGS", "task_struct", "flags", 4),
    required("TASK_COMM", "task_struct", "comm", 16),
    required("TASK_GROUP_LEADER", "task_struct", "group_leader", 8),
    required("TASK_REAL_PARENT", "task_struct", "real_parent", 8),
    required("TASK_SIGNAL", "task_struct", "signal", 8),
    required("TASK_CGROUPS", "task_struct", "cgroups", 8),
    required("TASK_NSPROXY", "task_struct", "nsproxy", 8),
    required("NSPROXY_NET", "nsproxy", "net_ns", 8),
    optional("NSPROXY_MNT", "nsproxy", "mnt_ns", 8),
    optional("MNT_INUM", "mnt_namespace", "ns.inum", 4),
    required("CSS_SET_UNIFIED", "css_set", "dfl_cgrp", 8),
    required("SIGNAL_LIVE", "signal_struct", "live", 4),
    optional("TASK_FILES", "task_struct", "files", 8),
    optional("FILES_TABLE", "files_struct", "fdt", 8),
    optional("TABLE_FILES", "fdtable", "fd", 8),
    optional("TABLE_SIZE", "fdtable", "max_fds", 4),
    optional("FILE_PRIVATE", "file", "private_data", 8),
    optional("FILE_INODE", "file", "f_inode", 8),
    optional("INODE_MODE", "inode", "i_mode", 2),
    optional("SKC_COOKIE", "sock_common", "skc_cookie", 8),
    required("BINPRM_FILENAME", "linux_binprm", "filename", 8),
];
