//! Programs that look names up, by three resolvers: the C library's, Go's, and c-ares in Node.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Site;
use crate::lab::{Lab, Tolerance};
use crate::nameserver::script::{OUTSIDE, SEARCH};
use crate::process::Process;

/// How many names at a time.
const PARALLEL: &str = "15";

/// Kind and zone of names, in turn.
const KINDS: [(&str, &str); 10] = [
    ("ok", "a"),
    ("ok", "b"),
    ("ok", "l"),
    ("ok", "e"),
    ("alias", "l"),
    ("tc", "a"),
    ("nx", "e"),
    ("nodata", "a"),
    ("servfail", "a"),
    ("slow", "l"),
];

/// Becomes the program, which finds the lab's own configuration of the resolver.
pub(super) const CONFIGURED: &str = "mount --bind \"$1\" /etc/resolv.conf
    if [ -e /etc/nsswitch.conf ]; then mount --bind \"$2\" /etc/nsswitch.conf; fi
    shift 2
    exec \"$@\"";
/// A process for each name, which says its number before it becomes getent.
const GETENT: &str =
    "xargs -a \"$1\" -P \"$2\" -n 1 sh -c 'echo $$ getent \"$0\"; exec getent ahosts \"$0\" >/dev/null'; true";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Getent,
    Python,
    Go,
    /// Node's `dns.resolve4`, by c-ares, which has no search list.
    Ares,
    /// Node's `dns.lookup`, by the C library on threads.
    Node,
}

impl Client {
    pub(super) const ALL: [Self; 5] = [Self::Getent, Self::Python, Self::Go, Self::Ares, Self::Node];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Getent => "getent",
            Self::Python => "python",
            Self::Go => "go",
            Self::Ares => "cares",
            Self::Node => "node",
        }
    }

    /// First labels of `count` names that are looked up at a place, each with the name; some of the queries are lost when
    /// `loss` says so.
    pub(super) fn names(self, delay_ms: u64, loss: &str, count: usize) -> Vec<(String, String)> {
        let all = KINDS.iter().cycle().enumerate().take(count);
        all.map(|(number, (kind, zone))| {
            let zone = if self == Self::Ares { "e" } else { zone };
            let token = format!("{kind}-{zone}-{loss}-{number}-{}{delay_ms}", self.name());
            let name = if zone == "e" {
                format!("{token}.{OUTSIDE}")
            } else {
                token.clone()
            };
            (token, name)
        })
        .collect()
    }
}

/// A process that looked names up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pid: u32,
    pub(super) comm: String,
}

/// Who looked up which name, by its first label.
pub(super) type Owners = HashMap<String, Owner>;

/// A running client.
pub(super) struct Run {
    client: Client,
    tokens: Vec<String>,
    process: Process,
}

/// Starts a client that looks `names` up by the server at `resolver`.
pub(super) fn start(site: &Site<'_>, client: Client, resolver: IpAddr, names: Vec<(String, String)>) -> Result<Run> {
    // Files of its own: others may be reading theirs.
    let file = |name: &str| site.lab.file(format!("{name}-{}-{}", site.delay_ms, names[0].0));
    let configuration = file("resolv");
    let timeout_s = timeout(site.lab).as_secs();
    let text = format!(
        "search {}\noptions ndots:5 timeout:{timeout_s} attempts:2\nnameserver {resolver}\n",
        SEARCH.join(" ")
    );
    fs::write(&configuration, text)?;
    let switch = file("nsswitch");
    fs::write(&switch, "hosts: files dns\n")?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", CONFIGURED, "sh"])
        .args([&configuration, &switch])
        .env("UV_THREADPOOL_SIZE", PARALLEL)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let list = file("names");
    let (tokens, names): (Vec<String>, Vec<String>) = names.into_iter().unzip();
    let program = |file: &str| site.programs.join(file);
    let started = match client {
        Client::Getent => {
            fs::write(&list, names.join("\n") + "\n")?;
            command.args(["sh", "-c", GETENT, "sh"]).arg(list).arg(PARALLEL)
        }
        Client::Python => command.arg("python3").arg(program("lookup.py")).arg("lookup"),
        Client::Go => command.arg(program("go-lookup")).arg("lookup"),
        Client::Ares => command.arg("node").arg(program("lookup.js")).arg("resolve4"),
        Client::Node => command.arg("node").arg(program("lookup.js")).arg("lookup"),
    };
    if client != Client::Getent {
        started.arg(PARALLEL).args(names);
    }
    Ok(Run {
        client,
        tokens,
        process: Process::spawn(command, Some(&site.pair.client), &site.lab.traffic)?,
    })
}

/// Starts a client that looks one name up, outside the search list and by IPv4.
pub(super) fn one(site: &Site<'_>, client: Client, token: &str) -> Result<Run> {
    let names = vec![(token.to_owned(), format!("{token}.{OUTSIDE}"))];
    start(site, client, site.addresses[0].ip(), names)
}

impl Run {
    /// Waits for its end and gives who looked what up.
    pub(super) fn finish(self) -> Result<Owners> {
        let output = self.process.finish().context(self.client.name())?;
        let mut owners = Owners::new();
        for line in output.lines() {
            let mut words = line.split(' ');
            let owner = Owner {
                pid: words.next().unwrap_or_default().parse()?,
                comm: words.next().context("name of a process")?.to_owned(),
            };
            match words.next() {
                Some(name) => {
                    let token = name.split('.').next().unwrap_or_default();
                    owners.insert(token.to_owned(), owner);
                }
                None => owners.extend(self.tokens.iter().map(|token| (token.clone(), owner.clone()))),
            }
        }
        Ok(owners)
    }
}

/// For how long a resolver waits: about as long as by default, which is also what an emulated machine may take; a second
/// in the short form.
pub(super) fn timeout(lab: &Lab) -> Duration {
    let is_short = lab.short && lab.tolerance == Tolerance::Host;
    Duration::from_secs(if is_short { 1 } else { 4 })
}

/// The address that a client asks at a site.
pub(super) fn resolver(site: &Site<'_>, client: Client) -> SocketAddr {
    let place = Client::ALL
        .iter()
        .position(|other| *other == client)
        .unwrap_or_default();
    // Each client asks one of them by IPv4 and the other by IPv6.
    let is_ipv6 = (place + usize::from(site.delay_ms > 0)) % 2 == 1;
    site.addresses[usize::from(is_ipv6)]
}

/// Where the programs are.
pub(super) fn build(executable: &Path) -> Result<std::path::PathBuf> {
    crate::scenario::timeline::programs::build(executable)
}
