//! Any bytes of a program are looked at to an end, and every place to probe is within them. Headers are put right half of
//! the time, so that what is behind them is reached; the tables of Go are reached by a section of the right name.
#![no_main]

use hopline::elf::tls_code;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 64 && bytes[0] & 1 == 0 {
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&[62, 0]);
        bytes[54..56].copy_from_slice(&[56, 0]);
        bytes[58..60].copy_from_slice(&[64, 0]);
    }
    if let Ok(Some(code)) = tls_code(&&bytes[..]) {
        assert!(code.probes.len() <= 128);
        for place in &code.probes {
            assert!(place.offset <= bytes.len() as u64);
        }
    }
});
