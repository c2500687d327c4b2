//! `lab`: real traffic in network namespaces of its own, hopline beside it, and a verdict on what hopline said.
//!
//! `lab --list` names the scenarios, `lab NAME` runs one and ends with a line `PASS …` or `FAIL …`; `lab demo` makes
//! a network to look at. The same binary is the generator, server and router that these start (`lab internal …`). It
//! touches only namespaces and cgroups that it made and removes them however it ends. `cargo xtask` calls it.

mod awake;
mod bpf;
mod capture;
mod certificates;
mod cgroup;
mod cli;
mod container;
mod cri;
mod demo;
mod dissect;
mod empty;
mod hello;
mod hopline;
mod jited;
mod kube_api;
mod lab;
mod memory_cgroup;
mod monitoring;
mod names;
mod nameserver;
mod netns;
mod nginx;
mod openssl;
mod packet;
mod process;
mod router;
mod scenario;
mod signals;
mod tools;
mod topology;
mod traffic;
mod tshark;
mod verdict;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A churn child lives for one connection: it must not pay for parsing a command line.
    if let Some(code) = traffic::once::run_if_asked() {
        return code;
    }
    cli::run()
}
