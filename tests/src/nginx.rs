//! An nginx with one page of its own, in a namespace. For scenarios and the demo that need a real server.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{self, Process};

/// Starts one that listens on these addresses and waits until the first answers; `name` tells those of one lab apart.
pub(crate) fn start(lab: &Lab, name: &str, netns: &NetNs, listen: &[SocketAddr]) -> Result<Process> {
    let listens: Vec<String> = listen.iter().map(|address| format!("listen {address};")).collect();
    let servers = format!("server {{ {} }}", listens.join(" "));
    start_servers(lab, name, netns, &lab.tools, &servers, listen)
}

/// Starts one with these `server` blocks in this cgroup and waits until the first of `probe` answers.
pub(crate) fn start_servers(
    lab: &Lab,
    name: &str,
    netns: &NetNs,
    cgroup: &Cgroup,
    servers: &str,
    probe: &[SocketAddr],
) -> Result<Process> {
    let root = lab.file(name);
    fs::create_dir(&root)?;
    fs::write(root.join("index.html"), "hello\n")?;
    let directory = root.display();
    let configuration = format!(
        "daemon off; user root; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;\n\
         fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;\n\
         root {directory}; {servers} }}\n"
    );
    let file = root.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg(root.join("start.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut nginx = Process::spawn(command, Some(netns), cgroup)?;
    let ready = process::poll(Duration::from_secs(30) * lab.patience(), || {
        ensure!(
            nginx.ended()?.is_none(),
            "nginx ended: {}",
            fs::read_to_string(root.join("start.log"))?
        );
        netns.run(|| Ok(TcpStream::connect(probe).is_ok()))
    })?;
    ensure!(ready, "nginx does not listen");
    Ok(nginx)
}
