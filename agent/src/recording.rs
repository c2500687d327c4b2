//! Recordings: the sequence of inputs of a pipeline as a file, so that `hopline replay` can repeat it exactly.
//!
//! A file is a row of frames, each with a magic number, its length and a checksum of its own: a cut or a flipped byte
//! costs the frame it hits and no other. The first frame is the [`Header`]. The agent's owner task writes; [`step`]
//! is the pure reader of bytes that are not to be trusted; neither knows what an event means.
mod frame;
mod read;
mod write;

pub use frame::{Frame, Header, Step, VERSION, step};
pub use read::{Damage, Reader};
pub use write::{Recorder, RecordingError};

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::{frame::MAGIC, *};
    use crate::config::RecordConfig;

    fn header() -> Header {
        Header {
            version: VERSION,
            node: "n".into(),
            ..Header::default()
        }
    }

    /// Writes `count` samples (each its number, 100 bytes) and gives the bytes of the file.
    fn recorded(directory: &Path, count: u32, settings: &RecordConfig) -> Vec<u8> {
        let path = directory.join("r");
        let mut recorder = Recorder::create(&path, settings, header()).expect("create");
        for number in 0..count {
            recorder.sample(&[number.to_le_bytes(); 25].concat());
        }
        recorder.tick(7);
        recorder.clock_offset(-3);
        recorder.flush();
        assert_eq!(recorder.dropped(), 0);
        fs::read(path).expect("read back")
    }

    /// Sample numbers, other frames, damage.
    fn read(bytes: &[u8]) -> (Vec<u32>, usize, Damage) {
        let mut reader = Reader::new(bytes);
        let (mut samples, mut others) = (Vec::new(), 0);
        while let Some(frame) = reader.next_frame().expect("no I/O") {
            match frame {
                Frame::Sample(body) => samples.push(u32::from_le_bytes(body[..4].try_into().expect("four bytes"))),
                _ => others += 1,
            }
        }
        (samples, others, reader.damage().clone())
    }

    #[test]
    fn reads_back_what_was_written() {
        let directory = tempfile::tempdir().expect("tempdir");
        // More than the reader's window.
        let bytes = recorded(directory.path(), 5000, &RecordConfig::default());
        let (samples, others, damage) = read(&bytes);
        assert_eq!(samples, (0..5000).collect::<Vec<_>>());
        assert_eq!(others, 3);
        assert_eq!(damage, Damage::default());
        let mode = fs::metadata(directory.path().join("r"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damage_costs_the_frame_it_hits() {
        let directory = tempfile::tempdir().expect("tempdir");
        let bytes = recorded(directory.path(), 200, &RecordConfig::default());
        let frames = 203;
        for at in (0..bytes.len()).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x55;
            let (samples, others, damage) = read(&flipped);
            assert_eq!(samples.len() + others, frames - 1, "flipped at {at}");
            assert_eq!((damage.places, damage.first.len()), (1, 1), "flipped at {at}");
            assert!(damage.first[0].contains(&(at as u64)), "flipped at {at}: {damage:?}");

            let (samples, others, damage) = read(&bytes[..at]);
            assert!(samples.iter().copied().eq(0..samples.len() as u32), "cut at {at}");
            assert!(damage.places <= 1 && samples.len() + others < frames, "cut at {at}");

            let mut holed = bytes.clone();
            holed.drain(at..(at + 50).min(bytes.len()));
            let (samples, others, damage) = read(&holed);
            assert!(samples.len() + others >= frames - 3, "hole at {at}");
            assert!(damage.places <= 1, "hole at {at}: {damage:?}");
        }
    }

    #[test]
    fn many_damaged_places_are_counted_and_few_are_listed() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut bytes = recorded(directory.path(), 100, &RecordConfig::default());
        let (start, frame) = (bytes.len() - 2 * 24 - 100 * 116, 116);
        for number in (0..100).step_by(2) {
            bytes[start + number * frame + 50] ^= 1;
        }
        let (samples, _, damage) = read(&bytes);
        assert_eq!(samples, (0..100).filter(|number| number % 2 == 1).collect::<Vec<_>>());
        assert_eq!((damage.places, damage.bytes, damage.first.len()), (50, 50 * 116, 20));
    }

    #[test]
    fn any_bytes_are_read_to_the_end() {
        let mut state = 1_u32;
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Many starts of magic numbers.
                    MAGIC
                        .get((state >> 24) as usize % 5)
                        .copied()
                        .unwrap_or((state >> 16) as u8)
                })
                .collect();
            let (samples, others, damage) = read(&bytes);
            assert_eq!((samples.len(), others, damage.bytes), (0, 0, length));
        }
    }

    #[test]
    fn full_files_move_aside_up_to_the_bound() {
        let directory = tempfile::tempdir().expect("tempdir");
        let settings = RecordConfig {
            rotate_bytes: 5000,
            keep: 3,
            ..RecordConfig::default()
        };
        recorded(directory.path(), 500, &settings);
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .expect("read_dir")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("utf-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["r", "r.1", "r.2"]);
        let mut samples = Vec::new();
        for name in ["r.2", "r.1", "r"] {
            let bytes = fs::read(directory.path().join(name)).expect("read");
            let (found, _, damage) = read(&bytes);
            assert_eq!(damage.places, 0);
            assert!(
                matches!(step(&bytes, true), Step::Frame(Frame::Header(_), _)),
                "{name} starts with a header"
            );
            samples.extend(found);
        }
        assert_eq!(samples.last(), Some(&499));
        assert!(
            samples.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "nothing is lost between files"
        );
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("notes");
        fs::write(&path, "dear diary").expect("write");
        let refused = Recorder::create(&path, &RecordConfig::default(), header());
        assert!(matches!(refused, Err(RecordingError::Foreign(_))));
        assert!(matches!(
            Recorder::create(directory.path(), &RecordConfig::default(), header()),
            Err(RecordingError::Foreign(_))
        ));
        let missing = Recorder::create(&directory.path().join("no/dir"), &RecordConfig::default(), header());
        assert!(matches!(missing, Err(RecordingError::Io { .. })));
        assert_eq!(fs::read(&path).expect("read"), b"dear diary");
    }
}
