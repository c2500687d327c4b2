//! Any bytes of the kernel's list of sockets are read to an end, and what was read adds up.
#![no_main]

use hopline::sockets::{
    Adding, PortRange,
    diag::{Message, messages},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut adding = Adding::new(
        1,
        PortRange::read("1024 65535", "2000-3000"),
        &String::from_utf8_lossy(bytes),
    );
    let mut sockets = 0;
    for message in messages(bytes) {
        if let Message::Socket(socket) = message {
            sockets += 1;
            adding.add(&socket);
        }
    }
    let sweep = adding.finish();
    assert_eq!(sweep.sockets, sockets);
    assert!(sweep.listeners.len() + sweep.lingering.len() <= sockets as usize);
    assert!(sweep.peers.iter().all(|peer| peer.used <= sweep.usable_ports));
});
