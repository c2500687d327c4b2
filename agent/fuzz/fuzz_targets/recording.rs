//! Any bytes are read to their end, frame by frame or as damage, the same whether they come at once or in pieces.
//!
//! A checksum keeps the fuzzer out of the bodies, so each input is read a second time as the body of a whole frame.
#![no_main]

use hopline::recording::{Frame, Reader, Step, step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let (mut frames, mut damaged) = (0, 0);
    while !rest.is_empty() {
        let used = match step(rest, true) {
            Step::Frame(_, used) => {
                assert_eq!(step(&rest[..used], false), step(rest, true));
                frames += 1;
                used
            }
            Step::Damage(used) => {
                damaged += used as u64;
                used
            }
            Step::Incomplete => panic!("nothing more can come"),
        };
        assert!((1..=rest.len()).contains(&used));
        rest = &rest[used..];
    }
    let mut reader = Reader::new(bytes);
    while reader.next_frame().expect("memory has no I/O errors").is_some() {
        frames -= 1;
    }
    assert_eq!((frames, reader.damage().bytes), (0, damaged));

    if let Some((kind, body)) = bytes.split_first() {
        whole_frame(u32::from(*kind % 6), &body[..body.len().min(1 << 16)]);
    }
});

/// A frame with a right checksum is read back as what it is, or is damage as a whole.
fn whole_frame(kind: u32, body: &[u8]) {
    let words = [kind.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&words);
    hasher.update(body);
    let bytes = [b"hop\xa7", words.as_slice(), &hasher.finalize().to_le_bytes(), body].concat();
    assert_eq!(step(&bytes[..bytes.len() - 1], false), Step::Incomplete);
    match (kind, step(&bytes, false)) {
        (1, Step::Frame(Frame::Header(_), used)) => assert_eq!(used, bytes.len()),
        (2, found) => assert_eq!(found, Step::Frame(Frame::Sample(body), bytes.len())),
        (3, Step::Frame(Frame::Tick(now_ns), used)) => {
            assert_eq!((&now_ns.to_le_bytes()[..], used), (body, bytes.len()));
        }
        (4, Step::Frame(Frame::ClockOffset(ns), used)) => {
            assert_eq!((&ns.to_le_bytes()[..], used), (body, bytes.len()));
        }
        (3 | 4, found) => assert!(body.len() != 8 && matches!(found, Step::Damage(_))),
        (_, found) => assert!(matches!(found, Step::Damage(_))),
    }
}
