//! Names for programs of one namespace: a dnsmasq of the lab's own, and a view of the file system in which it is the one
//! resolver. Nothing outside that view changes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{self, Process};

/// A running resolver.
#[derive(Debug)]
pub(crate) struct Names {
    _dnsmasq: Process,
    /// Names it as the only resolver.
    configuration: PathBuf,
}

impl Names {
    /// Starts one that listens on `address` with these options (`address=/NAME/IP`, `server=/NAME/RESOLVER`, …); what
    /// they do not know does not exist. It keeps no answers.
    pub(crate) fn start(
        lab: &Lab,
        netns: &NetNs,
        cgroup: &Cgroup,
        address: Ipv4Addr,
        options: &[String],
    ) -> Result<Self> {
        let file = lab.file(format!("dnsmasq-{address}.conf"));
        let configuration = lab.file(format!("resolv-{address}.conf"));
        let fixed = [
            "keep-in-foreground",
            "no-resolv",
            "no-hosts",
            "bind-interfaces",
            "cache-size=0",
            "local-ttl=60",
            "local=/test/",
            "user=root",
            "pid-file=",
        ];
        let own = [
            format!("listen-address={address}"),
            format!("log-facility={}", lab.file(format!("dnsmasq-{address}.log")).display()),
        ];
        let lines = fixed
            .iter()
            .map(ToString::to_string)
            .chain(own)
            .chain(options.iter().cloned());
        fs::write(&file, lines.collect::<Vec<_>>().join("\n") + "\n")?;
        fs::write(
            &configuration,
            format!("nameserver {address}\noptions timeout:2 attempts:1\n"),
        )?;
        let log = lab.file(format!("dnsmasq-{address}.err"));
        let mut command = Command::new("dnsmasq");
        command
            .arg(format!("--conf-file={}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let mut dnsmasq = Process::spawn(command, Some(netns), cgroup)?;
        let at = SocketAddr::from((address, 53));
        let ready = process::poll(Duration::from_secs(30) * lab.patience(), || {
            ensure!(
                dnsmasq.ended()?.is_none(),
                "dnsmasq ended: {}",
                fs::read_to_string(&log)?.trim()
            );
            netns.run(|| Ok(TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok()))
        })?;
        ensure!(ready, "dnsmasq does not listen on {address}");
        Ok(Self {
            _dnsmasq: dnsmasq,
            configuration,
        })
    }

    /// `program`, which will see this resolver alone; so will all that it starts.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        resolving(&self.configuration, program.as_ref())
    }
}

/// The same process becomes `unshare`, then a shell, then the program.
fn resolving(configuration: &Path, program: &OsStr) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"")
        .arg(configuration)
        .arg(program);
    command
}
