//! Requests and connections in, rows in order and judged conditions out.
use super::*;
use crate::{
    cli::fail_if::FailIf,
    fetch::{Chain, Presented, Step},
};

const OK: Ending = Ending::Answered(200);

fn fetched(cookie: u64, ending: Ending) -> Fetched {
    Fetched {
        cookie: Some(cookie),
        ending,
        presented: None,
    }
}

fn measured(tcp: u64, ttfb: u64) -> Measured {
    let phases_us = Phases {
        tcp: Some(tcp),
        ttfb: Some(ttfb),
        ..Phases::default()
    };
    Measured {
        phases_us,
        outcome: Some(Outcome::Ok),
        ..Measured::default()
    }
}

/// One row for each URL `http://0/`, `http://1/`, …; requests are of the URL, with how they ended and their phases.
pub(crate) fn rows(urls: usize, requests: &[(usize, Ending, u64, u64)]) -> Vec<Row> {
    let targets: Vec<Target> = (0..urls)
        .map(|number| Target::parse(&format!("http://{number}/")).expect("a URL"))
        .collect();
    let (mut all, mut connections) = (Vec::new(), BTreeMap::new());
    for (cookie, (target, ending, tcp, ttfb)) in (1..).zip(requests) {
        all.push((*target, fetched(cookie, *ending)));
        connections.insert(cookie, measured(*tcp, *ttfb));
    }
    compare(&targets, &all, &connections)
}

#[test]
fn the_best_comes_first_and_the_failing_last() {
    let check = |requests: &[(usize, Ending, u64, u64)], expected: &[(&str, bool)]| {
        let rows = rows(expected.len(), requests);
        let order: Vec<_> = rows.iter().map(|row| (row.url.as_str(), row.is_best)).collect();
        assert_eq!(order, expected);
    };
    let gone = Ending::Failed(Step::Tcp);
    check(
        &[(0, OK, 5, 9), (1, OK, 6, 7)],
        &[("http://1/", true), ("http://0/", false)],
    );
    check(
        &[(0, OK, 5, 5), (1, OK, 6, 4)],
        &[("http://0/", true), ("http://1/", false)],
    );
    check(
        &[
            (0, gone, 1, 1),
            (1, OK, 9, 9),
            (2, OK, 1, 1),
            (2, Ending::Answered(503), 1, 1),
        ],
        &[("http://1/", true), ("http://2/", false), ("http://0/", false)],
    );
    check(&[(0, gone, 1, 1)], &[("http://0/", false)]);
    check(&[], &[("http://0/", false)]);
}

#[test]
fn counts_and_phases() {
    let requests = [
        (0, OK, 10, 100),
        (0, OK, 30, 300),
        (0, Ending::Answered(404), 20, 1),
        (0, Ending::Answered(301), 40, 200),
    ];
    let rows = rows(1, &requests);
    let row = &rows[0];
    assert_eq!((row.requests, row.ok, row.measured), (4, 3, 4));
    assert_eq!(row.failures, [("http_4xx".to_owned(), 1)].into());
    assert_eq!(row.phases.tcp, Some(Quantiles { p50: 20, p95: 40 }));
    assert_eq!(
        row.phases.ttfb,
        Some(Quantiles { p50: 200, p95: 300 }),
        "without the error page's"
    );
    assert_eq!((row.phases.dns, row.total_us()), (None, Some(220)));
}

#[test]
fn a_connection_that_nobody_told_of_is_not_measured() {
    let target = Target::parse("http://a/").expect("a URL");
    let rows = compare(&[target], &[(0, fetched(1, OK))], &BTreeMap::new());
    assert_eq!(
        (rows[0].ok, rows[0].measured, rows[0].total_us(), rows[0].is_best),
        (1, 0, None, false)
    );
}

#[test]
fn reasons() {
    let check = |ending: Ending, outcome: Option<Outcome>, tls: Option<&str>, expected: Option<&str>| {
        let presented = Some(Presented {
            chain: None,
            is_stapled: false,
            fault: Some("cert_expired"),
        });
        let fetched = Fetched {
            presented,
            ..fetched(1, ending)
        };
        let measured = outcome.map(|outcome| Measured {
            outcome: Some(outcome),
            tls_outcome: tls.map(str::to_owned),
            ..Measured::default()
        });
        assert_eq!(failure(&fetched, measured.as_ref()).as_deref(), expected);
    };
    check(OK, Some(Outcome::Reset), None, None);
    check(Ending::Answered(302), None, None, None);
    check(Ending::Answered(404), Some(Outcome::Ok), None, Some("http_4xx"));
    check(Ending::Distrusted, Some(Outcome::Ok), Some("ok"), Some("cert_expired"));
    check(
        Ending::TimedOut(Step::Ttfb),
        Some(Outcome::Other),
        None,
        Some("timeout_ttfb"),
    );
    check(Ending::Failed(Step::Tcp), Some(Outcome::Refused), None, Some("refused"));
    let silent = Some("no_answer");
    check(Ending::TimedOut(Step::Tls), Some(Outcome::Tls), silent, silent);
    check(
        Ending::TimedOut(Step::Tls),
        Some(Outcome::Tls),
        Some("closed"),
        Some("timeout_tls"),
    );
    let alert = Some("alert_protocol_version");
    check(
        Ending::Failed(Step::Tls),
        Some(Outcome::Tls),
        alert,
        Some("alert_protocol_version"),
    );
    check(Ending::Failed(Step::Body), Some(Outcome::Ok), None, Some("body_failed"));
    check(Ending::Failed(Step::Dns), None, None, Some("dns_failed"));
}

#[test]
fn conditions() {
    let mut rows = rows(
        2,
        &[
            (0, OK, 10, 100),
            (0, Ending::Failed(Step::Tcp), 10, 100),
            (1, OK, 5, 50),
        ],
    );
    rows[0].presented = Some(Presented {
        chain: Some(Chain {
            subject: "a".to_owned(),
            missing: None,
            expires_s: 13 * 86_400,
        }),
        is_stapled: false,
        fault: None,
    });
    let check = |text: &str, expected: &[(&str, Option<i64>)]| {
        let conditions = [FailIf::parse(text).expect("a condition")];
        let judged = judge(&conditions, &rows);
        let found: Vec<_> = judged
            .iter()
            .map(|judged| match judged {
                Judged::Holds(_, row, value) => (row.url.as_str(), Some(*value)),
                Judged::NotMeasured(_, row) => (row.url.as_str(), None),
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    };
    check("tcp.p95 > 5us", &[("http://0/", Some(10))]);
    check("ttfb.p50 >= 50us", &[("http://1/", Some(50)), ("http://0/", Some(100))]);
    check("ttfb.p50 > 1s", &[]);
    check("tls.p50 > 1us", &[("http://1/", None), ("http://0/", None)]);
    check("failures > 0", &[("http://0/", Some(1))]);
    check(
        "expires < 14d",
        &[("http://1/", Some(13 * 86_400)), ("http://0/", None)],
    );
}
