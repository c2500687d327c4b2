//! Each rule of what is a fallback, and of what is none.
use super::*;

const SECOND: u64 = 1_000_000_000;
const STUCK_AFTER_NS: u64 = 5 * SECOND;

fn process(pid: u32) -> Arc<Process> {
    Arc::new(Process {
        pid,
        parent_pid: 1,
        comm: "go".into(),
        exe: None,
        ancestry: Arc::default(),
        environment: Arc::default(),
        mount_namespace: 0,
    })
}

/// A connection to a host of the group `go`, at seconds.
fn open(id: u64, host: &str, at: u64) -> Attempt {
    Attempt {
        id: (id, 1),
        opened_ns: at * SECOND,
        group: "go".into(),
        host: host.into(),
        naming: Naming::Named,
        progress: Progress::default(),
    }
}

fn refused(id: u64, host: &str, at: u64) -> Attempt {
    failed(id, host, (at, at), Reason::Transport(Outcome::Refused))
}

fn failed(id: u64, host: &str, (from, to): (u64, u64), reason: Reason) -> Attempt {
    let progress = Progress {
        waited_since_ns: Some(from * SECOND),
        failed: Some((to * SECOND, reason)),
        closed_ns: Some(to * SECOND),
        ..Progress::default()
    };
    Attempt {
        progress,
        ..open(id, host, from)
    }
}

/// Answered when it was opened, closed later.
fn served(id: u64, host: &str, (from, to): (u64, u64)) -> Attempt {
    let progress = Progress {
        answered_ns: Some(from * SECOND),
        closed_ns: Some(to * SECOND),
        ..Progress::default()
    };
    Attempt {
        progress,
        ..open(id, host, from)
    }
}

fn waiting(id: u64, host: &str, since: u64) -> Attempt {
    let progress = Progress {
        waited_since_ns: Some(since * SECOND),
        ..Progress::default()
    };
    Attempt {
        progress,
        ..open(id, host, since)
    }
}

fn named(naming: Naming, attempt: Attempt) -> Attempt {
    Attempt { naming, ..attempt }
}

/// What is found of one process whose connections are these, in whatever order they are told.
#[track_caller]
fn check(attempts: &[Attempt], expected: &[&str]) {
    let reversed: Vec<Attempt> = attempts.iter().rev().cloned().collect();
    for attempts in [attempts, &reversed] {
        let mut fallbacks = Fallbacks::new(STUCK_AFTER_NS);
        for attempt in attempts {
            fallbacks.report(&process(7), 1, attempt.clone(), 0);
        }
        let found: Vec<String> = fallbacks.finish().iter().map(text).collect();
        assert_eq!(found, expected);
        assert!(fallbacks.finish().is_empty(), "each is told once");
    }
}

fn text(found: &Fallback) -> String {
    format!("{} {} {}", found.from, found.to, found.reason.name())
}

#[test]
fn failures_lead_elsewhere() {
    check(&[refused(1, "a", 1), open(2, "b", 2)], &["a b refused"]);
    check(&[refused(1, "a", 1), served(2, "b", (61, 62))], &["a b refused"]);
    check(&[refused(1, "a", 1), served(2, "b", (62, 63))], &[]);
    check(
        &[failed(1, "a", (1, 2), Reason::Tls), served(2, "b", (2, 3))],
        &["a b tls"],
    );
    check(
        &[failed(1, "a", (1, 9), Reason::Closed), served(2, "b", (9, 10))],
        &["a b closed"],
    );
    check(
        &[failed(1, "a", (1, 2), Reason::Http(404)), served(2, "b", (2, 3))],
        &["a b http_4xx"],
    );
    check(
        &[failed(1, "a", (1, 2), Reason::Http(503)), served(2, "b", (2, 3))],
        &["a b http_5xx"],
    );
}

#[test]
fn a_chain_counts_each_step() {
    check(
        &[refused(1, "a", 1), refused(2, "b", 2), served(3, "c", (3, 4))],
        &["a b refused", "b c refused"],
    );
    // Back again, since the second failed too.
    check(
        &[refused(1, "a", 1), refused(2, "b", 2), served(3, "a", (3, 4))],
        &["a b refused", "b a refused"],
    );
}

#[test]
fn tries_at_one_host_are_one_failure() {
    check(
        &[
            refused(1, "a", 1),
            refused(2, "a", 2),
            refused(3, "a", 3),
            served(4, "b", (4, 5)),
            served(5, "b", (6, 7)),
        ],
        &["a b refused"],
    );
    // A new failure is a new fallback, when the process is not at the other host still.
    check(
        &[
            refused(1, "a", 1),
            served(2, "b", (2, 3)),
            refused(3, "a", 4),
            served(4, "b", (5, 6)),
        ],
        &["a b refused", "a b refused"],
    );
}

#[test]
fn success_is_no_fallback() {
    check(&[served(1, "a", (1, 2)), served(2, "b", (3, 4))], &[]);
    // Alternately.
    check(
        &[
            served(1, "a", (1, 2)),
            served(2, "b", (3, 4)),
            served(3, "a", (5, 6)),
            served(4, "b", (7, 8)),
        ],
        &[],
    );
    // The second try served it.
    check(
        &[refused(1, "a", 1), served(2, "a", (2, 3)), served(3, "b", (4, 5))],
        &[],
    );
    // A return after success elsewhere.
    check(
        &[refused(1, "a", 1), served(2, "b", (2, 3)), served(3, "a", (4, 5))],
        &["a b refused"],
    );
    // Nobody asked for anything, nobody answered.
    check(&[open(1, "a", 1), open(2, "b", 2)], &[]);
}

#[test]
fn both_at_once_is_no_fallback() {
    check(
        &[
            served(1, "a", (1, 9)),
            served(2, "b", (1, 9)),
            refused(3, "a", 3),
            served(4, "b", (4, 5)),
        ],
        &[],
    );
    // It was at the other one when this one failed.
    check(
        &[served(1, "b", (1, 9)), refused(2, "a", 3), served(3, "b", (4, 5))],
        &[],
    );
    check(
        &[
            failed(1, "a", (1, 4), Reason::Closed),
            served(2, "b", (2, 3)),
            served(3, "b", (5, 6)),
        ],
        &[],
    );
    // The slower one of two addresses of the first host was given up.
    let given_up = failed(2, "a", (2, 3), Reason::Transport(Outcome::Abandoned));
    let won = Attempt {
        progress: Progress {
            answered_ns: Some(4 * SECOND),
            closed_ns: Some(5 * SECOND),
            ..Progress::default()
        },
        ..open(1, "a", 1)
    };
    check(&[won, given_up, served(3, "b", (9, 10))], &[]);
}

#[test]
fn a_refused_request_is_refused_alone() {
    let refused = |went_on| Attempt {
        progress: Progress {
            failed: Some((2 * SECOND, Reason::Http(404))),
            went_on,
            ..Progress::default()
        },
        ..open(1, "a", 1)
    };
    // Other requests of the same time were served.
    let beside = served(2, "a", (1, 3));
    check(&[refused(false), beside, served(3, "b", (2, 4))], &["a b http_4xx"]);
    check(&[refused(false), served(2, "a", (3, 4)), served(3, "b", (5, 6))], &[]);
    // It went on there: only who leaves at once leaves because of it.
    check(&[refused(true), served(2, "b", (4, 5))], &["a b http_4xx"]);
    check(&[refused(true), served(2, "b", (5, 6))], &[]);
}

#[test]
fn who_hangs_is_left() {
    check(&[waiting(1, "a", 1), served(2, "b", (6, 7))], &["a b stuck"]);
    check(&[waiting(1, "a", 1), served(2, "b", (5, 7))], &[]);
    check(&[waiting(1, "a", 1), served(2, "b", (67, 68))], &[]);
    // It was aborted or answered later: at that time it hung.
    check(
        &[failed(1, "a", (1, 30), Reason::Closed), served(2, "b", (6, 7))],
        &["a b stuck"],
    );
    let answered = |at: u64| Attempt {
        progress: Progress {
            answered_ns: Some(at * SECOND),
            ..waiting(1, "a", 1).progress
        },
        ..waiting(1, "a", 1)
    };
    check(&[answered(20), served(2, "b", (7, 8))], &["a b stuck"]);
    check(&[answered(6), served(2, "b", (7, 8))], &[]);
    // One of many is slow, the host serves.
    check(
        &[waiting(1, "a", 1), served(2, "a", (3, 4)), served(3, "b", (7, 8))],
        &[],
    );
}

#[test]
fn an_address_is_no_host_unless_it_was_asked_for() {
    use Naming::{Literal, Unknown};
    let [first, second] = [refused(1, "10.0.0.1", 1), refused(2, "fd00::1", 2)];
    let [first, second] = [named(Unknown, first), named(Unknown, second)];
    // It may be one host with two addresses, and that of the name as well.
    check(&[first.clone(), second.clone()], &[]);
    check(&[first.clone(), second, served(3, "a", (3, 4))], &[]);
    check(
        &[first, named(Literal, served(3, "10.0.0.2", (3, 4)))],
        &["10.0.0.1 10.0.0.2 refused"],
    );
    check(&[refused(1, "a", 1), named(Unknown, refused(2, "10.0.0.2", 2))], &[]);
    let given_up = failed(1, "10.0.0.1", (1, 2), Reason::Transport(Outcome::Abandoned));
    check(
        &[named(Unknown, given_up), named(Literal, served(3, "10.0.0.2", (3, 4)))],
        &[],
    );
}

#[test]
fn groups_and_processes_stand_alone() {
    let other = Attempt {
        group: "npm".into(),
        ..served(2, "b", (2, 3))
    };
    check(&[refused(1, "a", 1), other], &[]);
    let mut fallbacks = Fallbacks::new(STUCK_AFTER_NS);
    fallbacks.report(&process(7), 1, refused(1, "a", 1), 0);
    fallbacks.report(&process(8), 1, served(2, "b", (2, 3)), 0);
    // Owners that are not known are not one process.
    fallbacks.report(&process(0), 1, refused(3, "a", 1), 0);
    fallbacks.report(&process(0), 1, served(4, "b", (2, 3)), 0);
    assert!(fallbacks.finish().is_empty());
    // Another process under the same id.
    fallbacks.began(7);
    fallbacks.report(&process(7), 1, served(5, "b", (2, 3)), 0);
    assert!(fallbacks.finish().is_empty());
}

#[test]
fn judged_when_all_before_is_known() {
    let mut fallbacks = Fallbacks::new(STUCK_AFTER_NS);
    fallbacks.report(&process(7), 1, refused(1, "a", 1), SECOND);
    fallbacks.report(&process(7), 1, served(2, "b", (2, 3)), 3 * SECOND);
    assert!(fallbacks.take(4 * SECOND - 1).is_empty());
    // What comes late and was before it counts.
    fallbacks.report(&process(7), 1, served(3, "a", (2, 3)), 3 * SECOND);
    assert!(fallbacks.take(4 * SECOND).is_empty());
    fallbacks.report(&process(7), 1, refused(4, "a", 5), 5 * SECOND);
    fallbacks.report(&process(7), 1, served(5, "b", (6, 7)), 7 * SECOND);
    fallbacks.ended(7, 7 * SECOND);
    let found = fallbacks.take(8 * SECOND);
    assert_eq!(found.iter().map(text).collect::<Vec<_>>(), ["a b refused"]);
    assert_eq!((found[0].failed_ns, found[0].opened_ns), (5 * SECOND, 6 * SECOND));
    fallbacks.take(12 * SECOND);
    assert!(fallbacks.by_pid.is_empty(), "forgotten after its grace");
}

#[test]
fn memory_is_bounded() {
    let mut fallbacks = Fallbacks::new(STUCK_AFTER_NS);
    for id in 0..10_000 {
        let now_ns = SECOND + id;
        fallbacks.report(&process(id as u32 + 8), 1, open(id, "a", id), now_ns);
        fallbacks.report(&process(7), 1, open(id, &format!("h{id}"), id), now_ns);
    }
    assert_eq!(fallbacks.by_pid.len(), MAX_PROCESSES);
    assert_eq!(fallbacks.by_pid[&7].attempts.len(), MAX_ATTEMPTS);
    assert_eq!(fallbacks.evicted(), 10_001 - MAX_PROCESSES as u64);
    fallbacks.take(1_000 * SECOND);
    assert!(fallbacks.by_pid.is_empty(), "nothing was heard of them for long");
}

#[test]
fn short_lived_processes_are_forgotten_though_they_ended_before_they_were_heard_of() {
    let mut fallbacks = Fallbacks::new(STUCK_AFTER_NS);
    for number in 0..3_000_u32 {
        let now_ns = SECOND + u64::from(number) * SECOND / 20;
        let pid = 100 + number;
        fallbacks.ended(pid, now_ns);
        let attempt = Attempt {
            opened_ns: now_ns,
            ..served(number.into(), "a", (1, 1))
        };
        fallbacks.report(&process(pid), 1, attempt, now_ns);
        fallbacks.take(now_ns);
    }
    assert_eq!(fallbacks.evicted(), 0);
    assert!(fallbacks.by_pid.len() <= 101 && fallbacks.ended.len() <= 101);
}
