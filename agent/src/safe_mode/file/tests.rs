//! What is read back, what is passed over, and who may write.
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::safe_mode::Reason;

fn at(boot: u32, uptime_s: u64) -> Moment {
    Moment {
        boot_id: format!("boot {boot}"),
        uptime_s,
        hopline: "1.0".to_owned(),
        kernel: "6.12 \"#1\"".to_owned(),
        unix_s: 1_800_000_000,
    }
}

/// A start that is never ended, as a process that dies drops its descriptors.
fn die(directory: &Path, now: &Moment) -> Judgement {
    let (judgement, file, errors) = StateFile::start(directory, now);
    assert!(file.is_some() && errors.is_empty(), "{errors:?}");
    judgement
}

fn reason(judgement: &Judgement) -> Option<Reason> {
    judgement.safe_mode.as_ref().map(|mode| mode.reason)
}

#[test]
fn starts_and_ends_are_read_back() {
    let parent = tempfile::tempdir().expect("a directory");
    let directory = parent.path().join("a/b");
    assert!(matches!(look(&directory, &at(1, 1)), Ok(None)));
    assert_eq!(reason(&die(&directory, &at(1, 5))), None);
    assert_eq!(reason(&die(&directory, &at(2, 5))), None);
    assert!(matches!(look(&directory, &at(2, 6)), Ok(None)));
    // Whoever looks before the agent of this boot has started sees what it will see.
    let seen = look(&directory, &at(3, 4)).expect("readable").expect("safe mode");
    assert_eq!(seen.reason, Reason::UncleanBoots(2));

    let (judgement, file, errors) = StateFile::start(&directory, &at(3, 5));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(reason(&judgement), Some(Reason::UncleanBoots(2)));
    file.expect("noted").end(u64::MAX).expect("written");
    let record = read(&directory).expect("readable").expect("there");
    assert!(record.clean);
    assert_eq!(record.ended_s, u64::MAX);
    assert_eq!(record.history, judgement.history);

    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
    let files = fs::read_dir(&directory).expect("readable").count();
    assert_eq!(files, 1, "nothing is left beside it");
}

#[test]
fn a_request_to_leave_is_heard_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    for boot in 1..=2 {
        die(directory, &at(boot, 5));
    }
    assert_eq!(reason(&die(directory, &at(3, 5))), Some(Reason::UncleanBoots(2)));
    ask_to_leave(directory).expect("writable");
    assert!(matches!(look(directory, &at(3, 6)), Ok(None)));
    let judgement = die(directory, &at(3, 7));
    assert_eq!(judgement.left, Some("hopline doctor --leave-safe-mode"));
    assert_eq!(reason(&judgement), None);
    assert!(!directory.join(LEAVE).exists());
}

#[test]
fn what_is_no_history_is_passed_over() {
    let check = |text: &str, part: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        fs::write(directory.join(FILE), text).expect("writable");
        let error = look(directory, &at(1, 1)).expect_err(text).to_string();
        assert!(error.contains(part), "{error}");
        let (judgement, file, errors) = StateFile::start(directory, &at(1, 5));
        assert_eq!(reason(&judgement), None);
        assert!(file.is_some());
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        // From then on it is one.
        assert!(read(directory).expect("readable").is_some());
    };
    check("", "EOF");
    check("garbage", "expected value");
    check("{\"version\": 1}", "missing field");
    check(&"x".repeat(1 << 17), "expected value");
    let history = judge(None, false, &at(1, 1)).history;
    let good = text(&history);
    assert!(parse(&good).is_ok());
    check(&good.replace("\"version\": 1", "\"version\": 2"), "version 2");
    for length in [1, 20, 60, good.len() / 2, good.len() - 3] {
        check(&good[..length], "");
    }
}

#[test]
fn places_that_cannot_be_written_cost_a_warning() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("writable");
    for place in [file.as_path(), Path::new("/proc/1/hopline"), Path::new("/dev/null/x")] {
        let (judgement, noted, errors) = StateFile::start(place, &at(1, 5));
        assert_eq!((reason(&judgement), noted.is_none(), errors.len()), (None, true, 1));
    }
    // A directory in the place of the file.
    fs::create_dir(directory.path().join(FILE)).expect("writable");
    let (judgement, noted, errors) = StateFile::start(directory.path(), &at(1, 5));
    assert_eq!((reason(&judgement), noted.is_none()), (None, true));
    assert_eq!(errors.len(), 2, "{errors:?}");
}

#[test]
fn a_second_agent_goes_without() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    for boot in 1..=2 {
        die(directory, &at(boot, 5));
    }
    let (_, first, _) = StateFile::start(directory, &at(3, 5));
    let (judgement, second, errors) = StateFile::start(directory, &at(3, 6));
    assert!(first.is_some() && second.is_none());
    assert!(matches!(errors[..], [StateError::Taken { .. }]), "{errors:?}");
    // It loads what the first one does.
    assert_eq!(reason(&judgement), Some(Reason::UncleanBoots(2)));
}
