//! Kernel structs as the programs see them. The only place that reads them, and the only one that spells their names.
//!
//! Offsets come from the running kernel's BTF (`agent_ebpf::fields`), so one object serves every kernel.

mod bounded;
mod cgroup;
mod field;
mod file;
mod iter;
pub mod private_stack;
pub mod registers;
mod sk_buff;
mod sock;
mod task;
mod tcp_sock;

pub use bounded::{from_one_to, index};
pub use cgroup::Cgroup;
pub use field::Field;
pub use file::socket_cookie;
pub use iter::{FileWalk, StorageWalk};
pub use sk_buff::SkBuff;
pub use sock::{Net, Sock, Socket};
pub use task::{Binprm, Task};
pub use tcp_sock::{RequestSock, RetransmitReason, TcpSock};
