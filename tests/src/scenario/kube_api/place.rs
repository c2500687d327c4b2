//! Where the pods of this scenario live: cgroups with the kubelet's names, one network namespace, the API server; and the
//! table of who connected to whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::certificates::Certificates;
use crate::cgroup::Cgroup;
use crate::hopline::{Metrics, Record};
use crate::kube_api::ApiServer;
use crate::kube_api::objects::{ANNOTATION, NODE, Pod};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{self, Process};
use crate::traffic::connect::{Attempt, attempts};
use crate::verdict::Verdict;

const PORT: u16 = 7001;
const TOKEN: &str = "first-token";
/// The agent and the trace.
const WATCHERS: usize = 2;
/// A variable that records carry.
const VARIABLE: &str = "LAB_JOB_ID";
const RBAC: &str = include_str!("../../../../deploy/kubernetes/base/rbac.yaml");

/// What hopline must say of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    names: String,
    destination: String,
}

pub(super) struct Place {
    /// Ends before its namespace.
    _echo: Process,
    netns: NetNs,
    pub(super) server: ApiServer,
    pub(super) config: PathBuf,
    token: PathBuf,
    /// Removed before those above them.
    containers: HashMap<String, Cgroup>,
    pods: Cgroup,
    /// By the client's port.
    expected: BTreeMap<u16, Expected>,
    /// Named connections of each workload, for the metrics.
    counts: BTreeMap<(String, String), u64>,
}

impl Place {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let netns = NetNs::new()?;
        for last in 1..8 {
            netns.ip(&format!("addr add 10.88.0.{last}/32 dev lo"))?;
        }
        let mut echo = lab.helper(&["serve", &format!("0.0.0.0:{PORT}/echo")], &netns, &lab.tools)?;
        echo.wait_for("ready")?;
        let certificates = Certificates::make(lab)?;
        let server = ApiServer::start(&certificates, TOKEN)?;
        let (kubeconfig, token) = (lab.file("kubeconfig"), lab.file("token"));
        fs::write(&token, TOKEN)?;
        server.write_kubeconfig(&certificates, &kubeconfig, &token)?;
        let config = lab.file("kubernetes.yaml");
        let text = format!(
            "kubernetes:\n  kubeconfig: {}\n  cri_socket: off\n  node_name: {NODE}\n  annotations: [\"{ANNOTATION}\"]\n\
             environment: [{VARIABLE}]\n",
            kubeconfig.display()
        );
        fs::write(&config, text)?;
        Ok(Self {
            _echo: echo,
            netns,
            server,
            config,
            token,
            containers: HashMap::new(),
            pods: lab.traffic.child("kubepods")?,
            expected: BTreeMap::new(),
            counts: BTreeMap::new(),
        })
    }

    /// Everybody watches.
    pub(super) fn wait_for_watches(&self) -> Result<()> {
        let all = process::poll(Duration::from_mins(1), || Ok(self.server.watches() >= WATCHERS))?;
        ensure!(all, "{} of {WATCHERS} watch", self.server.watches());
        told();
        Ok(())
    }

    /// Another token is good from now on; the agents find it in their file when `tell`.
    pub(super) fn change_token(&self, token: &str, tell: bool) -> Result<()> {
        self.server.set_token(token);
        if tell {
            fs::write(&self.token, token)?;
        }
        Ok(())
    }

    /// A process in the pod's container connects so many times.
    pub(super) fn connect(&mut self, lab: &Lab, pod: &Pod, to: &str, count: u32) -> Result<()> {
        let done = self.run(lab, pod, to, count)?;
        self.expect(pod, to, &done);
        Ok(())
    }

    /// The same for a pod that is not told of in time.
    pub(super) fn connect_nameless(&mut self, lab: &Lab, pod: &Pod, to: &str, count: u32) -> Result<()> {
        for attempt in self.run(lab, pod, to, count)? {
            let expected = Expected {
                names: format!(
                    "- / {} / {} / - /  / {VARIABLE}={}",
                    pod.cgroup_uid, pod.container_id, pod.name
                ),
                destination: to.to_owned(),
            };
            self.expected.insert(attempt.port, expected);
        }
        Ok(())
    }

    /// The same to the address of another pod.
    pub(super) fn connect_to(&mut self, lab: &Lab, pod: &Pod, to: (&str, &Pod), count: u32) -> Result<()> {
        let done = self.run(lab, pod, to.0, count)?;
        self.expect(pod, &destination(to.1), &done);
        Ok(())
    }

    /// One connection that stays open until its process is finished, of a pod that is not told of in time.
    pub(super) fn hold(&mut self, lab: &Lab, pod: &Pod, to: &str) -> Result<Process> {
        let (held, attempt) = self.start_held(lab, pod, to)?;
        self.expect(pod, to, &[attempt]);
        // It was counted before it had a name.
        self.counts.remove(&(pod.namespace.clone(), pod.workload.clone()));
        Ok(held)
    }

    pub(super) fn hold_to(&mut self, lab: &Lab, pod: &Pod, to: (&str, &Pod)) -> Result<Process> {
        let (held, attempt) = self.start_held(lab, pod, to.0)?;
        self.expect(pod, &destination(to.1), &[attempt]);
        Ok(held)
    }

    /// Connections so far.
    pub(super) fn expected(&self) -> usize {
        self.expected.len()
    }

    /// Every record against the table.
    pub(super) fn compare(&self, records: &[Record], verdict: &mut Verdict) {
        let ended: Vec<&Record> = records.iter().filter(|record| record.event == "finished").collect();
        verdict.count("connections", ended.len() as u64, self.expected.len() as u64);
        let by_port: HashMap<u16, &&Record> = ended.iter().map(|record| (record.local.port, record)).collect();
        let mut right = 0;
        verdict.fold(|verdict| {
            for (port, expected) in &self.expected {
                let said = by_port.get(port).map(|record| Expected {
                    names: names_of(record),
                    destination: record.destination.host.clone(),
                });
                right += u64::from(said.as_ref() == Some(expected));
                let (names, destination) = said.map_or_else(Default::default, |said| (said.names, said.destination));
                verdict.text(format!("names of {port}"), names, &expected.names);
                verdict.text(format!("destination of {port}"), destination, &expected.destination);
            }
            for record in &ended {
                let is_address = record.destination.host.parse::<IpAddr>().is_ok();
                let source = if is_address { "ip" } else { "kubernetes" };
                verdict.text("source of a destination", &record.destination.source, source);
            }
        });
        verdict.count("connections with all names right", right, self.expected.len() as u64);
    }

    /// What the metrics say of each workload.
    pub(super) fn compare_metrics(&self, metrics: &Metrics, verdict: &mut Verdict) {
        verdict.fold(|verdict| {
            for ((namespace, workload), count) in &self.counts {
                let labels = [
                    ("source_namespace", namespace.as_str()),
                    ("source_workload", workload.as_str()),
                ];
                let counted = metrics.sum("hopline_tcp_connections_total", &labels);
                verdict.count(format!("connections of {namespace}/{workload}"), counted, *count);
            }
        });
        let all = metrics.sum("hopline_tcp_connections_total", &[]);
        verdict.count("connections in the metrics", all, self.expected.len() as u64);
    }

    /// The verbs that were asked for are those that the cluster role grants, no fewer and no more.
    pub(super) fn compare_verbs(&self, verdict: &mut Verdict) {
        let asked: BTreeSet<String> = self
            .server
            .asked()
            .into_iter()
            .map(|(resource, verb)| format!("{verb} {resource}"))
            .collect();
        let joined = |all: BTreeSet<String>| all.into_iter().collect::<Vec<_>>().join(", ");
        verdict.text("verbs asked for and granted", joined(asked), joined(granted(RBAC)));
    }

    fn run(&mut self, lab: &Lab, pod: &Pod, to: &str, count: u32) -> Result<Vec<Attempt>> {
        let count = count.to_string();
        let client = self.start(lab, pod, to, &["--count", &count, "--exchange", "10"])?;
        attempts(&client.finish()?)
    }

    fn start_held(&mut self, lab: &Lab, pod: &Pod, to: &str) -> Result<(Process, Attempt)> {
        let mut held = self.start(lab, pod, to, &["--exchange", "10", "--end", "hold"])?;
        let mut lines = Vec::new();
        loop {
            match held.line()? {
                line if line == "ready" => break,
                line => lines.push(line),
            }
        }
        let attempt = attempts(&lines.join("\n"))?
            .pop()
            .context("a client that held nothing")?;
        Ok((held, attempt))
    }

    fn start(&mut self, lab: &Lab, pod: &Pod, to: &str, words: &[&str]) -> Result<Process> {
        let [of_pod, of_container] = pod.cgroup();
        if !self.containers.contains_key(&of_pod) {
            let cgroup = self.pods.child(&of_pod)?;
            let inner = cgroup.child(&of_container)?;
            // The container's goes first when both are dropped at once.
            self.containers.insert(format!("{of_pod}/"), inner);
            self.containers.insert(of_pod.clone(), cgroup);
        }
        let container = self
            .containers
            .get(&format!("{of_pod}/"))
            .context("a container's cgroup")?;
        let to: SocketAddr = format!("{to}:{PORT}").parse()?;
        let to = to.to_string();
        let mut all = vec!["connect", "--to", &to, "--comm", "in-a-pod"];
        all.extend(words);
        // As jobs do it: a shell that lives a while has the variable, its short program inherits that.
        let helper = lab.helper_command(&all);
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 0.2; \"$0\" \"$@\"; exit $?"])
            .arg(helper.get_program())
            .args(helper.get_args())
            .env(VARIABLE, &pod.name)
            .env("LAB_SECRET", "not in records")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Process::spawn(command, Some(&self.netns), container)
    }

    fn expect(&mut self, pod: &Pod, destination: &str, done: &[Attempt]) {
        for attempt in done {
            let expected = Expected {
                names: names(pod),
                destination: destination.to_owned(),
            };
            self.expected.insert(attempt.port, expected);
            let key = (pod.namespace.clone(), pod.workload.clone());
            *self.counts.entry(key).or_default() += 1;
        }
    }
}

/// A change has reached the agents: the loopback takes less, their machine may be busy.
pub(super) fn told() {
    thread::sleep(Duration::from_millis(500));
}

fn names(pod: &Pod) -> String {
    let Pod {
        namespace,
        name,
        container,
        workload,
        ..
    } = pod;
    let annotation = pod.annotation();
    format!("{namespace} / {name} / {container} / {workload} / {annotation} / {VARIABLE}={name}")
}

fn names_of(record: &Record) -> String {
    let owner = &record.process;
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
    let annotations: Vec<&str> = owner.annotations.values().map(String::as_str).collect();
    let variables: Vec<String> = owner
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!(
        "{} / {} / {} / {} / {} / {}",
        word(&owner.namespace),
        word(&owner.pod),
        word(&owner.container),
        word(&owner.workload),
        annotations.join(", "),
        variables.join(", ")
    )
}

fn destination(pod: &Pod) -> String {
    format!("{}.{}.pod", pod.name, pod.namespace)
}

/// `VERB RESOURCE` of each rule: lists in one line, as the file has them.
fn granted(rbac: &str) -> BTreeSet<String> {
    let list = |line: &str, key: &str| -> Option<Vec<String>> {
        let inside = line
            .trim()
            .strip_prefix(key)?
            .trim()
            .strip_prefix('[')?
            .strip_suffix(']')?;
        Some(
            inside
                .split(',')
                .map(|word| word.trim().trim_matches('"').to_owned())
                .collect(),
        )
    };
    let mut resources = Vec::new();
    let mut all = BTreeSet::new();
    for line in rbac.lines() {
        if let Some(words) = list(line, "resources:") {
            resources = words;
        } else if let Some(verbs) = list(line, "verbs:") {
            for verb in verbs {
                all.extend(resources.iter().map(|resource| format!("{verb} {resource}")));
            }
        }
    }
    all
}
