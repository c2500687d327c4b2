//! The kernel object: programs on the hooks of a TCP connection's life and of processes.
//!
//! Each program file serves one family of hooks and is loaded program by program: one that the kernel refuses lowers
//! its feature only. State lives in the socket's storage (`socket.rs`), leaves through `output.rs`.
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "the verifier loses pointer types at calls, and all calls share 512 bytes of stack"
)]
#![expect(clippy::cast_possible_wrap, reason = "helpers take and give C's signs")]
#![expect(
    internal_features,
    reason = "core has no stable atomic add for BPF, whose atomics lack compare-and-swap"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod chunks;
mod datagram;
mod dns_stream;
mod early;
mod hellos;
mod http1;
mod http2;
mod http2_clear;
mod inside;
mod intent;
mod kernel;
mod maps;
mod output;
mod owner;
mod phases;
mod programs;
mod proxy_header;
mod records;
mod samples;
mod segment;
mod settings;
mod socket;
mod tls;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
