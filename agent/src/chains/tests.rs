//! What is linked, and what is not. Times are in milliseconds.
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const PROXY: u32 = 7;
const LATER: u64 = 60_000;

fn exchange(id: u64, begun_ms: u64, answered_ms: u64, request: u64) -> Exchange {
    Exchange {
        id: (id, 1),
        opened_ns: begun_ms * MS,
        begun_ns: Some(begun_ms * MS),
        answered_ns: Some(answered_ms * MS),
        closed_ns: Some((answered_ms + 1) * MS),
        request: (request != 0).then_some(request),
        host: Some("a.test".into()),
        went_on: false,
    }
}

fn proxy(inbound: &[Exchange], outbound: &[Exchange]) -> Chains {
    let mut chains = Chains::default();
    chains.listens(PROXY, 0);
    for (side, exchanges) in [(Side::Outbound, outbound), (Side::Inbound, inbound)] {
        for exchange in exchanges {
            let pid = chains.listener(PROXY + 1, PROXY).expect("its parent listens");
            let now_ns = exchange.closed_ns.or(exchange.answered_ns).unwrap_or_default();
            chains.report(pid, side, exchange.clone(), now_ns);
        }
    }
    chains
}

/// Linked, ambiguous, unproven.
fn check(inbound: &[Exchange], outbound: &[Exchange], expected: [u64; 3]) -> Vec<Link> {
    let mut chains = proxy(inbound, outbound);
    let links = chains.judge(LATER * MS, false);
    let counts = chains.counts();
    assert_eq!([counts.linked, counts.ambiguous, counts.unproven], expected);
    links
}

#[test]
fn one_request_and_one_upstream() {
    let links = check(&[exchange(1, 100, 200, 9)], &[exchange(2, 120, 180, 9)], [1, 0, 0]);
    let link = links[0];
    assert_eq!((link.inbound, link.outbound), ((1, 1), (2, 1)));
    let times = [link.client_proxy_ns, link.proxy_ns, link.proxy_upstream_ns];
    assert_eq!(times, [100, 40, 60].map(|ms| ms * MS));
    // Not before everybody who was under way is known.
    let mut chains = proxy(&[exchange(1, 100, 200, 9)], &[exchange(2, 120, 180, 9)]);
    assert_eq!(chains.judge(2_199 * MS, false), []);
    assert_eq!(chains.judge(2_200 * MS, false).len(), 1);
    assert_eq!(chains.judge(2_300 * MS, false), [], "once");
}

#[test]
fn requests_tell_parallel_clients_apart() {
    let inbound: Vec<_> = (0..50).map(|at| exchange(at + 1, 100, 300, at + 1)).collect();
    let outbound: Vec<_> = (0..50).map(|at| exchange(at + 101, 120, 280, at + 1)).collect();
    for link in check(&inbound, &outbound, [50, 0, 0]) {
        assert_eq!(link.inbound.0 + 100, link.outbound.0);
    }
    // Without them nobody can say.
    let inbound: Vec<_> = (0..50).map(|at| exchange(at + 1, 100, 300, 9)).collect();
    let outbound: Vec<_> = (0..50).map(|at| exchange(at + 101, 120, 280, 9)).collect();
    check(&inbound, &outbound, [0, 50, 0]);
}

#[test]
fn what_does_not_lie_within_is_no_leg() {
    // The client was answered before the upstream was.
    check(&[exchange(1, 100, 150, 9)], &[exchange(2, 120, 180, 9)], [0, 0, 1]);
    // Nobody waited: the process's own connection.
    check(&[exchange(1, 100, 110, 9)], &[exchange(2, 120, 180, 9)], [0, 0, 0]);
    check(&[], &[exchange(2, 120, 180, 9)], [0, 0, 0]);
    // Another request.
    check(&[exchange(1, 100, 200, 8)], &[exchange(2, 120, 180, 9)], [0, 0, 1]);
    // An upstream that never answered.
    let mut silent = exchange(2, 120, 180, 9);
    silent.answered_ns = None;
    check(&[exchange(1, 100, 200, 9)], &[silent.clone()], [0, 0, 0]);
    // The second try is the leg.
    let again = exchange(3, 150, 190, 9);
    let links = check(&[exchange(1, 100, 200, 9)], &[silent, again], [1, 0, 0]);
    assert_eq!(links[0].outbound, (3, 1));
}

#[test]
fn hosts_prove_it_only_where_nothing_else_was_under_way() {
    let opaque = |id, begun, answered| exchange(id, begun, answered, 0);
    check(&[opaque(1, 100, 200)], &[opaque(2, 120, 180)], [1, 0, 0]);
    let other = Exchange {
        host: Some("b.test".into()),
        ..opaque(2, 120, 180)
    };
    check(&[opaque(1, 100, 200)], &[other], [0, 0, 1]);
    check(
        &[opaque(1, 100, 200), opaque(3, 90, 210)],
        &[opaque(2, 120, 180)],
        [0, 1, 0],
    );
    // A connection of before may have served the client.
    let mut pooled = opaque(3, 50, 60);
    pooled.closed_ns = None;
    check(&[opaque(1, 100, 200)], &[opaque(2, 120, 180), pooled], [0, 0, 1]);
}

#[test]
fn a_client_that_has_gone_on_may_ask_for_anything() {
    let mut kept = exchange(3, 10, 20, 8);
    (kept.closed_ns, kept.went_on) = (None, true);
    check(
        &[exchange(1, 100, 200, 9), kept.clone()],
        &[exchange(2, 120, 180, 9)],
        [0, 1, 0],
    );
    kept.went_on = false;
    check(
        &[exchange(1, 100, 200, 9), kept],
        &[exchange(2, 120, 180, 9)],
        [1, 0, 0],
    );
}

#[test]
fn health_checks_prove_nothing() {
    let mut chains = proxy(&[], &[exchange(2, 120, 180, 9)]);
    assert_eq!(chains.judge(3_000 * MS, false), []);
    chains.report(PROXY, Side::Inbound, exchange(3, 4_000, 4_100, 9), 4_101 * MS);
    chains.report(PROXY, Side::Outbound, exchange(4, 4_020, 4_080, 9), 4_101 * MS);
    assert_eq!(chains.judge(9_000 * MS, false), []);
    assert_eq!(chains.counts().unproven, 1);
}

#[test]
fn tables_are_bounded_and_what_was_forgotten_links_nothing() {
    let mut chains = Chains::default();
    for pid in 1..=2 * MOST_PROCESSES as u32 {
        chains.listens(pid, pid.into());
    }
    assert_eq!(chains.by_pid.len(), MOST_PROCESSES);
    let mut chains = proxy(&[], &[exchange(9_999, 120, 180, 9)]);
    for id in 1..5_000 {
        chains.report(PROXY, Side::Inbound, exchange(id, 100, 200, id), 200 * MS);
    }
    assert_eq!(chains.by_pid[&PROXY].inbound.len(), MOST_OF_PROXY);
    chains.report(PROXY, Side::Inbound, exchange(9_998, 100, 200, 9), 200 * MS);
    assert_eq!(chains.judge(LATER * MS, false), []);
    assert_eq!(chains.counts().ambiguous, 1);
}

proptest! {
    /// Random traffic through a proxy whose truth is known: whatever is linked is right.
    #[test]
    fn no_link_is_wrong(
        requests in proptest::collection::vec((0_u64..400, 1_u64..100, 1_u64..100, 0_u64..4, any::<bool>()), 1..40),
    ) {
        let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
        for (at, (begun, before, took, request, pooled)) in (1_u64..).zip(&requests) {
            let mut client = exchange(at, *begun, begun + before + took + 1, *request);
            if *pooled {
                // Served by a connection that is none of these; it stays, and asks again.
                (client.closed_ns, client.went_on) = (None, true);
            } else {
                outbound.push(exchange(at + 1_000, begun + before, begun + before + took, *request));
            }
            inbound.push(client);
        }
        let mut chains = proxy(&inbound, &outbound);
        for link in chains.judge(LATER * MS, true) {
            prop_assert_eq!(link.inbound.0 + 1_000, link.outbound.0);
        }
    }
}
