//! What goes wrong with an API server: each time the agent says so once, in its log and its metrics, goes on with what it
//! knows, and recovers by itself.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::place::Place;
use crate::hopline::Agent;
use crate::kube_api::Faults;
use crate::kube_api::objects::{Kind, Pod};
use crate::lab::Lab;
use crate::verdict::Verdict;

const FAILURES: &str = "hopline_kubernetes_failures_total";
const MISSING: &str = "names of pods and workloads may be missing";
const AGAIN: &str = "names of pods are known again";

/// One fault.
struct Fault {
    name: &'static str,
    /// The reason that is counted.
    reason: &'static str,
    /// It lasts until it is repaired: what is missing can be seen meanwhile.
    lasts: bool,
    breaks: fn(&Place, &Pod) -> Result<()>,
    repairs: fn(&Place) -> Result<()>,
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "the server is away",
        reason: "unreachable",
        lasts: true,
        breaks: |place, _| {
            place.server.set_faults(Faults {
                is_away: true,
                ..Faults::default()
            });
            place.server.disconnect();
            Ok(())
        },
        repairs: |place| {
            place.server.set_faults(Faults::default());
            Ok(())
        },
    },
    Fault {
        name: "the server is slow",
        reason: "cut",
        lasts: true,
        breaks: |place, _| {
            place.server.set_faults(Faults {
                slow: Duration::from_secs(8),
                ..Faults::default()
            });
            place.server.disconnect();
            Ok(())
        },
        repairs: |place| {
            place.server.set_faults(Faults::default());
            Ok(())
        },
    },
    Fault {
        name: "the token is revoked",
        reason: "unauthorized",
        lasts: true,
        breaks: |place, _| {
            place.change_token("second-token", false)?;
            place.server.disconnect();
            Ok(())
        },
        repairs: |place| place.change_token("second-token", true),
    },
    Fault {
        name: "the server forgets (410 Gone)",
        reason: "gone",
        lasts: false,
        breaks: |place, _| {
            place.server.compact();
            place.server.disconnect();
            Ok(())
        },
        repairs: |_| Ok(()),
    },
    Fault {
        name: "a watch is cut in the middle of a line",
        reason: "cut",
        lasts: false,
        breaks: |place, pod| {
            place.server.set_faults(Faults {
                cuts: 2,
                ..Faults::default()
            });
            place.server.put(&pod.object());
            Ok(())
        },
        repairs: |_| Ok(()),
    },
];

pub(super) fn all(lab: &Lab, place: &mut Place, agent: &Agent, known: &Pod, verdict: &mut Verdict) -> Result<()> {
    // In short one that lasts and those that do not.
    let faults = FAULTS.iter().skip(if lab.short { 2 } else { 0 });
    for (number, fault) in (60..).zip(faults) {
        one(
            lab,
            place,
            agent,
            known,
            (fault, &Pod::new(number, Kind::Deployment)),
            verdict,
        )?;
    }
    Ok(())
}

fn one(
    lab: &Lab,
    place: &mut Place,
    agent: &Agent,
    known: &Pod,
    (fault, new): (&Fault, &Pod),
    verdict: &mut Verdict,
) -> Result<()> {
    let name = fault.name;
    let reason = [("reason", fault.reason)];
    let (missing, again) = (agent.logged(MISSING)?, agent.logged(AGAIN)?);
    let before = agent.scrape()?.sum(FAILURES, &reason);
    (fault.breaks)(place, new)?;
    let (metrics, _) = agent.scrape_until(Duration::from_secs(20), |metrics| {
        metrics.sum(FAILURES, &reason) > before
    })?;
    let failures = metrics.sum(FAILURES, &reason) - before;
    verdict.at_least(format!("{name}: failures counted"), failures as f64, 1.0, "");
    if fault.lasts {
        // Long enough for more attempts.
        thread::sleep(Duration::from_secs(3));
        let metrics = agent.scrape()?;
        verdict.count(
            format!("{name}: hopline_feature_enabled"),
            metrics.value("hopline_feature_enabled", &[("feature", "kubernetes")]) as u64,
            0,
        );
        place.connect(lab, known, "10.88.0.1", 1)?;
        verdict.count(format!("{name}: lines in the log"), agent.logged(MISSING)? - missing, 1);
        verdict.count(format!("{name}: not over yet"), agent.logged(AGAIN)? - again, 0);
        place.server.put(&new.object());
    }
    (fault.repairs)(place)?;
    place.wait_for_watches()?;
    let enabled = [("feature", "kubernetes"), ("hook", "api")];
    let (metrics, _) = agent.scrape_until(Duration::from_secs(30), |metrics| {
        metrics.value("hopline_feature_enabled", &enabled) > 0.0
    })?;
    ensure!(
        metrics.value("hopline_feature_enabled", &enabled) > 0.0,
        "{name}: it does not recover"
    );
    if !fault.lasts {
        place.server.put(&new.object());
        super::place::told();
    }
    place.connect(lab, new, "10.88.0.1", 2)?;
    verdict.count(
        format!("{name}: lines in the log in all"),
        agent.logged(MISSING)? - missing,
        1,
    );
    verdict.count(
        format!("{name}: recovered, in one line"),
        agent.logged(AGAIN)? - again,
        1,
    );
    Ok(())
}
