//! Any bytes are an event or a named error.
#![no_main]

use hopline::decode::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(event) = decode(bytes) {
        assert_eq!(event.header().size as usize, bytes.len());
    }
});
