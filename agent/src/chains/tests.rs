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
        went_on_ns: None,
        is_serial: true,
    }
}

fn proxy(inbound: &[Exchange], outbound: &[Exchange]) -> Chains {
    let mut chains = Chains::default();
    chains.listens(PROXY, 0);
    for (side, exchanges) in [(Side::Outbound, outbound), (Side::Inbound, inbound)] {
        for exchange in exchanges {
            let pid = chains.listener(PROXY + 1, PROXY).expect("its parent listens");
            let now_ns = exchange.closed_ns.or(exchange.answered_ns).unwrap_or_default();
            chains.report(pid, side, exchange.clone(), &Turns::default(), now_ns);
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
    check(
        &[opaque(1, 100, 200)],
        &[opaque(2, 120, 180), pooled.clone()],
        [1, 0, 0],
    );
    let mut chains = proxy(&[opaque(1, 100, 200)], &[opaque(2, 120, 180)]);
    let turns = Turns {
        ended: vec![(110 * MS, 190 * MS)],
        ..Turns::default()
    };
    chains.report(PROXY, Side::Outbound, pooled, &turns, 200 * MS);
    assert_eq!(chains.judge(LATER * MS, false), []);
    // What was asked before any client came is the process's own.
    assert_eq!((chains.counts().ambiguous, chains.counts().unproven), (1, 1));
}

#[test]
fn a_client_that_has_gone_on_may_ask_for_anything() {
    let mut kept = exchange(3, 10, 20, 8);
    (kept.closed_ns, kept.went_on) = (None, true);
    let mut chains = proxy(&[exchange(1, 100, 200, 9)], &[exchange(2, 120, 180, 9)]);
    let turns = Turns {
        ended: vec![(90 * MS, 121 * MS)],
        ..Turns::default()
    };
    chains.report(PROXY, Side::Inbound, kept.clone(), &turns, 200 * MS);
    assert_eq!(chains.judge(LATER * MS, false), []);
    assert_eq!(chains.counts().ambiguous, 1);
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
    chains.report(
        PROXY,
        Side::Inbound,
        exchange(3, 4_000, 4_100, 9),
        &Turns::default(),
        4_101 * MS,
    );
    chains.report(
        PROXY,
        Side::Outbound,
        exchange(4, 4_020, 4_080, 9),
        &Turns::default(),
        4_101 * MS,
    );
    assert_eq!(chains.judge(9_000 * MS, false), []);
    assert_eq!(chains.judge(13_000 * MS, false), []);
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
        chains.report(
            PROXY,
            Side::Inbound,
            exchange(id, 100, 200, id),
            &Turns::default(),
            200 * MS,
        );
    }
    assert_eq!(chains.by_pid[&PROXY].inbound.len(), MOST_OF_PROXY);
    chains.report(
        PROXY,
        Side::Inbound,
        exchange(9_998, 100, 200, 9),
        &Turns::default(),
        200 * MS,
    );
    assert_eq!(chains.judge(LATER * MS, false), []);
    assert_eq!(chains.counts().ambiguous, 1);
}

/// A connection that is kept: its first exchange at 10 ms, and later ones; reported each second.
fn kept(chains: &mut Chains, side: Side, id: u64, turns: &[(u64, u64)]) {
    let mut exchange = exchange(id, 10, 20, 0);
    exchange.closed_ns = None;
    let turns = Turns {
        ended: turns.iter().map(|(begun, ended)| (begun * MS, ended * MS)).collect(),
        ..Turns::default()
    };
    exchange.went_on = !turns.ended.is_empty();
    chains.report(PROXY, side, exchange, &turns, 1_000 * MS);
}

/// Linked, ambiguous, unproven: of a client's exchanges, and of those with an upstream.
fn check_kept(inbound: &[&[(u64, u64)]], outbound: &[&[(u64, u64)]], expected: [u64; 3]) -> Vec<Link> {
    let mut chains = Chains::default();
    chains.listens(PROXY, 0);
    for (at, turns) in (0..).zip(inbound) {
        kept(&mut chains, Side::Inbound, 1 + 2 * at, turns);
    }
    for (at, turns) in (0..).zip(outbound) {
        kept(&mut chains, Side::Outbound, 101 + 2 * at, turns);
    }
    // Their first exchanges took as long as each other: in doubt, all of them.
    let links = chains.judge(LATER * MS, false);
    let counts = chains.counts();
    assert_eq!([counts.linked, counts.ambiguous, counts.unproven], expected);
    links
}

#[test]
fn later_exchanges_are_linked_where_nothing_else_was_under_way() {
    let client: &[(u64, u64)] = &[(100, 200), (300, 400)];
    let upstream: &[(u64, u64)] = &[(120, 180), (320, 395)];
    // The first exchanges are the same in time: linked as well.
    let links = check_kept(&[client], &[upstream], [3, 0, 0]);
    let later = links.iter().find(|link| link.client_proxy_ns == 100 * MS);
    let later = later.expect("a later one");
    assert_eq!((later.inbound, later.outbound), ((1, 1), (101, 1)));
    assert_eq!((later.proxy_ns, later.proxy_upstream_ns), (40 * MS, 60 * MS));
    // Another client waits meanwhile: two begin before, and one of them before the second as well.
    check_kept(&[client, &[(110, 130)]], &[upstream], [1, 2, 0]);
    // Another upstream is asked meanwhile.
    check_kept(&[client], &[upstream, &[(190, 195)]], [1, 4, 0]);
    // The upstream's answer comes after the client's.
    check_kept(&[client], &[&[(120, 220)]], [1, 0, 1]);
}

/// A request on a kept connection.
#[derive(Debug)]
struct Asked {
    client: u64,
    begun_ms: u64,
    answered_ms: u64,
    /// Which connection to the upstream, from when to when; `None`: answered without one.
    upstream: Option<(u64, u64, u64)>,
}

/// Clients ask one after the other, at any time; each request gets a connection to the upstream that is idle then.
fn through_a_pool(requests: &[(u64, u64, u64, u64, u64, bool)]) -> Vec<Asked> {
    let mut free_ms: BTreeMap<u64, u64> = BTreeMap::new();
    let mut all = Vec::new();
    for (client, pause, before, took, after, is_cached) in requests {
        let begun_ms = free_ms.get(client).copied().unwrap_or(10) + pause;
        let (out_ms, in_ms) = (begun_ms + before, begun_ms + before + took);
        free_ms.insert(*client, in_ms + after);
        all.push(Asked {
            client: *client,
            begun_ms,
            answered_ms: in_ms + after,
            upstream: (!is_cached).then_some((0, out_ms, in_ms)),
        });
    }
    all.sort_by_key(|asked| asked.upstream.map(|(_, out_ms, _)| out_ms));
    let mut pool: Vec<u64> = Vec::new();
    for (connection, out_ms, in_ms) in all.iter_mut().filter_map(|asked| asked.upstream.as_mut()) {
        let idle = pool.iter().position(|busy_ms| *busy_ms < *out_ms);
        let at = idle.unwrap_or(pool.len());
        if at == pool.len() {
            pool.push(0);
        }
        pool[at] = *in_ms;
        *connection = 100 + at as u64;
    }
    all
}

/// Tells of a connection at its end: its first exchange, and those after it.
fn tell(chains: &mut Chains, side: Side, id: u64, mut times_ms: Vec<(u64, u64)>) {
    times_ms.sort_unstable();
    let Some((begun_ms, answered_ms)) = times_ms.first().copied() else {
        return;
    };
    let ended: Vec<_> = times_ms[1..]
        .iter()
        .map(|(begun, ended)| (begun * MS, ended * MS))
        .collect();
    let exchange = Exchange {
        went_on: !ended.is_empty(),
        closed_ns: None,
        ..exchange(id, begun_ms, answered_ms, 0)
    };
    let turns = Turns {
        ended,
        ..Turns::default()
    };
    chains.report(PROXY, side, exchange, &turns, 20_000 * MS);
}

proptest! {
    /// Kept connections of some clients through a pool: whatever is linked is a client's exchange and the one that served it.
    #[test]
    fn no_link_of_kept_connections_is_wrong(
        requests in proptest::collection::vec((1_u64..4, 0_u64..60, 1_u64..9, 1_u64..40, 1_u64..9, any::<bool>()), 1..30),
    ) {
        let all = through_a_pool(&requests);
        let mut chains = Chains::default();
        chains.listens(PROXY, 0);
        for id in 100..104 {
            let of_upstream = all.iter().filter_map(|asked| asked.upstream).filter(|(upstream, ..)| *upstream == id);
            tell(&mut chains, Side::Outbound, id, of_upstream.map(|(_, out_ms, in_ms)| (out_ms, in_ms)).collect());
        }
        for id in 1..4 {
            let of_client = all.iter().filter(|asked| asked.client == id);
            tell(&mut chains, Side::Inbound, id, of_client.map(|asked| (asked.begun_ms, asked.answered_ms)).collect());
        }
        let links = chains.judge(LATER * MS, false);
        for link in &links {
            let is_it = |asked: &Asked| {
                let times = asked.upstream.map(|(id, out_ms, in_ms)| (id, (in_ms - out_ms) * MS));
                asked.client == link.inbound.0
                    && (asked.answered_ms - asked.begun_ms) * MS == link.client_proxy_ns
                    && times == Some((link.outbound.0, link.proxy_upstream_ns))
            };
            prop_assert!(all.iter().any(is_it), "{link:?} {all:?}");
        }
        // One client alone is linked every time.
        let is_alone = all.iter().all(|asked| asked.client == all[0].client);
        let asked = all.iter().filter(|asked| asked.upstream.is_some()).count();
        prop_assert!(!is_alone || links.len() == asked, "{links:?} {all:?}");
    }

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
