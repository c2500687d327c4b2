//! The bench's HTTPS load: `openssl s_server` and curl, a full handshake, one request and one answer on each connection.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::process::{self, Running};

/// In a network namespace of the load's own.
const ADDRESS: &str = "127.0.0.1:4433";
const START_LIMIT: Duration = Duration::from_secs(10);

/// Makes `count` connections and says how long that took.
pub(super) fn run(count: u32) -> Result<Duration> {
    let directory = tempfile::tempdir()?;
    let _server = serve(directory.path())?;
    let begin = Instant::now();
    // The server closes after each answer; without session ids every handshake is a full one.
    let url = format!("https://{ADDRESS}/?[1-{count}]");
    process::run(
        Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--insecure",
                "--no-sessionid",
                "--output",
                "/dev/null",
            ])
            .arg(url),
    )?;
    Ok(begin.elapsed())
}

/// A key and a certificate of its own, as files.
pub(super) fn certificate(directory: &Path) -> Result<[PathBuf; 2]> {
    let files = ["key.pem", "certificate.pem"].map(|name| directory.join(name));
    process::run(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
            .arg(&files[0])
            .arg("-out")
            .arg(&files[1])
            .stderr(Stdio::null()),
    )?;
    Ok(files)
}

fn serve(directory: &Path) -> Result<Running> {
    let [key, certificate] = certificate(directory)?;
    let server = Running::start(
        Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", ADDRESS, "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate)
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    )?;
    let begin = Instant::now();
    while TcpStream::connect(ADDRESS).is_err() {
        ensure!(begin.elapsed() < START_LIMIT, "openssl s_server did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}
