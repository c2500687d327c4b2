//! Who owns a connection: processes by time, listeners, sockets older than hopline.
use agent_ebpf::{
    connection::{CLOSED_BY_REMOTE, ConnectionState, FLAG_LATE},
    event::{CONNECTION_UPDATE, LISTENER_OPEN, SYNACK_RETRANSMIT},
};
use hopline::{
    aggregate::Retransmit,
    connection::{Role, TcpState},
    pipeline::{Pipeline, PipelineSettings},
};

use super::{
    events::{SECOND, child, close, closed_locally, connection, exec, exit, fork, fork_by, listener, text},
    only_destination, only_record, records, run,
};

#[test]
fn children_belong_to_the_listener() {
    let mut pipeline = run(&[
        fork(1, 80, 1, "systemd"),
        exec(2, 80, 1, "/usr/sbin/nginx"),
        connection(LISTENER_OPEN, SECOND, listener(5)),
        connection(CONNECTION_UPDATE, 2 * SECOND, child(6, 5)),
        connection(SYNACK_RETRANSMIT, 2 * SECOND, listener(5)),
        connection(SYNACK_RETRANSMIT, 2 * SECOND, listener(5)),
        // The listener and its process go first; the pid is used again.
        close(3 * SECOND, listener(5)),
        exit(3 * SECOND, 80),
        fork(4 * SECOND, 80, 1, "other"),
        connection(CONNECTION_UPDATE, 5 * SECOND, child(7, 5)),
        close(
            6 * SECOND,
            ConnectionState {
                closed_by: CLOSED_BY_REMOTE,
                ..child(6, 5)
            },
        ),
    ]);
    let destination = only_destination(&pipeline);
    assert_eq!(
        (destination.role, destination.labels.destination.as_ref()),
        (Role::Server, "nginx")
    );
    assert_eq!(destination.labels.port, Some(8_080));
    assert_eq!(destination.counters.connects(), 2);
    assert_eq!(destination.counters.retransmits[Retransmit::Synack as usize], 2);
    assert_eq!(destination.active[TcpState::Established as usize], 1);
    let records = records(&mut pipeline);
    assert_eq!(records.len(), 1, "a listener makes no record");
    assert_eq!(
        (records[0].role, records[0].process.exe.as_deref()),
        (Role::Server, Some("/usr/sbin/nginx"))
    );
    assert_eq!(records[0].destination.host, "nginx");
}

#[test]
fn an_owner_is_right_by_time() {
    let samples = [
        fork(SECOND, 40, 1, "gitlab-runner"),
        exec(SECOND, 40, 1, "/usr/bin/gitlab-runner"),
        fork(2 * SECOND, 41, 40, "gitlab-runner"),
        exec(3 * SECOND, 41, 40, "/bin/sh"),
        fork(4 * SECOND, 42, 41, "sh"),
        exec(5 * SECOND, 42, 41, "/usr/local/go/bin/go"),
        exit(6 * SECOND, 42),
        // The same pid for a child of another; its parent is gone before it connects.
        fork(8 * SECOND, 42, 40, "gitlab-runner"),
        exec(9 * SECOND, 42, 40, "./curl"),
        exit(9 * SECOND, 40),
    ];
    let owner = |intent_ns, comm: &str| {
        let connect = ConnectionState {
            intent_ns,
            comm: text(comm),
            ..closed_locally(1)
        };
        only_record(&[&samples[..], &[close(30 * SECOND, connect)]].concat()).process
    };
    let check = |intent_ns, comm: &str, exe: Option<&str>, ancestry: &[&str]| {
        let process = owner(intent_ns, comm);
        assert_eq!(process.comm.as_deref(), Some(comm));
        assert_eq!((process.pid, process.exe.as_deref()), (Some(42), exe));
        assert_eq!(process.ancestry, ancestry);
    };
    check(4 * SECOND + 1, "sh", Some("/bin/sh"), &["sh", "gitlab-runner"]);
    check(
        5 * SECOND + 1,
        "go",
        Some("/usr/local/go/bin/go"),
        &["sh", "gitlab-runner"],
    );
    check(6 * SECOND, "go", Some("/usr/local/go/bin/go"), &["sh", "gitlab-runner"]);
    check(
        8 * SECOND + 1,
        "gitlab-runner",
        Some("/usr/bin/gitlab-runner"),
        &["gitlab-runner"],
    );
    check(9 * SECOND + 1, "curl", Some("./curl"), &["gitlab-runner"]);
    // Nobody had the pid then: only what the socket itself says.
    check(7 * SECOND, "thread", None, &[]);
}

#[test]
fn a_process_has_the_name_that_it_gave_itself() {
    let samples = [
        fork(SECOND, 40, 1, "sh"),
        exec(SECOND, 40, 1, "/usr/bin/spawn"),
        // Its thread forked, whose name the child has at first.
        fork_by(2 * SECOND, 41, (40, "spawner"), "worker-7"),
    ];
    let owner = |pid, comm: &str| {
        let connect = ConnectionState {
            pid,
            intent_ns: 5 * SECOND,
            comm: text(comm),
            ..closed_locally(1)
        };
        let process = only_record(&[&samples[..], &[close(30 * SECOND, connect)]].concat()).process;
        (process.comm.expect("a name"), process.ancestry)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(owner(40, ""), ("spawner".to_owned(), names(&[])));
    assert_eq!(owner(41, ""), ("worker-7".to_owned(), names(&["spawner"])));
    assert_eq!(owner(41, "renamed"), ("renamed".to_owned(), names(&["spawner"])));
}

#[test]
fn ancestry_is_bounded() {
    let mut samples: Vec<_> = (2..=20)
        .map(|pid| fork(u64::from(pid), pid, pid - 1, &format!("p{pid}")))
        .collect();
    samples.push(close(
        30 * SECOND,
        ConnectionState {
            pid: 20,
            ..closed_locally(1)
        },
    ));
    let ancestry = only_record(&samples).process.ancestry;
    assert_eq!(ancestry, ["p19", "p18", "p17", "p16", "p15", "p14", "p13", "p12"]);
}

#[test]
fn late_sockets_find_their_owner_by_inode() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
    let link = std::fs::read_link(link)
        .expect("it is open")
        .to_string_lossy()
        .into_owned();
    let inode = link
        .trim_start_matches("socket:[")
        .trim_end_matches(']')
        .parse()
        .expect("an inode");
    let mut pipeline = Pipeline::new(PipelineSettings {
        read_proc: true,
        ..PipelineSettings::default()
    });
    pipeline.set_collect(true);
    pipeline.seed();
    let late = |state| ConnectionState {
        flags: FLAG_LATE,
        pid: 0,
        comm: [0; 16],
        intent_ns: 0,
        ..state
    };
    pipeline.apply(&connection(
        LISTENER_OPEN,
        SECOND,
        ConnectionState {
            inode,
            ..late(listener(5))
        },
    ));
    let born = ConnectionState {
        flags: 0,
        ..late(child(6, 5))
    };
    pipeline.apply(&close(2 * SECOND, born));
    pipeline.apply(&close(
        2 * SECOND,
        ConnectionState {
            inode,
            ..late(closed_locally(7))
        },
    ));
    let exe = std::env::current_exe().expect("it has a program");
    for record in records(&mut pipeline) {
        assert_eq!(record.process.pid, Some(std::process::id()));
        assert_eq!(record.process.exe.as_deref(), exe.to_str());
        assert!(!record.process.ancestry.is_empty());
    }
}
