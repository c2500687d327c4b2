//! Pods of a real container runtime that start, talk for two seconds and end, round after round: every connection carries
//! the right pod, container, namespace and workload, the very first too.
//!
//! Truth: which address the runtime gave to which pod, and the server's own log of who connected from where.

use std::collections::{HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::container::{self, Image};
use crate::cri::{Containerd, Pod};
use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::verdict::Verdict;

const PODS: usize = 20;
const ROUNDS: usize = 50;
const SHORT_ROUNDS: usize = 1;
const PORT: u16 = 7001;
/// The bridge's own address.
const SERVER: &str = "10.89.0.1";
/// Connections of each pod: the first as its very first act, the others over two seconds.
const TALKS: usize = 8;

/// Who connected, by the client's address.
type Log = Arc<Mutex<Vec<SocketAddr>>>;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    // Ends after all that is started from it.
    let image = match Image::unpack(lab) {
        Ok(image) => {
            lab.stand_in(image.privileged()?);
            Some(image)
        }
        Err(reason) => {
            verdict.skip("hopline in a privileged container", format!("{reason:#}"));
            None
        }
    };
    let mut containerd = Containerd::start(lab, &lab.traffic)?;
    let config = lab.file("pods.yaml");
    std::fs::write(
        &config,
        format!(
            "kubernetes:\n  api: off\n  cri_socket: {}\n",
            containerd.socket.display()
        ),
    )?;
    let options = AgentOptions {
        config: Some(&config),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    if image.is_some() {
        let (bounds, _) = container::held(agent.process())?;
        let own = container::own_capabilities()?;
        verdict.count(
            "capabilities of the agent's container (/proc)",
            bounds.count_ones().into(),
            own.count_ones().into(),
        );
    }
    let trace = Trace::start_configured(lab, "pods", lab.traffic.path(), Some(&config))?;
    let log = serve(&containerd)?;

    let rounds = if lab.short { SHORT_ROUNDS } else { ROUNDS };
    // By the client's address and port, which may come again in a later round: in their order.
    let mut truth: HashMap<SocketAddr, Vec<Pod>> = HashMap::new();
    let mut total = 0;
    let mut counts: HashMap<(String, String), u64> = HashMap::new();
    for round in 0..rounds {
        let mut pods: Vec<Pod> = (0..PODS).map(|number| pod(round, number)).collect();
        let talks = format!(
            "i=0; while [ $i -lt {TALKS} ]; do echo x | /bin/busybox nc {SERVER} {PORT}; i=$((i+1)); /bin/busybox sleep 0.25; done"
        );
        for pod in &mut pods {
            containerd.start_pod(pod, &talks)?;
        }
        thread::sleep(Duration::from_millis(2_500));
        for pod in &pods {
            containerd.remove_pod(pod)?;
        }
        let connected = std::mem::take(&mut *log.lock().expect("no thread panics with it"));
        let by_address: HashMap<&str, &Pod> = pods.iter().map(|pod| (pod.address.as_str(), pod)).collect();
        for peer in connected {
            let pod = by_address.get(peer.ip().to_string().as_str());
            let pod = pod.with_context(|| format!("{peer} is no pod of round {round}"))?;
            truth.entry(peer).or_default().push((*pod).clone());
            *counts.entry((pod.namespace.clone(), pod.workload.clone())).or_default() += 1;
            total += 1;
        }
    }
    verdict.at_least(
        "connections that the server saw",
        f64::from(total),
        (rounds * PODS * TALKS / 2) as f64,
        "",
    );
    let metrics = agent.scrape_drained()?;
    super::compare_losses(verdict, &metrics);
    let expired = metrics.sum("hopline_kubernetes_held_total", &[("outcome", "expired")]);
    verdict.count("events that waited in vain", expired, 0);
    verdict.fold(|verdict| {
        for ((namespace, workload), count) in &counts {
            let labels = [
                ("source_namespace", namespace.as_str()),
                ("source_workload", workload.as_str()),
                ("role", "client"),
            ];
            let counted = metrics.sum("hopline_tcp_connections_total", &labels);
            verdict.count(format!("connections of {namespace}/{workload}"), counted, *count);
        }
    });
    trace.wait_for(total as usize)?;
    compare(&trace.finish()?, &truth, total, verdict);
    agent.stop()
}

fn compare(records: &[Record], truth: &HashMap<SocketAddr, Vec<Pod>>, total: u32, verdict: &mut Verdict) {
    let ended: Vec<&Record> = records
        .iter()
        .filter(|record| record.event == "finished" && record.is_client())
        .collect();
    verdict.count("connections", ended.len() as u64, u64::from(total));
    let mut seen: HashMap<SocketAddr, usize> = HashMap::new();
    let (mut right, mut firsts) = (0, 0);
    let mut met: HashSet<&str> = HashSet::new();
    verdict.fold(|verdict| {
        for record in &ended {
            let local: SocketAddr = record.local.into();
            let nth = seen.entry(local).or_default();
            let pod = truth.get(&local).and_then(|pods| pods.get(*nth));
            *nth += 1;
            let said = names(record);
            let Some(pod) = pod else {
                verdict.text(format!("{local}"), said, "no such connection");
                continue;
            };
            let expected = format!(
                "{} / {} / {} / {}",
                pod.namespace, pod.name, pod.container, pod.workload
            );
            let is_first = met.insert(&pod.uid);
            right += u64::from(said == expected);
            firsts += u64::from(is_first && said == expected);
            verdict.text(format!("{local}"), said, expected);
        }
    });
    verdict.count("connections with all names right", right, u64::from(total));
    let pods: HashSet<&str> = truth.values().flatten().map(|pod| pod.uid.as_str()).collect();
    verdict.count("very first connections of pods among them", firsts, pods.len() as u64);
}

fn names(record: &Record) -> String {
    let owner = &record.process;
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
    let names = [&owner.namespace, &owner.pod, &owner.container, &owner.workload];
    names.map(word).join(" / ")
}

/// Names and labels as the controllers of Kubernetes give them.
fn pod(round: usize, number: usize) -> Pod {
    let workload = format!("work{number}");
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let hash = "6b8c9d7f5";
    let (name, labels) = match number % 3 {
        0 => (
            format!("{workload}-{hash}-r{round:04}"),
            vec![label("pod-template-hash", hash)],
        ),
        1 => {
            let name = format!("{workload}-{round}");
            let labels = vec![label("statefulset.kubernetes.io/pod-name", &name)];
            (name, labels)
        }
        _ => {
            let labels = vec![label("batch.kubernetes.io/job-name", &workload)];
            (format!("{workload}-j{round:04}"), labels)
        }
    };
    Pod {
        namespace: format!("team{}", number % 4),
        uid: format!("{round:08x}-{number:04x}-4bbb-8ccc-{:012x}", std::process::id()),
        container: format!("main{number}"),
        name,
        workload,
        labels,
        sandbox_id: String::new(),
        container_id: String::new(),
        address: String::new(),
    }
}

/// An echo server beside the bridge that logs who connects; it ends with the lab.
fn serve(containerd: &Containerd) -> Result<Log> {
    let log = Log::default();
    let listener = containerd
        .netns
        .run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
    let of_thread = Arc::clone(&log);
    thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            of_thread.lock().expect("no thread panics with it").push(peer);
            thread::spawn(move || drop(echo(stream)));
        }
    });
    Ok(log)
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 16];
    let read = stream.read(&mut bytes)?;
    stream.write_all(&bytes[..read])
}
