//! `hopline doctor`: what this kernel offers, and which hook serves each feature.
use std::{fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use serde_json::json;

use super::{
    CommandError, Logging,
    own_cgroup::{self, OwnCgroup},
    print, safe_mode,
};
use crate::{
    agent,
    bpf::{self, ProbeOptions, Probes},
    cli::DoctorArgs,
    config::Config,
    export::human,
    host::Host,
    kubernetes, memory, privileges,
    safe_mode::ask_to_leave,
    tls_targets, tracer,
};

const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Small: nothing will go through it.
const RING_BYTES: u32 = 1 << 16;

/// Asks the next start of the agent to load everything again.
fn leave(config: &Config) -> Result<ExitCode, CommandError> {
    let (Some(directory), Some(mode)) = (&config.state_dir, &config.safe_mode) else {
        print("this node is not in safe mode\n")?;
        return Ok(ExitCode::SUCCESS);
    };
    ask_to_leave(directory).context("cannot ask the agent to leave safe mode")?;
    print(&format!(
        "was in safe mode: {}\nrestart the agent: it loads everything again\n",
        mode.reason
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The defaults with all that can be switched on: what this machine could do.
fn everything() -> Config {
    let mut config = Config::default();
    config.tls.probes = true;
    config
}

pub(super) fn run(args: &DoctorArgs, logging: Logging) -> Result<ExitCode, CommandError> {
    logging.start_quiet();
    let config = match &args.config {
        Some(file) => Config::read(Some(file))?,
        None => everything(),
    };
    let mut config = config.with_switches();
    if let Some(directory) = &args.state_dir {
        config.state_dir = Some(directory.clone()).filter(|directory| !directory.as_os_str().is_empty());
    }
    privileges::no_new_privs();
    privileges::raise_memlock();
    let host = Host::running()?;
    // Nothing more is loaded here either: trying a program is how the node died.
    config.safe_mode = safe_mode::found(&config, &host);
    if args.leave_safe_mode {
        return leave(&config);
    }
    let cgroup_root = bpf::unified_mount();
    let features = {
        // The programs go before the cgroup does.
        let own = OwnCgroup::create("doctor");
        let cgroup = match &own {
            Ok(own) => own.path().to_owned(),
            // In a container that may not change cgroups: another that is empty does as well.
            Err(error) => own_cgroup::unpopulated().with_context(|| {
                format!("{error:#}; no empty cgroup either: hopline_feature_enabled of the agent tells the same")
            })?,
        };
        let options = ProbeOptions {
            cgroups: vec![cgroup],
            ring_bytes: RING_BYTES,
            rtt_histograms: 1,
            share_per_second: config.share,
            dns_ports: config.dns_ports.clone(),
            tls_probes: config.tls.probes,
            features: config.features.clone(),
            safe_mode: config.safe_mode.is_some(),
            fail_programs: Vec::new(),
        };
        let probes = Probes::load(&options)?;
        let mut features = probes.features().to_vec();
        features.push(agent::path_switched_off(&config).unwrap_or_else(tracer::feature));
        features
    };
    let limit = memory::own_limit();
    let plan = memory::Plan::new(config.limits, limit.as_ref());
    let file_bytes = plan.as_ref().map_or(0, |plan| plan.file_bytes);
    let targets = tls_targets::survey(&agent::tls_settings(&config, file_bytes));
    let memory = match &plan {
        Ok(plan) => plan.describe(),
        Err(error) => error.to_string(),
    };
    let pods = kubernetes::Settings::new(&config.kubernetes, &host.node).describe();
    let btf = Path::new(BTF).exists();
    let statistics = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1");
    if args.json {
        let whole = json!({
            "kernel": host.kernel,
            "btf": btf,
            "cgroup2": cgroup_root,
            "bpf_statistics": statistics,
            "memory": memory,
            "memory_limit_bytes": limit.map(|limit| limit.bytes),
            "pods": pods,
            "safe_mode": config.safe_mode.as_ref().map(|mode| json!({
                "reason": mode.reason.to_string(),
                "since_unix_s": mode.since_unix_s,
            })),
            "features": features,
            "tls_targets": targets,
        });
        print(&format!("{whole}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!(
        "kernel          {}\nBTF             {}\ncgroup v2       {}\nBPF statistics  {}\nmemory          {memory}\nnames of pods   {pods}\nsafe mode       {}\n\n{}",
        host.kernel,
        if btf { BTF } else { "none" },
        cgroup_root.map_or_else(|| "not mounted".to_owned(), |path| path.display().to_string()),
        if statistics {
            "on"
        } else {
            "off; `sysctl kernel.bpf_stats_enabled=1` makes hopline_bpf_* tell times"
        },
        config.safe_mode.as_ref().map_or_else(
            || "off".to_owned(),
            |mode| format!(
                "on: {}; `hopline doctor --leave-safe-mode` and a restart of the agent end it",
                mode.reason
            )
        ),
        human::features(&features) + &human::tls_targets(&targets),
    ))?;
    Ok(ExitCode::SUCCESS)
}
