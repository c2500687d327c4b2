//! `hopline path`: the hops on the way to a destination, live.
use std::{
    fs::File,
    io::{self, IsTerminal as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, setns};
use serde::Deserialize as _;
use serde_json::Value;

use super::{CommandError, Logging, Signals, block_on, print, top};
use crate::{
    cli::PathArgs,
    export::human,
    fetch::Target,
    path::{Kind, PathRecord, Settings},
    privileges,
    tracer::{self, Request, TracerError},
};

/// Of a service that nobody named.
const DEFAULT_PORT: u16 = 443;
/// Cursor to the upper left, the rest of the screen wiped.
const WIPE: &str = "\x1b[H\x1b[J";

pub(super) fn run(args: &PathArgs, logging: Logging) -> Result<ExitCode, CommandError> {
    logging.start_quiet();
    privileges::no_new_privs();
    let (host, port) = split_target(&args.target).map_err(CommandError::Usage)?;
    match &args.agent {
        Some(url) => of_agent(args, url, &host, port),
        None => block_on(trace(args, host, port)),
    }
}

/// What a running agent last found.
fn of_agent(args: &PathArgs, url: &str, host: &str, port: u16) -> Result<ExitCode, CommandError> {
    let target = Target::parse(url).map_err(CommandError::Usage)?;
    if target.is_https {
        return Err(CommandError::Usage(format!("`{url}`: agents are asked by http://")));
    }
    let answer = top::ask(&target, "/api/v1/paths")?;
    let is_meant = |path: &&Value| {
        let names = [&path["destination"], &path["path"]["address"]];
        names.iter().any(|name| name.as_str() == Some(host)) && path["port"] == port
    };
    let paths = answer["paths"].as_array().into_iter().flatten();
    let latest = paths.filter(is_meant).max_by_key(|path| path["traced_ns"].as_u64());
    let latest = latest.with_context(|| format!("{url} has traced no path to {host}:{port}"))?;
    if args.json {
        let mut record = latest["path"].clone();
        record["connections"] = latest["connections"].clone();
        print(&format!("{record}\n"))?;
    } else {
        let record = PathRecord::deserialize(&latest["path"]).context("the agent's answer is of another version")?;
        print(&human::path(&record))?;
        print(&human::path_connections(&latest["connections"]))?;
    }
    let is_reached = latest["path"]["reached"] == true;
    Ok(if is_reached {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn trace(args: &PathArgs, host: String, port: u16) -> Result<ExitCode, CommandError> {
    let mut signals = Signals::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    let tracing = Tracing {
        namespace: args.pid.map(namespace_of).transpose()?,
        family: (args.ipv4, args.ipv6),
        host,
        port,
        kind: if args.icmp { Kind::Echo } else { Kind::Tcp },
        settings: Settings {
            rounds: args.count,
            interval_ns: args.interval.as_nanos() as u64,
            max_hops: args.max_hops,
            seed: tracer::seed(),
            ..Settings::default()
        },
        is_live: !args.json && io::stdout().is_terminal(),
        stop: Arc::clone(&stop),
    };
    // A namespace is entered for good: on a thread of its own.
    let (sender, mut done) = tokio::sync::oneshot::channel();
    thread::Builder::new().name("path".to_owned()).spawn(move || {
        // Nobody waits any more once a second signal came.
        drop(sender.send(tracing.run()));
    })?;
    let record = loop {
        tokio::select! {
            record = &mut done => break record.context("the trace broke")??,
            () = signals.end(), if !stop.load(Ordering::Relaxed) => stop.store(true, Ordering::Relaxed),
        }
    };
    if args.json {
        print(&format!(
            "{}\n",
            serde_json::to_string(&record).context("writing JSON")?
        ))?;
    } else {
        print(&format!("{}{}", wipe(io::stdout().is_terminal()), human::path(&record)))?;
    }
    Ok(if record.reached {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the thread needs.
struct Tracing {
    namespace: Option<File>,
    /// IPv4 alone, IPv6 alone.
    family: (bool, bool),
    host: String,
    port: u16,
    kind: Kind,
    settings: Settings,
    is_live: bool,
    stop: Arc<AtomicBool>,
}

impl Tracing {
    fn run(self) -> anyhow::Result<PathRecord> {
        // Names are those that this program's own files and resolver know.
        let address = resolve(&self.host, self.port, self.family)?;
        if let Some(namespace) = &self.namespace {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering the network namespace of the process")?;
        }
        let request = Request {
            kind: self.kind,
            destination: SocketAddr::new(address, self.port),
            settings: self.settings,
        };
        let trace = tracer::run(&request, &self.stop, |trace| {
            if self.is_live {
                // The end of the output shows at the end.
                drop(print(&format!(
                    "{}{}",
                    wipe(true),
                    human::path(&PathRecord::of(trace, &self.host))
                )));
            }
        });
        let trace = trace.map_err(|error: TracerError| anyhow!(error))?;
        Ok(PathRecord::of(&trace, &self.host))
    }
}

fn wipe(is_terminal: bool) -> &'static str {
    if is_terminal { WIPE } else { "" }
}

fn namespace_of(pid: u32) -> Result<File, CommandError> {
    let path = format!("/proc/{pid}/ns/net");
    let file = File::open(&path).map_err(|error| anyhow!("cannot open {path}: {error}"))?;
    Ok(file)
}

fn resolve(host: &str, port: u16, (ipv4, ipv6): (bool, bool)) -> anyhow::Result<IpAddr> {
    let mut addresses = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("no address for {host}"))?
        .map(|address| address.ip());
    let fitting = addresses.find(|address| !(ipv4 && address.is_ipv6() || ipv6 && address.is_ipv4()));
    fitting.with_context(|| format!("no address of that family for {host}"))
}

/// `name`, `name:port`, `address`, `[address]:port`.
fn split_target(target: &str) -> Result<(String, u16), String> {
    let wrong = || format!("`{target}` is no HOST or HOST:PORT, such as example.com:443 or [::1]:443");
    if target.parse::<Ipv6Addr>().is_ok() {
        return Ok((target.to_owned(), DEFAULT_PORT));
    }
    let (host, port) = match target.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        None => (target, DEFAULT_PORT),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string(),
        None => host.to_owned(),
    };
    if host.is_empty() || port == 0 {
        return Err(wrong());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let check = |target: &str, expected: Option<(&str, u16)>| {
            let split = split_target(target).ok();
            assert_eq!(split, expected.map(|(host, port)| (host.to_owned(), port)), "{target}");
        };
        check("example.com", Some(("example.com", 443)));
        check("example.com:80", Some(("example.com", 80)));
        check("10.0.0.1:5432", Some(("10.0.0.1", 5432)));
        check("::1", Some(("::1", 443)));
        check("[::1]:80", Some(("::1", 80)));
        check("[::1]", None);
        check("[name]:80", None);
        check("example.com:", None);
        check("example.com:0", None);
        check("example.com:70000", None);
        check(":80", None);
        check("", None);
    }
}
