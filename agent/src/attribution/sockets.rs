//! Who holds a socket that was there before hopline: found by its inode in `/proc/PID/fd`.
use std::collections::HashMap;

use super::procfs::Procfs;

/// All of `/proc` is walked at most this often.
const SCAN_EVERY_NS: u64 = 1_000_000_000;
/// A walk's result is dropped after this long: late sockets are found in the first seconds.
const KEEP_NS: u64 = 60_000_000_000;

/// Holders of all sockets at the last walk.
#[derive(Debug, Default)]
pub(super) struct SocketOwners {
    holders: HashMap<u64, u32>,
    scanned_ns: Option<u64>,
}

impl SocketOwners {
    /// The process that holds the socket; of several that share it the one with the smallest id, mostly their parent.
    pub(super) fn holder(&mut self, inode: u32, now_ns: u64, procfs: &Procfs) -> Option<u32> {
        if inode == 0 {
            return None;
        }
        let inode = u64::from(inode);
        if !self.holders.contains_key(&inode)
            && self
                .scanned_ns
                .is_none_or(|scanned_ns| now_ns.saturating_sub(scanned_ns) >= SCAN_EVERY_NS)
        {
            self.holders = procfs.socket_holders();
            self.scanned_ns = Some(now_ns);
        }
        self.holders.get(&inode).copied()
    }

    /// The same, as it was at that time or later.
    pub(super) fn holder_since(&mut self, inode: u32, since_ns: u64, now_ns: u64, procfs: &Procfs) -> Option<u32> {
        if self
            .scanned_ns
            .is_some_and(|scanned_ns| scanned_ns < since_ns && now_ns.saturating_sub(scanned_ns) >= SCAN_EVERY_NS)
        {
            *self = Self::default();
        }
        self.holder(inode, now_ns, procfs)
    }

    /// Forgets an old walk.
    pub(super) fn expire(&mut self, now_ns: u64) {
        if self
            .scanned_ns
            .is_some_and(|scanned_ns| now_ns.saturating_sub(scanned_ns) >= KEEP_NS)
        {
            *self = Self::default();
        }
    }
}
