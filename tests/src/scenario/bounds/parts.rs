//! What each part costs: the memory that the kernel charges to the agent, before and after it was filled.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::hopline::Agent;
use crate::memory_cgroup::MemoryCgroup;
use crate::verdict::Verdict;

const MIB: f64 = 1_048_576.0;
/// What scrapers ask for, the largest answers that there are.
const PATHS: [&str; 3] = ["/metrics", "/api/v1/destinations", "/api/v1/events"];
/// Streams of records that are not read.
const STREAMS: usize = 4;
const PATIENCE: Duration = Duration::from_mins(1);

/// What was charged so far. Without a memory controller: what is resident, and what the maps say of themselves.
pub(super) struct Parts<'a> {
    agent: &'a Agent,
    memory: Option<&'a MemoryCgroup>,
    before: (f64, f64),
    peak: f64,
}

impl<'a> Parts<'a> {
    pub(super) fn new(agent: &'a Agent, memory: Option<&'a MemoryCgroup>) -> Self {
        Self {
            agent,
            memory,
            before: (0.0, 0.0),
            peak: 0.0,
        }
    }

    /// Says what a part has added, in the program and in the kernel.
    pub(super) fn measure(&mut self, part: &str, verdict: &mut Verdict) -> Result<()> {
        let (program, kernel) = self.charged()?;
        verdict.note(format!("{part}: program"), program - self.before.0, "MiB");
        verdict.note(format!("{part}: kernel"), kernel - self.before.1, "MiB");
        self.before = (program, kernel);
        self.peak = self.peak.max(program + kernel);
        Ok(())
    }

    /// MiB of the program and of the kernel for it.
    fn charged(&self) -> Result<(f64, f64)> {
        if let Some(memory) = self.memory {
            let kernel = memory.kernel()?;
            return Ok((memory.now()?.saturating_sub(kernel) as f64 / MIB, kernel as f64 / MIB));
        }
        let maps = map_bytes(self.agent.process().pid())? as f64 / MIB;
        // Rings count as resident twice, as they are mapped twice.
        Ok((self.agent.memory_mib()?.0, maps))
    }

    /// All of it against the limit.
    pub(super) fn finish(self, limit_bytes: u64, verdict: &mut Verdict) -> Result<()> {
        let limit = limit_bytes as f64 / MIB;
        let (program, kernel) = self.before;
        verdict.note("all at once: program", program, "MiB");
        verdict.note("all at once: kernel", kernel, "MiB");
        verdict.at_most("all at once: sum", program + kernel, limit, "MiB");
        if let Some(memory) = self.memory {
            verdict.at_most(
                "charged at most, scrapes included",
                memory.peak()? as f64 / MIB,
                limit * 0.95,
                "MiB",
            );
            verdict.count("processes ended for want of memory", memory.killed()?, 0);
        } else {
            verdict.skip("the kernel's own sum", "this machine has no memory controller to use");
        }
        Ok(())
    }
}

/// `memlock` of every map that the process has open.
fn map_bytes(pid: u32) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        // One that was closed meanwhile is no map of any size.
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let locked = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        bytes += locked
            .filter(|_| text.contains("map_type:"))
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
    }
    Ok(bytes)
}

/// Streams of records whose other end reads nothing.
pub(super) fn slow_streams(agent: &Agent) -> Result<Vec<TcpStream>> {
    let stream = |_| {
        let mut stream = TcpStream::connect(agent.address())?;
        write!(
            stream,
            "GET /api/v1/connections HTTP/1.1\r\nHost: {}\r\n\r\n",
            agent.address()
        )?;
        Ok(stream)
    };
    (0..STREAMS).map(stream).collect()
}

/// So many scrapers at the same time, each of all that is large.
pub(super) fn scrape_at_once(agent: &Agent, scrapers: usize) -> Result<()> {
    thread::scope(|scope| {
        let scrapers: Vec<_> = (0..scrapers)
            .map(|_| scope.spawn(|| PATHS.iter().try_for_each(|path| scrape(agent, path))))
            .collect();
        scrapers
            .into_iter()
            .try_for_each(|scraper| scraper.join().expect("a scraper reports its trouble"))
    })
}

/// One that is sent away because others scrape is as good an answer.
fn scrape(agent: &Agent, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(agent.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", agent.address())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("an answer to a scraper")?;
    let status = answer.get(9..12).unwrap_or_default();
    let is_expected = matches!(status, b"200" | b"404" | b"429" | b"503");
    ensure!(is_expected, "{path} answered {}", String::from_utf8_lossy(status));
    Ok(())
}
