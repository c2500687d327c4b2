//! `lab internal empty`: a program that does nothing on each hook that hopline uses, for `cargo xtask bench kernel` to
//! compare with. Attached until stdin closes; knows nothing of hopline but its programs' names.
//!
//! Those on cgroups see the given one only, the tracing ones the whole node: so do hopline's.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya_obj::btf::{Btf, BtfKind};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::bpf::{self, Kind};

/// hopline's programs: name, kind, and the function or tracepoint that a tracing one sees.
const PROGRAMS: [(&str, Kind, &str); 18] = [
    ("connect4", Kind::Connect4, ""),
    ("connect6", Kind::Connect6, ""),
    ("sendmsg4", Kind::SendMsg4, ""),
    ("sendmsg6", Kind::SendMsg6, ""),
    ("sock_ops", Kind::SockOps, ""),
    ("ingress", Kind::CgroupSkbIngress, ""),
    ("egress", Kind::CgroupSkbEgress, ""),
    ("tcp_connect_fentry", Kind::Fentry, "tcp_connect"),
    ("inet_stream_connect_fexit", Kind::Fexit, "inet_stream_connect"),
    ("sys_exit_connect", Kind::Tracepoint, "syscalls/sys_exit_connect"),
    ("inet_sock_set_state", Kind::TpBtf, "inet_sock_set_state"),
    ("tcp_destroy_sock", Kind::TpBtf, "tcp_destroy_sock"),
    ("tcp_retransmit_skb", Kind::TpBtf, "tcp_retransmit_skb"),
    ("tcp_retransmit_synack", Kind::TpBtf, "tcp_retransmit_synack"),
    ("tcp_rcv_space_adjust", Kind::TpBtf, "tcp_rcv_space_adjust"),
    ("sched_process_fork", Kind::TpBtf, "sched_process_fork"),
    ("sched_process_exec", Kind::TpBtf, "sched_process_exec"),
    ("sched_process_exit", Kind::TpBtf, "sched_process_exit"),
];

/// Arguments of `lab internal empty`.
#[derive(Debug, clap::Args)]
pub(crate) struct EmptyArguments {
    /// The cgroup that hopline watches.
    #[arg(long)]
    cgroup: PathBuf,
}

/// Attaches what the kernel takes, says `ready`, and holds it until stdin closes.
pub(crate) fn run(arguments: &EmptyArguments) -> Result<()> {
    let cgroup = File::open(&arguments.cgroup).with_context(|| format!("opening {}", arguments.cgroup.display()))?;
    let types = Btf::from_sys_fs().context("reading the kernel's types")?;
    let mut links = Vec::new();
    for (program, kind, target) in PROGRAMS {
        match attach(program, kind, target, &cgroup, &types) {
            Ok(link) => links.push(link),
            Err(error) => eprintln!("lab: no empty program beside {program}: {error:#}"),
        }
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn attach(program: &str, kind: Kind, target: &str, cgroup: &File, types: &Btf) -> Result<OwnedFd> {
    let name = name_beside(program);
    match kind {
        Kind::TpBtf => {
            let traced = types.id_by_type_name_kind(&format!("btf_trace_{target}"), BtfKind::Typedef)?;
            bpf::attach_empty(kind, &name, None, traced)
        }
        Kind::Fentry | Kind::Fexit => {
            let traced = types.id_by_type_name_kind(target, BtfKind::Func)?;
            bpf::attach_empty(kind, &name, None, traced)
        }
        // The link holds the event.
        Kind::Tracepoint => bpf::attach_empty(kind, &name, Some(tracepoint(target)?.as_fd()), 0),
        _ => bpf::attach_empty(kind, &name, Some(cgroup.as_fd()), 0),
    }
}

/// `empty_` and the end of the program's name, which tells it from others better than its begin: the kernel keeps 15
/// bytes. The bench finds it by the same rule.
fn name_beside(program: &str) -> String {
    const KEPT: usize = 9;
    format!("empty_{}", &program[program.len().saturating_sub(KEPT)..])
}

/// Start of the kernel's `perf_event_attr`, its first published size.
#[repr(C)]
#[derive(Default)]
struct PerfEvent {
    event_type: u32,
    size: u32,
    config: u64,
    _rest: [u64; 6],
}

/// A perf event on the tracepoint `category/name`. Programs on it run for all processes on all CPUs.
fn tracepoint(target: &str) -> Result<OwnedFd> {
    const TYPE_TRACEPOINT: u32 = 2;
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    let id = Path::new(tracefs()?).join("events").join(target).join("id");
    let id = fs::read_to_string(&id).with_context(|| format!("reading {}", id.display()))?;
    let event = PerfEvent {
        event_type: TYPE_TRACEPOINT,
        size: size_of::<PerfEvent>() as u32,
        config: id.trim().parse()?,
        ..PerfEvent::default()
    };
    let (every_process, cpu, no_group) = (-1, 0, -1);
    // SAFETY: `event` is a `perf_event_attr` of the size that it says and lives across the call, which only reads it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(&event),
            every_process,
            cpu,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    let fd = nix::errno::Errno::result(fd).context("opening a perf event")?;
    let fd = i32::try_from(fd)?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where tracefs is. Where nobody mounted it, this process does so in a mount namespace of its own: nothing of the host
/// changes.
fn tracefs() -> Result<&'static str> {
    const TRACEFS: &str = "/sys/kernel/tracing";
    if !Path::new(TRACEFS).join("events").exists() {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
        mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), none).context("mounting tracefs")?;
    }
    Ok(TRACEFS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_fit_the_kernel_and_differ() {
        let names: BTreeSet<String> = PROGRAMS.iter().map(|(program, ..)| name_beside(program)).collect();
        assert_eq!(names.len(), PROGRAMS.len());
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        assert!(
            names.contains("empty_sock_ops") && names.contains("empty_cess_fork"),
            "{names:?}"
        );
    }
}
