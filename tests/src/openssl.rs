//! `openssl s_server` and `s_client` as server and client of a case: they can be told nearly everything about a handshake.
//! Files in their options are the lab's certificates.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::certificates::Certificates;
use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{self, Process};
use crate::tools;

/// Makes `key.pem` and `cert.pem` for this name in the lab's directory, signed by itself.
pub(crate) fn self_signed(lab: &Lab, name: &str) -> Result<()> {
    let mut command = Command::new("openssl");
    command
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-subj", &format!("/CN={name}")])
        .args(["-addext", &format!("subjectAltName=DNS:{name}")])
        .current_dir(lab.file("."));
    tools::output_of(&mut command).map(drop)
}

/// Starts a server with these options that listens on `address`; it answers one request per connection with a page.
pub(crate) fn serve(
    lab: &Lab,
    netns: &NetNs,
    cgroup: &Cgroup,
    certificates: &Certificates,
    address: SocketAddr,
    options: &[String],
) -> Result<Process> {
    let log = lab.file(format!("s_server-{}.log", address.port()));
    let mut command = Command::new("openssl");
    command
        .arg("s_server")
        .args(["-accept", &address.to_string()])
        .args(options)
        .current_dir(certificates.directory())
        .stdin(Stdio::piped())
        .stdout(File::create(&log)?)
        .stderr(File::create(log.with_extension("err"))?);
    let mut server = Process::spawn(command, Some(netns), cgroup)?;
    let ready = process::poll(Duration::from_secs(30) * lab.patience(), || {
        ensure!(
            server.ended()?.is_none(),
            "openssl s_server {} ended: {}",
            options.join(" "),
            fs::read_to_string(log.with_extension("err"))?.trim()
        );
        Ok(fs::read_to_string(&log)?.contains("ACCEPT"))
    })?;
    ensure!(ready, "openssl s_server does not listen on {address}");
    Ok(server)
}

/// What an `s_client` printed; both streams, for they are read for one word at a time.
pub(crate) struct Said {
    pub(crate) text: String,
}

/// Runs a client with these options to its end: handshake, one request, the answer.
pub(crate) fn fetch(
    lab: &Lab,
    netns: &NetNs,
    certificates: &Certificates,
    to: SocketAddr,
    options: &[String],
    number: usize,
) -> Result<Said> {
    let log = lab.file(format!("s_client-{}-{number}.log", to.port()));
    let mut command = Command::new("openssl");
    command
        .arg("s_client")
        .args(["-connect", &to.to_string(), "-ign_eof"])
        .args(options)
        .current_dir(certificates.directory())
        .stdin(request(lab)?);
    finish(lab, netns, command, &log)
}

/// Runs curl with these options.
pub(crate) fn curl(
    lab: &Lab,
    netns: &NetNs,
    certificates: &Certificates,
    keys: Option<&Path>,
    options: &[String],
    name: &str,
) -> Result<Said> {
    let log = lab.file(format!("curl-{name}.log"));
    let mut command = Command::new("curl");
    command
        .args([
            "-sS",
            "-g",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{ssl_verify_result}\n",
        ])
        .args(options)
        .envs(keys.map(|keys| ("SSLKEYLOGFILE", keys)))
        .current_dir(certificates.directory())
        .stdin(Stdio::null());
    finish(lab, netns, command, &log)
}

/// Runs the client of mutual TLS by rustls.
pub(crate) fn mutual(
    lab: &Lab,
    netns: &NetNs,
    certificates: &Certificates,
    to: SocketAddr,
    name: &str,
    keys: &Path,
) -> Result<Said> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["internal", "mutual", "--to", &to.to_string(), "--name", name])
        .args(["--ca", "root.pem", "--certificate", "client.pem", "--key", "client.key"])
        .env("SSLKEYLOGFILE", keys)
        .current_dir(certificates.directory())
        .stdin(Stdio::null());
    finish(lab, netns, command, &lab.file(format!("{name}.log")))
}

/// A client that failed has said so: its exit code alone tells less.
pub(crate) fn finish(lab: &Lab, netns: &NetNs, mut command: Command, log: &Path) -> Result<Said> {
    let both = File::options().create(true).append(true).open(log)?;
    command.stdout(both.try_clone()?).stderr(both);
    let mut client = Process::spawn(command, Some(netns), &lab.traffic)?;
    client.wait(Duration::from_secs(20) * lab.patience())?;
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    Ok(Said { text })
}

/// What clients send.
fn request(lab: &Lab) -> Result<Stdio> {
    let path: PathBuf = lab.file("request");
    if !path.exists() {
        File::create(&path)?.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    }
    Ok(File::open(path)?.into())
}
