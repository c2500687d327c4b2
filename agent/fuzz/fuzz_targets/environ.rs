//! Any bytes are an environment: nothing that is not allowed comes out of it, and nothing long.
#![no_main]

use hopline::attribution::allowed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let names = ["A".into(), "CI_JOB_ID".into()];
    let found = allowed(bytes, &names);
    assert!(found.len() <= names.len());
    for (name, value) in found.iter() {
        assert!(names.contains(name) && value.len() <= 256);
    }
});
