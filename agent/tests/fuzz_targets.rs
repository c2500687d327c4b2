//! Every fuzz target with bytes that nobody chose: a moment of what `cargo xtask fuzz` does with a fuzzer, in every test
//! run and with its compiler.

#![expect(
    unused_attributes,
    reason = "each target is a program of its own for the fuzzer, without a main function"
)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

// The targets say `use libfuzzer_sys::fuzz_target`: here that is the macro at the end.
extern crate self as libfuzzer_sys;

#[path = "../fuzz/fuzz_targets/assembler.rs"]
mod assembler;
#[path = "../fuzz/fuzz_targets/decode.rs"]
mod decode;
#[path = "../fuzz/fuzz_targets/diag.rs"]
mod diag;
#[path = "../fuzz/fuzz_targets/dns.rs"]
mod dns;
#[path = "../fuzz/fuzz_targets/elf.rs"]
mod elf;
#[path = "../fuzz/fuzz_targets/environ.rs"]
mod environ;
#[path = "../fuzz/fuzz_targets/http1.rs"]
mod http1;
#[path = "../fuzz/fuzz_targets/icmp.rs"]
mod icmp;
#[path = "../fuzz/fuzz_targets/pipeline.rs"]
mod pipeline;
#[path = "../fuzz/fuzz_targets/recording.rs"]
mod recording;
#[path = "../fuzz/fuzz_targets/tls.rs"]
mod tls;

/// Inputs for each target.
const INPUTS: u32 = 100;
const LONGEST: usize = 1_000;

macro_rules! targets {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                take($name::run);
            }
        )*
    };
}

targets!(assembler decode diag dns elf environ http1 icmp pipeline recording tls);

#[test]
fn none_is_missing() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets")).expect("the targets");
    let files: BTreeSet<String> = files
        .map(|file| file.expect("a target").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, NAMES.iter().map(|name| format!("{name}.rs")).collect());
}

/// Bytes of all values, and more of those that are lengths, flags and ends.
fn take(target: fn(&[u8])) {
    let byte = prop_oneof![2 => any::<u8>(), 1 => 0..=16_u8, 1 => Just(0), 1 => Just(0xff)];
    let bytes = prop::collection::vec(byte, 0..LONGEST);
    let config = Config {
        cases: INPUTS,
        failure_persistence: None,
        ..Config::default()
    };
    let taken = TestRunner::new(config).run(&bytes, |bytes| {
        target(&bytes);
        Ok(())
    });
    taken.unwrap_or_else(|error| panic!("{error}"));
}

/// Of a target only its function. Behind the targets, which would have it without their `use` otherwise.
macro_rules! fuzz_target {
    (|$bytes:ident: &[u8]| $body:block) => {
        pub(crate) fn run($bytes: &[u8]) $body
    };
}
pub(crate) use fuzz_target;
