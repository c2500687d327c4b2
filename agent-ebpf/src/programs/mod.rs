//! One file per family of hooks; each program's name is the hook's.

#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macros hand each program its context whole"
)]

mod connect;
mod existing;
mod open;
mod process;
mod release;
mod retransmit;
mod sock_ops;
mod state;
mod tls_probe;
mod tls_read;
mod wire;
