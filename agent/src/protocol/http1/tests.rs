//! Heads as clients and servers write them, and what is none.

use proptest::prelude::*;

use super::*;

fn shown(claim: &HostClaim) -> String {
    match claim {
        HostClaim::Absent => "absent".to_owned(),
        HostClaim::Invalid => "invalid".to_owned(),
        HostClaim::Authority(Authority { host, port }) => {
            let host = match host {
                Host::Name(name) => name.to_string(),
                Host::Address(address) => format!("<{address}>"),
            };
            port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
        }
    }
}

fn check(head: &str, method: &str, host: &str) {
    let Parsed::Head(found) = request_head(head.as_bytes()) else {
        panic!("{head:?} is a head")
    };
    assert_eq!(
        (found.method.as_str(), shown(&found.host).as_str()),
        (method, host),
        "{head:?}"
    );
    assert_eq!(found.is_complete, head.ends_with("\r\n\r\n"));
}

#[test]
fn the_host_of_a_request() {
    check(
        "GET / HTTP/1.1\r\nHost: Proxy.Golang.org\r\n\r\n",
        "GET",
        "proxy.golang.org",
    );
    check(
        "GET / HTTP/1.1\r\nUser-Agent: a\r\nhost:a.example:8080 \r\n\r\n",
        "GET",
        "a.example:8080",
    );
    check("\r\nGET / HTTP/1.1\nHost: a\n\r\n\r\n", "GET", "a");
    check(
        "CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n",
        "CONNECT",
        "a.example:443",
    );
    check(
        "CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n",
        "CONNECT",
        "<2001:db8::1>:443",
    );
    check(
        "GET http://u:p@a.example:3128/x?y://z HTTP/1.0\r\nHost: proxy\r\n\r\n",
        "GET",
        "a.example:3128",
    );
    check(
        "GET /redirect?to=http://b.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET",
        "a",
    );
    check("GET / HTTP/1.1\r\nHost: 192.0.2.7\r\n\r\n", "GET", "<192.0.2.7>");
    check("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", "OPTIONS", "absent");
    check("M-SEARCH * HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "M-SEARCH", "a");
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET", "invalid");
    for bad in ["a b", "a:99999", "a:8x", "[::1", "user@a", "-", "a/b", "\u{e9}"] {
        check(&format!("GET / HTTP/1.1\r\nHost: {bad}\r\n\r\n"), "GET", "invalid");
    }
}

#[test]
fn a_head_that_is_cut_gives_its_whole_lines() {
    check("GET / HTTP/1.1\r\nHost: a.exam", "GET", "absent");
    check("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: ", "GET", "a.example");
    let long = format!(
        "GET / HTTP/1.1\r\nCookie: {}\r\nHost: a\r\n\r\n",
        "x".repeat(HTTP_LIMIT)
    );
    let Parsed::Head(head) = request_head(long.as_bytes()) else {
        panic!("it begins as a head")
    };
    assert_eq!((head.host, head.is_complete), (HostClaim::Absent, false));
}

#[test]
fn what_is_no_request() {
    for bad in [
        "PRI * HTTP/2.0\r\n\r\n",
        "GET /\r\n",
        "GET  HTTP/1.1\r\n",
        "GET / HTTP/1.1 x\r\n",
        "GE\u{1}T / HTTP/1.1\r\n",
        "\u{1}",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    ] {
        assert_eq!(request_head(bad.as_bytes()), Parsed::Malformed, "{bad:?}");
    }
    for start in ["", "GET", "GET /a/long/path/without/any/end"] {
        assert_eq!(request_head(start.as_bytes()), Parsed::Incomplete, "{start:?}");
    }
}

#[test]
fn the_first_status_that_is_not_interim() {
    for (bytes, expected) in [
        ("HTTP/1.1 200 OK\r\n", Parsed::Head(200)),
        ("HTTP/1.0 404\r\n", Parsed::Head(404)),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n",
            Parsed::Head(201),
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 500 \r\n",
            Parsed::Head(500),
        ),
        ("HTTP/1.1 101 Switching Protocols\r\n", Parsed::Head(101)),
        ("HTTP/1.1 100 Continue\r\n\r\n", Parsed::Incomplete),
        ("HTTP/1.1 20", Parsed::Incomplete),
        ("", Parsed::Incomplete),
        ("HTTP/1.1 2000 OK\r\n", Parsed::Malformed),
        ("HTTP/1.1 099 OK\r\n", Parsed::Malformed),
        ("HTTP/2 200\r\n", Parsed::Malformed),
        ("SSH-2.0", Parsed::Malformed),
    ] {
        assert_eq!(status(bytes.as_bytes()), expected, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn more_bytes_never_make_a_head_of_what_is_none(text in "(GET|CONNECT|\r\n|HTTP/1.1| |/|a|:|Host: |\u{1}|[ -~]){0,40}", cut in any::<prop::sample::Index>()) {
        let bytes = text.as_bytes();
        let start = &bytes[..cut.index(bytes.len() + 1)];
        if request_head(start) == Parsed::Malformed {
            prop_assert_eq!(request_head(bytes), Parsed::Malformed);
        }
        if status(start) == Parsed::Malformed {
            prop_assert_eq!(status(bytes), Parsed::Malformed);
        }
    }
}
