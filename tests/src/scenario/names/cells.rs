//! Single questions about names, each asked by a process in a cgroup of its own: claims that do not fit, answers that
//! nobody asked for, names that were resolved long before, and networks that disagree.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::place::Place;
use super::script::{Destination, Ports, Script, Truth};
use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::traffic::names::resolver::{Entry, FALSE, GHOST, Table, Trick, own_address};
use crate::traffic::names::steps::{How, Speak};

/// A cell: what its process does, and what must come of it.
type Cell = fn(&mut Ports, &[Destination<'_>]) -> Script;

/// Name of the cell and of its cgroup.
pub(super) const ALL: [(&str, Cell); 10] = [
    ("claims", claims),
    ("unresolved", unresolved),
    ("spoofed", spoofed),
    ("ahead", ahead),
    ("renewed", renewed),
    ("hurried", hurried),
    ("staying", staying),
    ("written", written),
    ("afterwards", afterwards),
    ("refreshed", refreshed),
];

/// Connections of each kind in a cell.
const TIMES: usize = 20;
/// Names that are resolved before the first of them is used.
const AHEAD: usize = 12;
const DELAY_US: u64 = 2_000;
/// Longer than what a connection may take that waits for a renewed answer.
const REFRESHED_MS: u64 = 500;
/// Longer than the shortest time of an answer, 30 s, and the grace of a process's own names.
const KEPT_MS: u64 = 340_000;
/// Networks that are made until one has the number of an ended one.
const NETWORKS: usize = 20;
/// Between lookups, where a cell is not about haste.
const PACE_MS: u64 = 8;

const GOOD: &str = "good.claims.test";
/// The same.
const SHOUTED: &str = "Good.CLAIMS.test";
const SPREAD: &str = "spread.test";
const OTHER: &str = "other.claims.test";
const SPOOFED: &str = "spoofed.test";
const SPLIT: &str = "split.test";
const NEIGHBOUR: &str = "neighbour.split.test";

/// What the resolver said beside its answers in the cell `spoofed`. Half of its sockets take no stranger's datagram.
pub(super) const IGNORED: [(&str, u64); 3] = [
    ("unsolicited", 2 * TIMES as u64),
    ("other_question", TIMES as u64),
    ("wrong_server", TIMES as u64 / 2),
];

fn to(name: &str, address: [u8; 4]) -> Destination<'_> {
    Destination {
        name,
        address: Ipv4Addr::from(address).into(),
        delay_us: DELAY_US,
    }
}

/// Lines of the cells' own names.
pub(super) fn table() -> Table {
    let [one, another] = hasty();
    let plain = [good(), other(), one, another].map(|to| (to, None));
    let spoofed = [(to(SPOOFED, [127, 0, 3, 1]), Some(Trick::Spoofed))];
    let mut table = lines(plain.into_iter().chain(spoofed));
    let spread = Entry {
        trick: Some(Trick::Spread),
        ..Entry::default()
    };
    table.insert(format!("*.{SPREAD}"), spread);
    table
}

fn lines<'a>(destinations: impl IntoIterator<Item = (Destination<'a>, Option<Trick>)>) -> Table {
    let line = |(to, trick): (Destination<'_>, Option<Trick>)| {
        let entry = Entry {
            addresses: vec![to.address],
            delay_us: to.delay_us,
            trick,
            ..Entry::default()
        };
        (to.name.to_owned(), entry)
    };
    destinations.into_iter().map(line).collect()
}

fn good() -> Destination<'static> {
    to(GOOD, [127, 0, 2, 1])
}

fn other() -> Destination<'static> {
    to(OTHER, [127, 0, 2, 2])
}

/// Two names of one address, answered at once.
fn hasty() -> [Destination<'static>; 2] {
    ["one.hasty.test", "another.hasty.test"].map(|name| Destination {
        delay_us: 0,
        ..to(name, [127, 0, 8, 1])
    })
}

/// A client may say any name: it is told, and only the address that it was resolved to agrees with it.
fn claims(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    let mut script = Script::default();
    for _ in 0..TIMES {
        for (cell, speak) in [
            ("true claims", Speak::Tls(GOOD.to_owned())),
            ("true claims", Speak::Http(GOOD.to_owned())),
        ] {
            let lookup = script.resolve(&good(), How::Connected);
            script.connect_to(cell, ports, &good(), speak, Some(lookup));
            script.pause_ms(PACE_MS);
        }
        for speak in [Speak::Tls(GOOD.to_owned()), Speak::Http(GOOD.to_owned())] {
            let lookup = script.resolve(&other(), How::Connected);
            let expected = script.connect("false claims", ports, other().address, speak, None);
            // The lookup was this connection's, whatever it claims.
            expected.lookup = Some(lookup);
            script.pause_ms(PACE_MS);
        }
    }
    script
}

/// Addresses that nobody resolved have no name, and what is said about them stays a claim.
fn unresolved(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    let mut script = Script::default();
    let address = Ipv4Addr::new(127, 0, 4, 1).into();
    for _ in 0..TIMES {
        for speak in [
            Speak::Plain,
            Speak::Tls("said.test".to_owned()),
            Speak::Http("said.test".to_owned()),
        ] {
            script.connect("unresolved", ports, address, speak, None);
        }
    }
    script
}

/// What others answer changes neither the name of the right address nor gives one to theirs.
fn spoofed(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    let spoofed = to(SPOOFED, [127, 0, 3, 1]);
    let mut script = Script::default();
    for time in 0..TIMES {
        let how = [How::Connected, How::Unconnected][time % 2];
        let lookup = script.resolve(&spoofed, how);
        script.connect_to("spoofed", ports, &spoofed, Speak::Plain, Some(lookup));
        for address in [FALSE, GHOST] {
            let address = IpAddr::from(address);
            script.connect("false answers", ports, address, Speak::Plain, None);
            let said = Speak::Tls(SPOOFED.to_owned());
            script.connect("false answers", ports, address, said, None);
        }
        script.pause_ms(PACE_MS);
    }
    script
}

/// Names of one address, all resolved before the first is used: each connection has the lookup of its own name.
fn ahead(ports: &mut Ports, names: &[Destination<'_>]) -> Script {
    let mut script = Script::default();
    let alike: Vec<&Destination<'_>> = names
        .iter()
        .filter(|to| to.address == names[0].address)
        .take(AHEAD)
        .collect();
    let lookups: Vec<_> = alike.iter().map(|to| script.resolve(to, How::Connected)).collect();
    for (to, lookup) in alike.iter().zip(lookups) {
        let speak = Speak::Tls(to.name.to_owned());
        script.connect_to("resolved ahead", ports, to, speak, Some(lookup));
    }
    for to in alike {
        let speak = Speak::Tls(to.name.to_owned());
        script.connect_to("resolved ahead", ports, to, speak, None);
    }
    script
}

/// Two names of an address in turn, each answer renewing the one before the last.
fn turns(cell: &'static str, ports: &mut Ports, names: &[Destination<'_>], pause_ms: u64) -> Script {
    let mut script = Script::default();
    for _ in 0..TIMES {
        for to in names {
            let lookup = script.resolve(to, How::Connected);
            script.connect_to(cell, ports, to, Speak::Plain, Some(lookup));
            script.connect_to(cell, ports, to, Speak::Plain, None);
            script.pause_ms(pause_ms);
        }
    }
    script
}

/// Each answer is a lookup of its own.
fn renewed(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    turns("in turn", ports, &hasty(), PACE_MS)
}

/// The same as fast as it goes: as many answers between two looks of hopline as there can be.
fn hurried(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    turns("in turn, hurried", ports, &hasty(), 0)
}

/// Connections that stay while their process resolves other names to the same address: hopline hears of them late.
fn staying(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    let mut script = Script::default();
    let [one, another] = hasty();
    let lookup = script.resolve(&one, How::Connected);
    script.connect_to("staying", ports, &one, Speak::Plain, Some(lookup));
    script.stay();
    for _ in 0..TIMES {
        let lookup = script.resolve(&another, How::Connected);
        script.connect_to("staying", ports, &another, Speak::Plain, Some(lookup));
        script.pause_ms(PACE_MS);
    }
    script
}

/// One name in many ways of writing, and its address in two.
fn written(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    let mut script = Script::default();
    let shouted = Destination {
        name: SHOUTED,
        ..good()
    };
    for _ in 0..TIMES {
        for speak in [
            Speak::Tls(SHOUTED.to_owned()),
            Speak::Http(SHOUTED.to_owned()),
            Speak::Http(format!("{GOOD}:8443")),
            Speak::Plain,
        ] {
            let lookup = script.resolve(&shouted, How::BothFamilies);
            script.connect_to("written otherwise", ports, &shouted, speak, Some(lookup));
            script.pause_ms(PACE_MS);
        }
        for speak in [Speak::Tls(GOOD.to_owned()), Speak::Plain] {
            let lookup = script.resolve(&good(), How::Connected);
            // As a socket of IPv6 is given it.
            let IpAddr::V4(ip) = good().address else { continue };
            let expected = script.connect("mapped address", ports, ip.to_ipv6_mapped().into(), speak, Some(GOOD));
            expected.lookup = Some(lookup);
            script.pause_ms(PACE_MS);
        }
    }
    script
}

/// A name that is resolved after a connection is not that connection's.
fn afterwards(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    let mut script = Script::default();
    let names: Vec<String> = (0..TIMES).map(|number| format!("n{number}.{SPREAD}")).collect();
    for name in &names {
        let address = own_address(name);
        let to = Destination {
            name,
            address,
            delay_us: 0,
        };
        script.connect("resolved afterwards", ports, address, Speak::Plain, None);
        let lookup = script.resolve(&to, How::Connected);
        script.connect_to("resolved afterwards", ports, &to, Speak::Plain, Some(lookup));
    }
    script
}

/// The resolver of a proxy or a pool asks again and again, whether or not a connection is due: one that is opened between two
/// of its lookups has waited for neither.
fn refreshed(ports: &mut Ports, _: &[Destination<'_>]) -> Script {
    let mut script = Script::default();
    let to = good();
    let mut lookup = Some(script.resolve(&to, How::Connected));
    for _ in 0..TIMES / 2 {
        script.connect_to("resolved in the background", ports, &to, Speak::Plain, lookup.take());
        script.resolve(&to, How::Connected);
        script.pause_ms(REFRESHED_MS);
    }
    script
}

/// Resolves once, and connects when any cache would have forgotten: many programs keep what they resolved at their start.
pub(super) fn kept(ports: &mut Ports) -> Script {
    let mut script = Script::default();
    let to = good();
    let lookup = script.resolve(&to, How::Connected);
    script.connect_to("resolved once", ports, &to, Speak::Plain, Some(lookup));
    // Its answer's time and all grace.
    script.pause_ms(KEPT_MS);
    for _ in 0..TIMES {
        script.connect_to("resolved once", ports, &to, Speak::Plain, None);
    }
    script
}

/// A network whose number was another one's, in which the address had a name.
pub(super) fn reused(lab: &Lab, ports: &mut Ports) -> Result<(Vec<Truth>, bool)> {
    let to = to(SPLIT, [127, 0, 6, 1]);
    let table = lines([(to.clone(), None)]);
    let mut truths = Vec::new();
    let mut run = |name: &str, script: &Script, place: &Place| -> Result<()> {
        let cgroup = lab.traffic.child(name)?;
        truths.extend(script.run(lab, name, place, &cgroup)?);
        Ok(())
    };
    let place = Place::new(lab, "reused-first", &table, &[])?;
    let number = place.netns.number()?;
    let mut own = Script::default();
    let lookup = own.resolve(&to, How::Connected);
    own.connect_to("network's number, own", ports, &to, Speak::Plain, Some(lookup));
    run("reused-own", &own, &place)?;
    let mut neighbour = Script::default();
    let named = "network's number, neighbour's";
    neighbour
        .connect(named, ports, to.address, Speak::Plain, Some(to.name))
        .verified = Some(false);
    run("reused-neighbour", &neighbour, &place)?;
    drop(place);
    // The kernel gives the smallest number that is free, once it has let go of the network.
    let mut spare = Vec::new();
    let mut place = Place::new(lab, "reused-second", &table, &[])?;
    for number_of_try in 0..NETWORKS {
        if place.netns.number()? == number {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        let next = Place::new(lab, &format!("reused-{number_of_try}"), &table, &[])?;
        spare.push(std::mem::replace(&mut place, next));
    }
    let is_reused = place.netns.number()? == number;
    let mut stranger = Script::default();
    for _ in 0..TIMES {
        stranger.connect("network's number, another's", ports, to.address, Speak::Plain, None);
    }
    run("reused-stranger", &stranger, &place)?;
    Ok((truths, is_reused))
}

/// Three networks whose resolvers disagree: one's address of a name is another's address of another.
pub(super) fn split(lab: &Lab, ports: &mut Ports) -> Result<Vec<Truth>> {
    let mut truths = Vec::new();
    for number in 0..3_u8 {
        let names = [
            to(SPLIT, [127, 0, 5, 1 + number]),
            to(NEIGHBOUR, [127, 0, 5, 1 + (number + 1) % 3]),
        ];
        let place = Place::new(
            lab,
            &format!("split-{number}"),
            &lines(names.clone().map(|to| (to, None))),
            &[],
        )?;
        let cgroup = |name: &str| -> Result<Cgroup> { lab.traffic.child(&format!("split-{number}-{name}")) };
        let (first, second) = (cgroup("one")?, cgroup("two")?);

        // Who resolves, another process of its cgroup, and one of another cgroup in the same network.
        let mut own = Script::default();
        for _ in 0..TIMES {
            for to in &names {
                let lookup = own.resolve(to, How::Connected);
                own.connect_to("split, own", ports, to, Speak::Plain, Some(lookup));
            }
        }
        let mut of = |cell| {
            let mut script = Script::default();
            for to in &names {
                let expected = script.connect(cell, ports, to.address, Speak::Plain, Some(to.name));
                // Another process resolved it.
                expected.verified = Some(false);
            }
            script
        };
        let (of_cgroup, of_network) = (of("split, cgroup's"), of("split, network's"));
        for (part, script, cgroup) in [
            ("own", own, &first),
            ("cgroup", of_cgroup, &first),
            ("network", of_network, &second),
        ] {
            truths.extend(script.run(lab, &format!("split-{number}-{part}"), &place, cgroup)?);
        }
    }
    Ok(truths)
}
