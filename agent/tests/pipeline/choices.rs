//! Groups, fallbacks and declared destinations, from the events of connections to what is told and counted.
use agent_ebpf::{
    connection::{ConnectionState, FLAG_LATE},
    event::{CONNECTION_UPDATE, EventHeader, HELLO_BYTES},
    hello::{BACKWARD, FORWARD, HelloHeader},
    timeline::{ANSWER_ACKS_REQUEST, AnswerRecord, PROTOCOL_HTTP1, PROTOCOL_TLS, Timeline},
};
use hopline::{
    declared::Declaration,
    export::{human, json::record_line, prometheus::encode},
    groups::Groups,
    pipeline::{Output, Pipeline, PipelineSettings},
    selfmetrics::SelfMetrics,
};

use super::{
    events::{MILLISECOND, SECOND, bytes, close, closed_locally, connection, exec, exit, fork, ipv4},
    pipeline, records,
};

/// The events of one exchange: cookie, host, time.
type Exchange = dyn Fn(u64, &str, u64) -> Vec<Vec<u8>>;

/// A chunk of hello bytes.
fn said(time_ns: u64, stream: u64, direction: u8, protocol: u8, text: &[u8]) -> Vec<u8> {
    let header = HelloHeader {
        header: EventHeader {
            kind: HELLO_BYTES,
            size: (size_of::<HelloHeader>() + text.len()) as u32,
            time_ns,
        },
        stream,
        cgroup_id: 1,
        offset: 0,
        length: text.len() as u16,
        direction,
        protocol,
    };
    [&bytes(&header)[..], text].concat()
}

/// A connection of process 42, opened at this time and established at once.
fn opened(cookie: u64, at_ns: u64) -> ConnectionState {
    ConnectionState {
        intent_ns: at_ns,
        syn_ns: at_ns,
        established_ns: at_ns,
        ..closed_locally(cookie)
    }
}

fn refused(cookie: u64, at_ns: u64) -> Vec<Vec<u8>> {
    let state = ConnectionState {
        established_ns: 0,
        error: libc::ECONNREFUSED as u16,
        ..opened(cookie, at_ns)
    };
    vec![close(at_ns, state)]
}

/// What is said in one exchange of HTTP in clear, and its connection.
fn http(cookie: u64, host: &str, at_ns: u64, status: u16) -> (Vec<Vec<u8>>, ConnectionState) {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut samples = vec![said(at_ns, cookie, FORWARD, PROTOCOL_HTTP1, request.as_bytes())];
    let mut timeline = Timeline {
        protocol: PROTOCOL_HTTP1,
        request_ns: at_ns,
        ..Timeline::default()
    };
    if status != 0 {
        let answer = format!("HTTP/1.1 {status} x\r\n\r\n");
        samples.push(said(at_ns, cookie, BACKWARD, PROTOCOL_HTTP1, answer.as_bytes()));
        timeline.first_byte_ns = at_ns + MILLISECOND;
    }
    let state = ConnectionState {
        timeline,
        ..opened(cookie, at_ns)
    };
    (samples, state)
}

/// The same with its end, 10 ms later. Status 0 is no answer.
fn fetch(cookie: u64, host: &str, at_ns: u64, status: u16) -> Vec<Vec<u8>> {
    let (mut samples, state) = http(cookie, host, at_ns, status);
    samples.push(close(at_ns + 10 * MILLISECOND, state));
    samples
}

/// A TLS connection that ends without a handshake, or answered.
fn tls(cookie: u64, name: &str, at_ns: u64, answered: bool) -> Vec<Vec<u8>> {
    let length = |length: usize| (length as u16).to_be_bytes();
    let entry = [&[0][..], &length(name.len()), name.as_bytes()].concat();
    let list = [&length(entry.len())[..], &entry].concat();
    let extension = [&[0, 0][..], &length(list.len()), &list].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &length(extension.len()),
        &extension,
    ]
    .concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    let hello = [&[22, 3, 1][..], &length(message.len()), &message].concat();
    let mut timeline = Timeline {
        protocol: PROTOCOL_TLS,
        client_hello_ns: at_ns,
        ..Timeline::default()
    };
    if answered {
        timeline.tls_done_ns = at_ns + MILLISECOND;
        timeline.request_ns = at_ns + MILLISECOND;
        timeline.answers[0] = AnswerRecord {
            after_us: 500,
            length: 900,
            content_type: 23,
            flags: ANSWER_ACKS_REQUEST,
        };
        timeline.answer_count = 1;
    }
    let state = ConnectionState {
        timeline,
        ..opened(cookie, at_ns)
    };
    vec![
        said(at_ns, cookie, FORWARD, PROTOCOL_TLS, &hello),
        close(at_ns + 10 * MILLISECOND, state),
    ]
}

fn apply(pipeline: &mut Pipeline, samples: &[Vec<u8>]) {
    for sample in samples {
        pipeline.apply(sample);
    }
}

/// The fallbacks among the outputs, as `FROM TO REASON`.
fn fallbacks(pipeline: &mut Pipeline) -> Vec<String> {
    let mut outputs = Vec::new();
    pipeline.take_outputs(&mut outputs);
    let text = |output| match output {
        Output::Fallback(record) => Some(format!("{} {} {}", record.from, record.to, record.reason)),
        _ => None,
    };
    outputs.into_iter().filter_map(text).collect()
}

/// What is found after these events.
#[track_caller]
fn check(samples: &[Vec<Vec<u8>>], expected: &[&str]) {
    let mut pipeline = pipeline();
    apply(&mut pipeline, &samples.concat());
    pipeline.settle();
    assert_eq!(fallbacks(&mut pipeline), expected);
}

#[test]
fn a_failed_mirror_and_the_next() {
    let at = |seconds: u64| seconds * SECOND;
    check(
        &[
            fetch(1, "proxy.golang.org", at(1), 503),
            fetch(2, "goproxy.io", at(2), 200),
        ],
        &["proxy.golang.org goproxy.io http_5xx"],
    );
    check(
        &[
            fetch(1, "proxy.golang.org", at(1), 0),
            fetch(2, "goproxy.io", at(2), 200),
        ],
        &["proxy.golang.org goproxy.io closed"],
    );
    check(
        &[
            tls(1, "proxy.golang.org", at(1), false),
            tls(2, "proxy.golang.org", at(2), false),
            tls(3, "goproxy.io", at(3), true),
            tls(4, "goproxy.io", at(4), true),
        ],
        &["proxy.golang.org goproxy.io tls"],
    );
    // Told of later than the other: it was kept alive.
    let (said, kept) = http(1, "proxy.golang.org", at(1), 404);
    check(
        &[
            said,
            fetch(2, "goproxy.io", at(2), 200),
            vec![connection(CONNECTION_UPDATE, at(3), kept)],
        ],
        &["proxy.golang.org goproxy.io http_4xx"],
    );
}

#[test]
fn no_fallback_where_none_was() {
    let at = |seconds: u64| seconds * SECOND;
    let alternately = |one: &Exchange| {
        check(
            &[
                one(1, "proxy.golang.org", at(1)),
                one(2, "goproxy.io", at(2)),
                one(3, "proxy.golang.org", at(3)),
                one(4, "goproxy.io", at(4)),
            ],
            &[],
        );
    };
    // The status is not to be seen under TLS: an answer is an answer.
    alternately(&|cookie, host, at_ns| tls(cookie, host, at_ns, true));
    alternately(&|cookie, host, at_ns| fetch(cookie, host, at_ns, 200));
    // Credentials are asked for, then given.
    alternately(&|cookie, host, at_ns| fetch(cookie, host, at_ns, 401));
    // Another group, no group, too late, another process.
    check(
        &[
            fetch(1, "proxy.golang.org", at(1), 503),
            fetch(2, "pypi.org", at(2), 200),
        ],
        &[],
    );
    check(
        &[fetch(1, "a.example", at(1), 503), fetch(2, "b.example", at(2), 200)],
        &[],
    );
    check(
        &[
            fetch(1, "proxy.golang.org", at(1), 503),
            fetch(2, "goproxy.io", at(62), 200),
        ],
        &[],
    );
    let (said, state) = http(2, "goproxy.io", at(2), 200);
    let other = close(at(3), ConnectionState { pid: 43, ..state });
    check(
        &[fetch(1, "proxy.golang.org", at(1), 503), said.clone(), vec![other]],
        &[],
    );
    // The same number, another process.
    check(
        &[
            fetch(1, "proxy.golang.org", at(1), 503),
            vec![exit(at(1), 42), fork(at(1), 42, 1, "sh")],
            fetch(2, "goproxy.io", at(2), 200),
        ],
        &[],
    );
    // Opened before hopline: nobody knows when.
    let late = close(
        at(3),
        ConnectionState {
            flags: FLAG_LATE,
            ..state
        },
    );
    check(&[fetch(1, "proxy.golang.org", at(1), 503), said, vec![late]], &[]);
    // Both from the start.
    let (first, kept) = http(1, "goproxy.io", at(1), 200);
    check(
        &[
            first,
            vec![connection(CONNECTION_UPDATE, at(1), kept)],
            fetch(2, "proxy.golang.org", at(2), 503),
            fetch(3, "goproxy.io", at(3), 200),
        ],
        &[],
    );
    // An address that refused may be one of the host that served then.
    check(&[refused(1, at(1)), fetch(2, "proxy.golang.org", at(2), 200)], &[]);
}

#[test]
fn addresses_are_hosts_where_they_were_asked_for() {
    let settings = PipelineSettings {
        groups: Groups::new(
            &[("corp".to_owned(), vec!["10.0.0.0/8".parse().expect("a pattern")])].into(),
            true,
            &[53],
        ),
        ..PipelineSettings::default()
    };
    let mut pipeline = Pipeline::new(settings);
    pipeline.set_collect(true);
    let (said, state) = http(2, "10.0.0.3", 2 * SECOND, 200);
    let state = ConnectionState {
        remote_address: ipv4([10, 0, 0, 3]),
        ..state
    };
    let samples = [refused(1, SECOND), said, vec![close(3 * SECOND, state)]];
    apply(&mut pipeline, &samples.concat());
    pipeline.settle();
    assert_eq!(fallbacks(&mut pipeline), ["10.0.0.2 10.0.0.3 refused"]);
}

#[test]
fn a_hanging_mirror_is_left_while_it_hangs() {
    let mut pipeline = pipeline();
    let (said, hangs) = http(1, "proxy.golang.org", SECOND, 0);
    apply(&mut pipeline, &said);
    pipeline.apply(&connection(CONNECTION_UPDATE, 2 * SECOND, hangs));
    let next = |pipeline: &mut Pipeline, cookie, at_ns| {
        let samples = fetch(cookie, "goproxy.io", at_ns, 200);
        apply(pipeline, &samples);
        pipeline.tick(at_ns + SECOND);
        assert!(fallbacks(pipeline).is_empty(), "too soon to tell");
        pipeline.tick(at_ns + 3 * SECOND);
        fallbacks(pipeline)
    };
    assert!(
        next(&mut pipeline, 2, 3 * SECOND).is_empty(),
        "it has not hung for long"
    );
    // Since then nothing of the other host is open; but the process was there while this one hung.
    assert!(next(&mut pipeline, 3, 7 * SECOND).is_empty());
    let mut pipeline = super::pipeline();
    apply(&mut pipeline, &said);
    pipeline.apply(&connection(CONNECTION_UPDATE, 2 * SECOND, hangs));
    assert_eq!(
        next(&mut pipeline, 4, 7 * SECOND),
        ["proxy.golang.org goproxy.io stuck"]
    );
    // Its end is no second one.
    pipeline.apply(&close(20 * SECOND, hangs));
    assert!(next(&mut pipeline, 5, 21 * SECOND).is_empty());
    assert_eq!(pipeline.snapshot().fallbacks[0].1, 1);
}

#[test]
fn a_fallback_is_told_and_counted() {
    let mut pipeline = pipeline();
    let mut samples = vec![
        fork(1, 41, 1, "gitlab-runner"),
        exec(2, 41, 1, "/bin/sh"),
        fork(3, 42, 41, "sh"),
        exec(4, 42, 41, "/usr/bin/go"),
    ];
    samples.extend(fetch(1, "proxy.golang.org", SECOND, 503));
    samples.extend(fetch(2, "goproxy.io", 2 * SECOND, 200));
    apply(&mut pipeline, &samples);
    pipeline.tick(10 * SECOND);
    let mut outputs = Vec::new();
    pipeline.take_outputs(&mut outputs);
    let output = outputs.last().expect("the fallback is last");
    assert_eq!(
        human::line(output),
        "00:00:02.000 FALLBACK go proxy.golang.org → goproxy.io after http 5xx, sh → go"
    );
    let mut line = Vec::new();
    record_line(output, &mut line);
    let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    for (key, expected) in [
        ("/event", serde_json::json!("fallback")),
        ("/schema", serde_json::json!(1)),
        ("/type", serde_json::json!("fallback")),
        ("/group", serde_json::json!("go")),
        ("/from", serde_json::json!("proxy.golang.org")),
        ("/to", serde_json::json!("goproxy.io")),
        ("/reason", serde_json::json!("http_5xx")),
        ("/after_us", serde_json::json!(999_000)),
        ("/process/pid", serde_json::json!(42)),
        ("/process/ancestry", serde_json::json!(["sh"])),
    ] {
        assert_eq!(value.pointer(key), Some(&expected), "{key}");
    }
    let scrape = encode(&pipeline.snapshot(), &SelfMetrics::default());
    let counter = "hopline_fallbacks_total{group=\"go\",from=\"proxy.golang.org\",to=\"goproxy.io\",\
                   source_namespace=\"\",source_workload=\"\"} 1";
    assert!(scrape.lines().any(|line| line == counter), "{scrape}");
}

#[test]
fn pairs_of_hosts_are_bounded() {
    let mut pipeline = Pipeline::new(PipelineSettings::default());
    for number in 0..1_000 {
        let at_ns = (number + 1) * SECOND;
        let samples = fetch(number + 1, &format!("h{number}.goproxy.io"), at_ns, 503);
        apply(&mut pipeline, &samples);
        pipeline.tick(at_ns);
    }
    pipeline.settle();
    let counts = pipeline.snapshot().fallbacks;
    assert_eq!(counts.len(), 201);
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 999);
    let folded = counts.iter().find(|(labels, _)| &*labels.from == "other");
    assert_eq!(folded.map(|(_, count)| *count), Some(799));
}

#[test]
fn groups_are_labels() {
    let mut pipeline = pipeline();
    let resolver = ConnectionState {
        remote_port: 53_u16.to_be_bytes(),
        ..closed_locally(3)
    };
    let samples = [
        fetch(1, "Proxy.Golang.org", SECOND, 200),
        fetch(2, "a.example", SECOND, 200),
        vec![close(3 * SECOND, resolver)],
    ];
    apply(&mut pipeline, &samples.concat());
    let snapshot = pipeline.snapshot();
    let mut labels: Vec<(&str, &str)> = snapshot
        .destinations
        .iter()
        .map(|destination| (&*destination.labels.destination, &*destination.labels.group))
        .collect();
    labels.sort_unstable();
    assert_eq!(
        labels,
        [("10.0.0.2", "dns"), ("a.example", ""), ("proxy.golang.org", "go")]
    );
    let groups: Vec<String> = records(&mut pipeline)
        .into_iter()
        .map(|record| record.destination.group)
        .collect();
    assert_eq!(groups, ["go", "", "dns"]);
}

/// What is told of process 42, `go`, with these destinations declared for it, as `WORD DESTINATION`.
fn undeclared(destinations: &[&str], samples: &[Vec<Vec<u8>>]) -> (Vec<String>, Pipeline) {
    let declared = Declaration {
        name: "builds".to_owned(),
        process: Some("go".to_owned()),
        workload: None,
        cgroup: None,
        destinations: destinations
            .iter()
            .map(|text| text.parse().expect("a destination"))
            .collect(),
    };
    let mut pipeline = Pipeline::new(PipelineSettings {
        declared: vec![declared],
        ..PipelineSettings::default()
    });
    pipeline.set_collect(true);
    pipeline.apply(&fork(1, 42, 1, "sh"));
    pipeline.apply(&exec(2, 42, 1, "/usr/bin/go"));
    apply(&mut pipeline, &samples.concat());
    let mut outputs = Vec::new();
    pipeline.take_outputs(&mut outputs);
    let text = |output: &Output| match output {
        Output::Undeclared(record) => Some(format!("{} {}", record.reason, record.destination.host)),
        _ => None,
    };
    (outputs.iter().filter_map(text).collect(), pipeline)
}

#[test]
fn a_destination_that_is_not_declared_is_told_once() {
    let (said, kept) = http(1, "evil.example", SECOND, 200);
    let all = [
        said,
        vec![
            connection(CONNECTION_UPDATE, 2 * SECOND, kept),
            connection(CONNECTION_UPDATE, 3 * SECOND, kept),
            close(4 * SECOND, kept),
        ],
    ];
    let names = ["proxy.golang.org", "group:npm"];
    let (told, pipeline) = undeclared(&names, &all);
    assert_eq!(told, ["outside evil.example"]);
    let scrape = encode(&pipeline.snapshot(), &SelfMetrics::default());
    let counter = "hopline_undeclared_total{destination=\"evil.example\",destination_port=\"443\",group=\"\",\
                   declaration=\"builds\",reason=\"outside\",source_namespace=\"\",source_workload=\"\"} 1";
    assert!(scrape.lines().any(|line| line == counter), "{scrape}");

    let (told, _) = undeclared(&["10.0.0.0/8"], &all);
    assert!(
        told.is_empty(),
        "the address is declared, whatever it is called: {told:?}"
    );
    let (told, _) = undeclared(&["10.0.0.0/8:80"], &all);
    assert_eq!(told, ["outside evil.example"]);
}

#[test]
fn a_declared_name_must_not_be_a_claim_alone() {
    let names = ["proxy.golang.org", "group:npm"];
    let claims = [
        tls(1, "proxy.golang.org", SECOND, true),
        fetch(2, "registry.npmjs.org", SECOND, 200),
    ];
    let (told, _) = undeclared(&names, &claims);
    assert_eq!(told, ["unverified proxy.golang.org", "unverified registry.npmjs.org"]);
    let (told, _) = undeclared(&["proxy.golang.org", "group:npm", "10.0.0.2"], &claims);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn what_has_no_name_yet_is_not_judged_by_name() {
    let (told, _) = undeclared(&["proxy.golang.org"], &[refused(1, SECOND)]);
    assert!(told.is_empty(), "the address may be that of the name: {told:?}");
    let (told, _) = undeclared(&["192.0.2.0/24"], &[refused(1, SECOND)]);
    assert_eq!(told, ["outside 10.0.0.2"], "no name can be declared");
    let other = ConnectionState {
        pid: 43,
        ..closed_locally(1)
    };
    let (told, _) = undeclared(&["192.0.2.0/24"], &[vec![close(3 * SECOND, other)]]);
    assert!(told.is_empty(), "another process: {told:?}");
    // Silent for longer than its name is waited for: what it says then counts.
    let silent = opened(1, SECOND);
    let (said, state) = http(1, "evil.example", 9 * SECOND, 200);
    let state = ConnectionState {
        timeline: state.timeline,
        ..silent
    };
    let samples = [
        vec![connection(CONNECTION_UPDATE, 8 * SECOND, silent)],
        said,
        vec![close(10 * SECOND, state)],
    ];
    let (told, _) = undeclared(&["proxy.golang.org"], &samples);
    assert_eq!(told, ["outside evil.example"]);
}

#[test]
fn undeclared_destinations_are_bounded() {
    let samples: Vec<_> = (1..=1_000)
        .map(|number| fetch(number, &format!("h{number}.example"), SECOND, 200))
        .collect();
    let (told, pipeline) = undeclared(&["192.0.2.0/24"], &samples);
    assert_eq!(told.len(), 1_000);
    let counts = pipeline.snapshot().undeclared;
    assert_eq!(counts.len(), 201);
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
}
