//! Rows in, text and JSON out.
use super::*;
use crate::{
    compare::tests::rows,
    fetch::{Ending, Step},
};

fn two_rows() -> Vec<Row> {
    let mut rows = rows(
        2,
        &[
            (0, Ending::Answered(200), 1_000, 20_000),
            (1, Ending::Failed(Step::Tcp), 0, 0),
        ],
    );
    rows[0].agreed = Some(("1.3".to_owned(), "TLS_AES_128_GCM_SHA256".to_owned()));
    rows[0].presented = Some(presented(None, None));
    rows[1].phases.tcp = None;
    rows
}

fn presented(missing: Option<&str>, fault: Option<&'static str>) -> Presented {
    Presented {
        chain: Some(Chain {
            subject: "a".to_owned(),
            missing: missing.map(str::to_owned),
            expires_s: 2 * 86_400 - 1,
        }),
        is_stapled: true,
        fault,
    }
}

#[test]
fn a_table() {
    let text = table(&two_rows());
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines[1..],
        [
            "* http://0/ 1 0 - - 1.00ms 1.00ms - - 20.0ms 20.0ms 21.0ms 1.3 TLS_AES_128_GCM_SHA256 complete stapled 1d",
            "http://1/ 0 1 - - - - - - - - - - - - - - 1 tcp failed",
            "",
            "best: http://0/, 21.0ms in sum of the medians",
        ]
    );
    let columns: Vec<&str> = text.lines().take(2).collect();
    let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
    assert_eq!(end(columns[0], "TTFB p95"), columns[1].rfind("20.0ms").map(|at| at + 6));
}

#[test]
fn chains() {
    let check = |presented: &Presented, expected: &str| assert_eq!(chain(presented), expected);
    check(&presented(None, None), "complete");
    check(&presented(None, Some("cert_name_mismatch")), "complete, name mismatch");
    check(
        &presented(Some("Lab\x1b CA"), Some("cert_missing_intermediate")),
        "lacks Lab\u{fffd} CA",
    );
    check(
        &presented(Some("Lab Root"), Some("cert_unknown_authority")),
        "unknown issuer Lab Root",
    );
    let unread = Presented {
        chain: None,
        ..presented(None, Some("cert_invalid"))
    };
    check(&unread, "unreadable");
}

#[test]
fn keys_of_json() {
    let rows = two_rows();
    let conditions = [FailIf::parse("ttfb.p50 > 1ms").expect("a condition")];
    let whole = json(&rows, &crate::compare::judge(&conditions, &rows));
    for (path, expected) in [
        ("/rows/0/url", json!("http://0/")),
        ("/rows/0/host", json!("0")),
        ("/rows/0/requests", json!(1)),
        ("/rows/0/ok", json!(1)),
        ("/rows/0/failures", json!({})),
        ("/rows/0/phases_us/dns", Value::Null),
        ("/rows/0/phases_us/tcp", json!({ "p50": 1_000, "p95": 1_000 })),
        ("/rows/0/phases_us/ttfb/p95", json!(20_000)),
        ("/rows/0/tls/version", json!("1.3")),
        ("/rows/0/tls/cipher", json!("TLS_AES_128_GCM_SHA256")),
        ("/rows/0/tls/chain/complete", json!(true)),
        ("/rows/0/tls/chain/missing", Value::Null),
        ("/rows/0/tls/chain/subject", json!("a")),
        ("/rows/0/tls/chain/expires_days", json!(1)),
        ("/rows/0/tls/ocsp_stapled", json!(true)),
        ("/rows/0/best", json!(true)),
        ("/rows/1/tls", Value::Null),
        ("/rows/1/failures", json!({ "tcp_failed": 1 })),
        (
            "/fail_if",
            json!([{ "condition": "ttfb.p50 > 1ms", "url": "http://0/" }]),
        ),
    ] {
        assert_eq!(whole.pointer(path), Some(&expected), "{path}");
    }
}

#[test]
fn conditions_that_hold_name_the_row() {
    let rows = two_rows();
    let check = |text: &str, expected: &[&str]| {
        let conditions = [FailIf::parse(text).expect("a condition")];
        let found: Vec<String> = crate::compare::judge(&conditions, &rows).iter().map(judged).collect();
        assert_eq!(found, expected);
    };
    check(
        "failures > 0",
        &["--fail-if 'failures > 0': http://1/ has failures = 1"],
    );
    check(
        "ttfb.p95 > 1ms",
        &[
            "--fail-if 'ttfb.p95 > 1ms': http://0/ has ttfb.p95 = 20.0ms",
            "--fail-if 'ttfb.p95 > 1ms': http://1/ was not judged, there is no ttfb.p95",
        ],
    );
    check(
        "expires<14d",
        &[
            "--fail-if 'expires<14d': http://0/ has expires = 2.0d",
            "--fail-if 'expires<14d': http://1/ was not judged, there is no expires",
        ],
    );
}
