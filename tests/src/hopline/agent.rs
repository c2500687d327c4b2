//! A running `hopline agent`.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::metrics::Metrics;
use super::{END, PathEvent, START, Sabotage, Spike, Totals, http, sabotage};
use crate::lab::Lab;
use crate::memory_cgroup::MemoryCgroup;
use crate::netns::NetNs;
use crate::process::{self, Process};

/// What differs between agents of one lab.
#[derive(Debug, Default)]
pub(crate) struct AgentOptions<'a> {
    /// Write the event stream here.
    pub(crate) record: Option<&'a Path>,
    /// Size of the ring buffers.
    pub(crate) ring_bytes: Option<u32>,
    /// Events per second that each cgroup keeps while a ring is more than half full.
    pub(crate) share: Option<u32>,
    /// A program that the agent has to do without, as if the kernel had refused it.
    pub(crate) without: Option<&'a str>,
    /// Configuration file.
    pub(crate) config: Option<&'a Path>,
    /// Where it notes that it starts and ends; nowhere without.
    pub(crate) state_dir: Option<&'a Path>,
    /// With probes in TLS libraries and nothing else, where there is no such file.
    pub(crate) tls_probes: bool,
    /// Where its memory is limited and measured.
    pub(crate) memory: Option<&'a MemoryCgroup>,
    /// Where it lives, instead of on a free port of the lab's own loopback.
    pub(crate) place: Option<Place<'a>>,
}

/// A place of an agent with what it may have there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Its namespace; whoever asks it has to be there, too.
    pub(crate) netns: &'a NetNs,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Descriptors that it may have, where that is limited.
    pub(crate) descriptors: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Agent {
    process: Process,
    address: SocketAddr,
    log: PathBuf,
    sabotage: Option<Sabotage>,
    patience: u32,
    started: Instant,
}

impl Agent {
    /// Starts an agent for `cgroup` and waits until it is ready.
    pub(crate) fn start(lab: &Lab, cgroup: &Path, options: &AgentOptions<'_>) -> Result<Self> {
        let address = options.place.map_or_else(free_address, |place| Ok(place.listen))?;
        let log = lab.file(format!("agent-{}.log", address.port()));
        let mut command = lab.hopline(&["agent", "--listen", &address.to_string(), "--cgroup"]);
        command.arg(cgroup);
        if lab.keeps_history() {
            command
                .arg("--state-dir")
                .arg(options.state_dir.unwrap_or(Path::new("")));
        }
        if let Some(file) = options.record {
            command.arg("--record").arg(file);
        }
        if let Some(bytes) = options.ring_bytes {
            command.arg("--ring-bytes").arg(bytes.to_string());
        }
        if options.tls_probes && options.config.is_none() {
            let file = lab.file("tls-probes.yaml");
            fs::write(&file, "tls:\n  probes: true\n")?;
            command.arg("--config").arg(file);
        }
        if let Some(share) = options.share {
            let file = lab.file(format!("agent-{}.yaml", address.port()));
            fs::write(&file, format!("share: {share}\n"))?;
            command.arg("--config").arg(file);
        }
        if let Some(file) = options.config {
            command.arg("--config").arg(file);
        }
        if let Some(program) = options.without {
            command.args(["--fail-program", program]);
        }
        if let Some(memory) = options.memory {
            command = memory.inside(&command);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        if let Some(descriptors) = options.place.and_then(|place| place.descriptors) {
            process::limit_descriptors(&mut command, descriptors);
        }
        let started = Instant::now();
        let process = Process::spawn(command, options.place.map(|place| place.netns), &lab.tools)?;
        let mut agent = Self {
            process,
            address,
            log,
            sabotage: lab.sabotage,
            patience: lab.patience(),
            started,
        };
        match options.place {
            Some(place) => place.netns.run(|| agent.wait_until_ready())?,
            None => agent.wait_until_ready()?,
        }
        Ok(agent)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = process::poll(START * self.patience, || {
            if let Some(status) = self.process.ended()? {
                bail!("hopline agent ended with {status}: {}", tail(&self.log));
            }
            Ok(http::get(self.address, "/readyz").is_ok_and(|(status, _)| status == 200))
        })?;
        ensure!(ready, "hopline agent is not ready: {}", tail(&self.log));
        Ok(())
    }

    /// Its process, or the runtime's of its container.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One scrape.
    pub(crate) fn scrape(&self) -> Result<Metrics> {
        let (status, body) = http::get(self.address, "/metrics").context("scraping the agent")?;
        ensure!(status == 200, "/metrics answered {status}");
        let mut metrics = Metrics::parse(&body)?;
        sabotage::falsify_metrics(self.sabotage, &mut metrics);
        Ok(metrics)
    }

    /// One scrape as it came, comments included.
    pub(crate) fn exposition(&self) -> Result<String> {
        let (status, body) = http::get(self.address, "/metrics").context("scraping the agent")?;
        ensure!(status == 200, "/metrics answered {status}");
        Ok(body)
    }

    /// What the agent answers to this path of its API.
    pub(crate) fn api(&self, path: &str) -> Result<serde_json::Value> {
        let (status, body) = http::get(self.address, path).context("asking the agent")?;
        ensure!(status == 200, "{path} answered {status}");
        Ok(serde_json::from_str(&body)?)
    }

    /// `/api/v1/totals`.
    pub(crate) fn totals(&self) -> Result<Totals> {
        let (status, body) = http::get(self.address, "/api/v1/totals").context("asking the agent for its totals")?;
        ensure!(status == 200, "/api/v1/totals answered {status}");
        Ok(Totals::new(&serde_json::from_str(&body)?, self.sabotage))
    }

    /// The RTT spikes in `/api/v1/events`, the oldest first.
    pub(crate) fn spikes(&self) -> Result<Vec<Spike>> {
        let (status, body) = http::get(self.address, "/api/v1/events").context("asking the agent for its events")?;
        ensure!(status == 200, "/api/v1/events answered {status}");
        Spike::of_events(&serde_json::from_str(&body)?, self.sabotage)
    }

    /// The events about network paths, the oldest first.
    pub(crate) fn path_events(&self) -> Result<Vec<PathEvent>> {
        PathEvent::of_events(&self.api("/api/v1/events")?, self.sabotage)
    }

    /// What `hopline top --once` prints of this agent.
    pub(crate) fn top_once(&self, lab: &Lab) -> Result<String> {
        let url = format!("http://{}", self.address);
        let output = lab.hopline(&["top", "--once", "--agent", &url]).output()?;
        ensure!(output.status.success(), "hopline top ended with {}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `/api/v1/sockets`.
    pub(crate) fn sockets(&self) -> Result<serde_json::Value> {
        let (status, body) = http::get(self.address, "/api/v1/sockets").context("asking the agent for its sockets")?;
        ensure!(status == 200, "/api/v1/sockets answered {status}");
        let mut sockets: serde_json::Value = serde_json::from_str(&body)?;
        sabotage::falsify_sockets(self.sabotage, &mut sockets);
        Ok(sockets)
    }

    /// Scrapes until all events that the kernel side counted have been read: nothing of its past is then under way.
    pub(crate) fn scrape_drained(&self) -> Result<Metrics> {
        // The kernel wakes the reader in batches; it also looks by itself every 50 ms.
        let mut last = self.progress()?;
        let settled = process::poll(Duration::from_secs(30) * self.patience, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.progress()?;
            Ok(std::mem::replace(&mut last, now) == now)
        })?;
        ensure!(settled, "the agent's counters do not settle");
        self.scrape()
    }

    fn progress(&self) -> Result<(u64, u64)> {
        let metrics = self.scrape()?;
        Ok((
            metrics.sum("hopline_events_total", &[]),
            metrics.sum("hopline_events_lost_total", &[]),
        ))
    }

    /// Scrapes until `wanted` is true or `limit` is over; the last scrape, and how long it took.
    pub(crate) fn scrape_until(
        &self,
        limit: Duration,
        wanted: impl Fn(&Metrics) -> bool,
    ) -> Result<(Metrics, Duration)> {
        let from = Instant::now();
        loop {
            let metrics = self.scrape()?;
            if wanted(&metrics) || from.elapsed() > limit * self.patience {
                return Ok((metrics, from.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether its metrics become what is `wanted` within `limit`, though it may not answer for a while.
    pub(crate) fn answers_until(&self, limit: Duration, wanted: impl Fn(&Metrics) -> bool) -> Result<bool> {
        process::poll(limit * self.patience, || {
            std::thread::sleep(Duration::from_millis(100));
            Ok(self.scrape().is_ok_and(|metrics| wanted(&metrics)))
        })
    }

    /// How many lines of its log hold this.
    pub(crate) fn logged(&self, text: &str) -> Result<u64> {
        let log = fs::read_to_string(&self.log)?;
        Ok(log.lines().filter(|line| line.contains(text)).count() as u64)
    }

    /// Share of one processor since the start, in percent.
    pub(crate) fn cpu_percent(&self) -> Result<f64> {
        Ok(self.process.cpu_time()?.as_secs_f64() / self.started.elapsed().as_secs_f64() * 100.0)
    }

    /// Resident memory now and its peak, in MiB.
    pub(crate) fn memory_mib(&self) -> Result<(f64, f64)> {
        let (now, peak) = self.process.memory()?;
        Ok((now as f64 / 1_048_576.0, peak as f64 / 1_048_576.0))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends it as nobody can prepare for.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(END * self.patience)?;
        Ok(())
    }

    /// Ends it as an init system would; its exit must be clean.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(END * self.patience)?;
        ensure!(
            status.success(),
            "hopline agent ended with {status}: {}",
            tail(&self.log)
        );
        Ok(())
    }
}

/// A port that is free now. Another process could take it first; the agent then says so and the scenario fails.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Last lines of a log, for a message.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
