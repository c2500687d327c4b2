//! Starts the five servers on all their ports, watched by hopline, and the helper that thinks for nginx, unwatched.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cells::{PORTS_EACH, Server};
use super::clients::{NAME, Site};
use crate::nginx;
use crate::openssl;
use crate::process::{self, Process};
use crate::tools;
use crate::topology::SERVER4;

/// Where nginx asks for pages that take a while.
const THINKER: &str = "127.0.0.1:8000";

/// Starts all and waits until they listen.
pub(super) fn start(site: &Site<'_>) -> Result<Vec<Process>> {
    certificate(site)?;
    let mut servers = Vec::new();
    for server in Server::ALL {
        if server == Server::Nginx {
            let mut thinker = site.lab.helper(
                &["serve", &format!("{THINKER}/think")],
                &site.pair.server,
                &site.lab.tools,
            )?;
            thinker.wait_for("ready")?;
            servers.extend([start_nginx(site)?, thinker]);
        } else {
            servers.push(start_program(site, server)?);
        }
    }
    Ok(servers)
}

/// One key for all, in both forms.
fn certificate(site: &Site<'_>) -> Result<()> {
    openssl::self_signed(site.lab, NAME)?;
    let words = "pkcs12 -export -in cert.pem -inkey key.pem -passout pass:timeline -out store.p12";
    let mut openssl = Command::new("openssl");
    openssl.args(words.split(' ')).current_dir(site.lab.file("."));
    tools::output_of(&mut openssl).map(drop)
}

fn start_nginx(site: &Site<'_>) -> Result<Process> {
    let first = Server::Nginx.first_port();
    let last = first + PORTS_EACH - 1;
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| site.lab.file(name));
    let directives = format!(
        "server {{ listen {SERVER4}:{first}-{last} ssl http2; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; \
         ssl_certificate_key {}; location / {{ proxy_pass http://{THINKER}; }} }}",
        certificate.display(),
        key.display()
    );
    let name = format!("nginx-{}", site.delay_ms);
    let probe = [SocketAddr::new(SERVER4.into(), last)];
    nginx::start_servers(
        site.lab,
        &name,
        &site.pair.server,
        &site.lab.traffic,
        &directives,
        &probe,
    )
}

fn start_program(site: &Site<'_>, server: Server) -> Result<Process> {
    let script = |name: &str| site.programs.join(name);
    let mut command = match server {
        Server::Nginx | Server::Go => Command::new(script("go-server")),
        Server::Node => program("node", &[script("server.js").as_os_str()]),
        Server::Python => program("python3", &[script("server.py").as_os_str()]),
        Server::Jdk => {
            // Else its answer's body waits for the client's delayed acknowledgment of the head.
            let words = ["-Dsun.net.httpserver.nodelay=true", "-cp"].map(AsRef::as_ref);
            program(
                "java",
                &[words[0], words[1], site.programs.as_os_str(), "Server".as_ref()],
            )
        }
    };
    let certificate = if server == Server::Jdk { "store.p12" } else { "cert.pem" };
    command
        .args([
            SERVER4.to_string(),
            server.first_port().to_string(),
            PORTS_EACH.to_string(),
        ])
        .args([
            site.lab.file(certificate),
            site.lab.file("key.pem"),
            site.keylog.clone(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(site.log(server.name())?);
    let mut process = Process::spawn(command, Some(&site.pair.server), &site.lab.traffic)?;
    process
        .wait_for("ready")
        .with_context(|| format!("{} server: {}", server.name(), site.tail(server.name())))?;
    // `ready` may come before the last of many listeners.
    let last = SocketAddr::new(SERVER4.into(), server.first_port() + PORTS_EACH - 1);
    let listens = process::poll(Duration::from_secs(10) * site.lab.patience(), || {
        site.pair.server.run(|| Ok(TcpStream::connect(last).is_ok()))
    })?;
    ensure!(listens, "{} server does not listen", server.name());
    Ok(process)
}

/// A program of the machine with these words.
pub(super) fn program(name: &str, words: &[&std::ffi::OsStr]) -> Command {
    let mut command = Command::new(name);
    command.args(words);
    command
}
