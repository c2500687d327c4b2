//! One file per family of hooks; each program's name is the hook's.

mod connect;
mod existing;
mod process;
mod retransmit;
mod sock_ops;
mod state;
