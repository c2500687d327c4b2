//! Names of pods from an API server that is away, slow, forgetful, refuses, breaks off, tells late, and tells of 5 000 pods:
//! each connection has the names of the lab's own table, and the agent says what is missing and recovers by itself.

mod faults;
mod place;

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::hopline::{Agent, AgentOptions, Trace};
use crate::kube_api::Faults;
use crate::kube_api::objects::{Kind, Pod};
use crate::lab::Lab;
use crate::process;
use crate::verdict::Verdict;
use place::{Place, told};

/// A node with more pods than Kubernetes allows.
const MANY: usize = 5_000;
const SHORT_MANY: usize = 500;
/// Who is told later than this has waited in vain.
const HOLD: Duration = Duration::from_secs(3);

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let mut place = Place::new(lab)?;
    let known: Vec<Pod> = (1..)
        .zip(Kind::ALL)
        .map(|(number, kind)| Pod::new(number, kind))
        .collect();
    for pod in &known {
        place.server.put(&pod.object());
    }
    let options = AgentOptions {
        config: Some(&place.config),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let trace = Trace::start_configured(lab, "kube-api", lab.traffic.path(), Some(&place.config))?;
    place.wait_for_watches()?;
    wait_for_pods(lab, &agent, known.len())?;

    for pod in &known {
        place.connect(lab, pod, "10.88.0.1", 3)?;
    }
    late(lab, &mut place)?;
    never(lab, &mut place, &agent, verdict)?;
    addresses(lab, &mut place)?;
    faults::all(lab, &mut place, &agent, &known[0], verdict)?;
    many(lab, &mut place, &agent, verdict)?;

    place.compare_verbs(verdict);
    let metrics = agent.scrape_drained()?;
    super::compare_losses(verdict, &metrics);
    let named = metrics.sum("hopline_kubernetes_held_total", &[("outcome", "named")]);
    verdict.at_least("events held until their pod was told", named as f64, 1.0, "");
    place.compare_metrics(&metrics, verdict);
    trace.wait_for(place.expected())?;
    place.compare(&trace.finish()?, verdict);
    agent.stop()
}

/// Pods that connect before anybody has told of them.
fn late(lab: &Lab, place: &mut Place) -> Result<()> {
    place.server.set_faults(Faults {
        late: Duration::from_millis(1_500),
        ..Faults::default()
    });
    for number in 20..26 {
        let pod = Pod::new(number, Kind::ALL[number % Kind::ALL.len()]);
        place.server.put(&pod.object());
        place.connect(lab, &pod, "10.88.0.1", 2)?;
    }
    place.server.set_faults(Faults::default());
    thread::sleep(Duration::from_millis(1_700));
    Ok(())
}

/// A pod that is told of too late: what ended before has no name, what is open gets it.
fn never(lab: &Lab, place: &mut Place, agent: &Agent, verdict: &mut Verdict) -> Result<()> {
    let pod = Pod::new(30, Kind::Deployment);
    place.connect_nameless(lab, &pod, "10.88.0.1", 2)?;
    let open = place.hold(lab, &pod, "10.88.0.1")?;
    thread::sleep(HOLD + Duration::from_secs(1));
    let active = [("source_workload", pod.workload.as_str()), ("state", "established")];
    let metrics = agent.scrape()?;
    verdict.count(
        "open connections of a pod before it is told of",
        metrics.sum("hopline_tcp_connections_active", &active),
        0,
    );
    place.server.put(&pod.object());
    let (metrics, _) = agent.scrape_until(Duration::from_secs(5), |metrics| {
        metrics.sum("hopline_tcp_connections_active", &active) > 0
    })?;
    verdict.count("and after", metrics.sum("hopline_tcp_connections_active", &active), 1);
    drop(open.finish()?);
    Ok(())
}

/// A pod changes its address, another one takes it, then nobody has it.
fn addresses(lab: &Lab, place: &mut Place) -> Result<()> {
    let client = Pod::new(40, Kind::StatefulSet);
    let (first, second) = (Pod::new(41, Kind::Alone), Pod::new(42, Kind::Deployment));
    place.server.put(&client.object());
    place.server.put(&first.clone().at("10.88.0.5").object());
    told();
    place.connect_to(lab, &client, ("10.88.0.5", &first), 2)?;
    let across = place.hold_to(lab, &client, ("10.88.0.5", &first))?;
    // The second begins in a later second than the connections of the first: times of pods are no finer.
    thread::sleep(Duration::from_millis(2_100));
    place.server.put(&first.clone().at("10.88.0.6").object());
    place.server.put(&second.clone().at("10.88.0.5").object());
    told();
    place.connect_to(lab, &client, ("10.88.0.5", &second), 2)?;
    place.connect_to(lab, &client, ("10.88.0.6", &first), 2)?;
    drop(across.finish()?);
    place.server.delete(&second.uid);
    told();
    place.connect(lab, &client, "10.88.0.5", 2)?;
    Ok(())
}

/// A node full of pods, told one by one and as a list.
fn many(lab: &Lab, place: &mut Place, agent: &Agent, verdict: &mut Verdict) -> Result<()> {
    let before = agent.scrape()?.sum("hopline_kubernetes_pods", &[]) as usize;
    let pod = |number: usize| Pod::new(1_000 + number, Kind::ALL[number % Kind::ALL.len()]);
    let many = if lab.short { SHORT_MANY } else { MANY };
    place.server.put_all((0..many).map(|number| pod(number).object()));
    wait_for_pods(lab, agent, before + many)?;
    verdict.note(
        format!("memory with {many} pods told one by one"),
        agent.memory_mib()?.0,
        "MiB",
    );
    place.server.compact();
    place.server.disconnect();
    place.wait_for_watches()?;
    wait_for_pods(lab, agent, before + many)?;
    let (now, peak) = agent.memory_mib()?;
    verdict.note(format!("memory with {many} pods listed"), now, "MiB");
    verdict.at_most("peak of memory", peak, 120.0, "MiB");
    for number in [0, many / 2, many - 1] {
        place.connect(lab, &pod(number), "10.88.0.1", 2)?;
    }
    Ok(())
}

fn wait_for_pods(lab: &Lab, agent: &Agent, count: usize) -> Result<()> {
    let mut seen = 0;
    let all = process::poll(Duration::from_secs(30) * lab.patience(), || {
        seen = agent.scrape()?.value("hopline_kubernetes_pods", &[]) as usize;
        Ok(seen >= count)
    })?;
    ensure!(all, "the agent knows {seen} pods, not {count}");
    Ok(())
}
