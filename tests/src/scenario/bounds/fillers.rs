//! What fills the tables: generators in the watched cgroup, and an API server with pods that are as large as pods may be.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::certificates::Certificates;
use crate::cgroup::Cgroup;
use crate::hopline::Agent;
use crate::kube_api::ApiServer;
use crate::kube_api::objects::{Kind, NODE, Pod};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{self, Process};
use crate::topology::busy_loopback;

const TOKEN: &str = "token";
/// Annotations that the agent is told to keep, the most that it keeps.
const ANNOTATIONS: usize = 32;
/// Cgroups with lookups of their own: none may have more than its share of the tables.
const RESOLVING: u32 = 8;
const HOSTS_SERVER: &str = "127.0.0.1:8080";
/// Descriptors that one process may have are 20 000 on most machines: two for a pair, one for a listener.
const PAIRS_EACH: u32 = 6_500;
const LISTENERS_EACH: u32 = 16_500;
/// Cgroups are made without a pause up to this number: the ring of process events takes no more.
const CGROUPS_AT_ONCE: u32 = 500;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Connections over loopback; both ends are observed.
    pub(super) pairs: u32,
    /// Exchanges on each.
    pub(super) rounds: u32,
    listeners: u32,
    lookups: u32,
    processes: u32,
    cgroups: u32,
    pods: usize,
    hosts: u32,
    hosts_seconds: u32,
    /// Scrapers at once.
    pub(super) scrapers: usize,
}

impl Sizes {
    /// More than fits, of everything but processes: of those the machine itself has 32 768.
    pub(super) const WHOLE: Self = Self {
        pairs: 41_000,
        rounds: 8,
        listeners: 17_000,
        lookups: 5_000,
        processes: 3_000,
        cgroups: 17_000,
        pods: 2_000,
        hosts: 30_000,
        hosts_seconds: 12,
        scrapers: 2,
    };
    /// A tenth, within CI's time.
    pub(super) const SHORT: Self = Self {
        pairs: 4_000,
        rounds: 2,
        listeners: 2_000,
        lookups: 300,
        processes: 200,
        cgroups: 1_500,
        pods: 400,
        hosts: 2_000,
        hosts_seconds: 3,
        scrapers: 2,
    };
}

/// Everything that runs beside the agent. Fields drop in order: processes before their cgroups and namespace.
pub(super) struct Fillers {
    sizes: Sizes,
    connections: Vec<Process>,
    resolving: Vec<Process>,
    staying: Vec<Process>,
    /// Held until the end.
    cgroups: Vec<Cgroup>,
    server: ApiServer,
    /// The agent's configuration.
    pub(super) config: PathBuf,
    netns: NetNs,
}

impl Fillers {
    pub(super) fn new(lab: &Lab, sizes: Sizes) -> Result<Self> {
        let netns = busy_loopback()?;
        let mut staying = Vec::new();
        for words in [
            &["fill-resolver"][..],
            &["serve", "127.0.0.1:8080/http", "--acceptors", "2"],
        ] {
            let mut server = lab.helper(words, &netns, &lab.tools)?;
            server.wait_for("ready")?;
            staying.push(server);
        }
        let certificates = Certificates::make(lab)?;
        let server = ApiServer::start(&certificates, TOKEN)?;
        let (kubeconfig, token) = (lab.file("kubeconfig"), lab.file("token"));
        fs::write(&token, TOKEN)?;
        server.write_kubeconfig(&certificates, &kubeconfig, &token)?;
        let config = lab.file("bounds.yaml");
        let annotations: Vec<String> = (0..ANNOTATIONS).map(annotation).collect();
        let text = format!(
            "kubernetes:\n  kubeconfig: {}\n  cri_socket: off\n  node_name: {NODE}\n  annotations: {annotations:?}\n\
             environment: [PATH, HOME]\n",
            kubeconfig.display()
        );
        fs::write(&config, text)?;
        Ok(Self {
            sizes,
            connections: Vec::new(),
            resolving: Vec::new(),
            staying,
            cgroups: Vec::new(),
            server,
            config,
            netns,
        })
    }

    /// Pods with names and annotations of the greatest length.
    pub(super) fn pods(&mut self, agent: &Agent) -> Result<()> {
        let pods = (0..self.sizes.pods).map(|number| {
            let mut object = Pod::new(number, Kind::Deployment).at(&address(number)).object();
            let metadata = &mut object["metadata"];
            metadata["name"] = format!("{number:06}{}", "n".repeat(247)).into();
            for key in (0..ANNOTATIONS).map(annotation) {
                metadata["annotations"][key] = "v".repeat(1_000).into();
            }
            object
        });
        self.server.put_all(pods);
        let wanted = self.sizes.pods as u64;
        let (metrics, _) = agent.scrape_until(Duration::from_mins(1), |metrics| {
            let refused = metrics.sum("hopline_events_lost_total", &[("kind", "pod_refused")]);
            metrics.sum("hopline_kubernetes_pods", &[]) + refused >= wanted * 9 / 10
        })?;
        let known = metrics.sum("hopline_kubernetes_pods", &[]);
        ensure!(known > 0, "the agent knows of no pod");
        // All of them once more as a list, which is too long for one answer.
        self.server.compact();
        self.server.disconnect();
        let again = process::poll(Duration::from_secs(90), || Ok(self.server.watches() > 0))?;
        ensure!(again, "the agent does not list the pods again");
        Ok(())
    }

    /// Cgroups with long names that come and go.
    pub(super) fn cgroups(&mut self, lab: &Lab) -> Result<()> {
        for number in 0..self.sizes.cgroups {
            let path = lab.traffic.path().join(format!("{number:06}{}", "c".repeat(200)));
            fs::create_dir(&path)?;
            fs::remove_dir(&path)?;
            if number % CGROUPS_AT_ONCE == 0 {
                thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    pub(super) fn listeners(&mut self, lab: &Lab) -> Result<()> {
        let fillers = self.in_parts(lab, "listeners", self.sizes.listeners, LISTENERS_EACH)?;
        self.staying.extend(fillers);
        Ok(())
    }

    pub(super) fn processes(&mut self, lab: &Lab) -> Result<()> {
        let links = lab.file("programs");
        fs::create_dir(&links)?;
        let links = links.to_string_lossy().into_owned();
        let filler = self.start(
            lab,
            &lab.traffic,
            "processes",
            self.sizes.processes,
            &["--links", &links],
        )?;
        self.staying.push(filler);
        Ok(())
    }

    /// Names of addresses, in cgroups of their own.
    pub(super) fn lookups(&mut self, lab: &Lab) -> Result<()> {
        for number in 0..RESOLVING {
            let cgroup = lab.traffic.child(&format!("resolving-{number}"))?;
            let first = (number * self.sizes.lookups).to_string();
            let filler = self.start(lab, &cgroup, "lookups", self.sizes.lookups, &["--first", &first])?;
            self.resolving.push(filler);
            self.cgroups.push(cgroup);
        }
        Ok(())
    }

    pub(super) fn connections(&mut self, lab: &Lab) -> Result<()> {
        self.connections = self.in_parts(lab, "connections", self.sizes.pairs, PAIRS_EACH)?;
        Ok(())
    }

    /// One more exchange on each connection.
    pub(super) fn rounds(&mut self) -> Result<()> {
        self.connections.iter_mut().try_for_each(more)
    }

    /// Hosts that are asked once each.
    pub(super) fn hosts(&mut self, lab: &Lab) -> Result<()> {
        let (count, seconds) = (self.sizes.hosts.to_string(), self.sizes.hosts_seconds.to_string());
        let words = ["hosts", "--to", HOSTS_SERVER, "--count", &count, "--seconds", &seconds];
        lab.helper(&words, &self.netns, &lab.traffic)?.finish()?;
        Ok(())
    }

    /// Queries that nobody answers, from every cgroup.
    pub(super) fn queries(&mut self) -> Result<()> {
        self.resolving.iter_mut().try_for_each(more)
    }

    /// Several processes, as none may have more descriptors than the machine allows.
    fn in_parts(&self, lab: &Lab, way: &str, count: u32, each: u32) -> Result<Vec<Process>> {
        let part = |first: u32| {
            let count = each.min(count - first);
            self.start(lab, &lab.traffic, way, count, &["--first", &first.to_string()])
        };
        (0..count).step_by(each as usize).map(part).collect()
    }

    fn start(&self, lab: &Lab, cgroup: &Cgroup, way: &str, count: u32, words: &[&str]) -> Result<Process> {
        let count = count.to_string();
        let words: Vec<&str> = ["fill", way, "--count", &count]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        let mut filler = lab.helper(&words, &self.netns, cgroup)?;
        filler.wait_for("ready")?;
        Ok(filler)
    }
}

fn more(filler: &mut Process) -> Result<()> {
    filler.say("more\n")?;
    filler.wait_for("done")
}

fn annotation(number: usize) -> String {
    format!("lab.example/a{number:02}")
}

fn address(number: usize) -> String {
    format!("10.77.{}.{}", number / 250, 1 + number % 250)
}
