//! How much memory the agent may use, and what it makes of it: sizes of rings and tables, or a refusal to start.
//!
//! `limit` finds the limit of the agent's own cgroup, `plan` decides; called by `agent` at the start and by `doctor`. `sockets`
//! watches what the kernel keeps for the agent, for `kernel_side`.
mod limit;
mod plan;
mod sockets;

pub use limit::{MemoryLimit, own_limit};
pub use plan::{Plan, TooLittle};
pub use sockets::SocketRoom;

/// Bytes as people write them: whole MiB, below one KiB.
fn shown(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{} MiB", bytes / MIB)
    }
}
