//! Child processes: started inside a namespace and a cgroup, and never left behind.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{self, SigSet, Signal};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::netns::NetNs;

/// A running child, killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `command` in `cgroup` and, when given, in `netns`; else in the lab's own namespace.
    pub(crate) fn spawn(mut command: Command, netns: Option<&NetNs>, cgroup: &Cgroup) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let procs = cgroup.procs()?;
        let netns = netns.map(|netns| netns.fd().try_clone_to_owned()).transpose()?;
        let prepare = move || {
            nix::unistd::write(&procs, b"0")?;
            if let Some(netns) = &netns {
                nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
            }
            // The lab blocks them for itself.
            SigSet::empty().thread_set_mask()?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe system calls are made; the descriptors were opened
        // before and nothing is allocated.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { name, child, stdout })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Next line that the child prints (its stdout must be piped).
    pub(crate) fn line(&mut self) -> Result<String> {
        let stdout = self.stdout.as_mut().context("stdout is not piped")?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "{} ended early", self.name);
        Ok(line.trim_end().to_owned())
    }

    /// Waits until the child prints exactly `word` on a line.
    pub(crate) fn wait_for(&mut self, word: &str) -> Result<()> {
        let line = self.line()?;
        ensure!(line == word, "{}: expected `{word}`, got `{line}`", self.name);
        Ok(())
    }

    /// Writes to the child's stdin, which must be piped.
    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin is not piped")?;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .with_context(|| format!("writing to {}", self.name))
    }

    /// Closes the child's stdin: helpers that hold connections then close them.
    pub(crate) fn release(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Closes stdin, reads stdout to its end and waits: all that the child still had to say.
    pub(crate) fn finish(mut self) -> Result<String> {
        self.release();
        let mut text = String::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(text)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid().try_into().context("pid")?);
        signal::kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Its status when it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end, at most `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {limit:?}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory now and its peak, in bytes.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kib = |key: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(key))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let now = kib("VmRSS:").context("VmRSS")?;
        let peak = kib("VmHWM:").context("VmHWM")?;
        Ok((now * 1024, peak * 1024))
    }

    /// From now on the peak of resident memory is that of what is still to come.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        // proc(5): 5 resets the peak to the present value.
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("resetting the peak of memory")
    }

    /// Processor time used so far, user and system.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // Fields count from after the parenthesised name; utime and stime are the 14th and 15th of all.
        let (_, fields) = stat.rsplit_once(')').context("stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It may have ended between the two calls: then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Limits the descriptors that `command` may have.
pub(crate) fn limit_descriptors(command: &mut Command, most: u64) {
    let limit = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?);
    // SAFETY: between fork and exec only an async-signal-safe system call is made; nothing is allocated.
    unsafe { command.pre_exec(limit) };
}

/// Lets `command` inherit `fd` across exec.
pub(crate) fn keep_across_exec(fd: &impl std::os::fd::AsFd) -> Result<i32> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(fd.as_fd().as_raw_fd())
}

/// Polls `ready` every 20 ms; false when it was not within `limit`.
pub(crate) fn poll(limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        if ready()? {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
