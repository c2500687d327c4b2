//! The agent as the overlay `least-privilege` of `deploy/kubernetes` runs it: in a container of the image, root with the
//! capabilities of its manifest and no others, no new privileges, and a file system in which cgroups cannot be changed (without
//! an image: the same outside of a container). `connect`, `timeline` and `dns` must PASS with
//! it, and `doctor` must name what is off.
//!
//! The truth is the scenarios' own; each is this binary again, with a `hopline` that has given everything else up.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{dns, timeline};
use crate::cgroup;
use crate::container::{self, Image};
use crate::hopline;
use crate::lab::Lab;
use crate::process::{self, Process};
use crate::verdict::Verdict;

pub(super) const TOOLS: &[&str] = &["ip", "tcpdump", "setpriv", "unshare", "mount"];
/// As the manifest mounts it.
const TRACEFS: &str = "mount -t tracefs -o ro tracefs /sys/kernel/tracing";
const MANIFEST: &str = include_str!("../../../deploy/kubernetes/components/least-privilege/daemonset.yaml");

/// The feature that needs a capability which the manifest does not give.
const NEEDS_NET_RAW: &str = "path";

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let capabilities = capabilities(MANIFEST)?;
    verdict.note("capabilities in the manifest", capabilities.len() as f64, "");
    // The manifest mounts the node's tracefs; some nodes have none.
    let image = match Image::unpack(lab) {
        Ok(image) => Some(image),
        Err(reason) => {
            verdict.skip("in a container", format!("{reason:#}"));
            None
        }
    };
    let (hopline, without_tracefs) = if let Some(image) = &image {
        let hopline = image.least("hopline-least", &capabilities, true)?;
        let without_tracefs = image.least("hopline-no-tracefs", &capabilities, false)?;
        compare_contained(lab, verdict, &hopline, &capabilities)?;
        (hopline, without_tracefs)
    } else {
        let own = lab.hopline(&[]);
        let program = Path::new(own.get_program()).display().to_string();
        let cat = wrapped(lab, "cat-least", &capabilities, TRACEFS, "cat")?;
        compare_held(lab, verdict, &cat, &capabilities)?;
        (
            wrapped(lab, "hopline-least", &capabilities, TRACEFS, &program)?,
            wrapped(lab, "hopline-no-tracefs", &capabilities, "true", &program)?,
        )
    };
    without_net_admin(lab, verdict, &capabilities)?;
    doctor(verdict, "doctor", &hopline, &[NEEDS_NET_RAW])?;
    let mut off = needs_tracefs(lab)?;
    off.push(NEEDS_NET_RAW);
    doctor(verdict, "doctor without tracefs", &without_tracefs, &off)?;
    for (name, tools) in [("connect", &[][..]), ("timeline", timeline::TOOLS), ("dns", dns::TOOLS)] {
        if let Err(error) = crate::tools::check(tools) {
            verdict.skip(name, format!("{error:#}"));
            continue;
        }
        let said = scenario(lab, &hopline, name)?;
        verdict.text(name, said.split(':').next().unwrap_or_default(), format!("PASS {name}"));
    }
    Ok(())
}

/// The list after `add:`, in lower case as setpriv writes them.
fn capabilities(manifest: &str) -> Result<Vec<String>> {
    let (_, added) = manifest
        .split_once("add:\n")
        .context("the manifest adds no capabilities")?;
    let lines = added.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let names: Vec<String> = lines
        .map_while(|line| line.strip_prefix("- "))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .map(str::to_lowercase)
        .collect();
    ensure!(!names.is_empty(), "the manifest adds no capabilities");
    ensure!(
        manifest.contains("drop: [ALL]"),
        "the manifest does not drop all others"
    );
    Ok(names)
}

/// A program that becomes `program` with these capabilities, and cgroups that it can read alone.
fn wrapped(lab: &Lab, name: &str, capabilities: &[String], mount: &str, program: &str) -> Result<PathBuf> {
    let file = lab.file(name);
    let bounds = ["-all".to_owned()]
        .into_iter()
        .chain(capabilities.iter().map(|name| format!("+{name}")));
    let bounds = bounds.collect::<Vec<_>>().join(",");
    let cgroups = cgroup::mount_point()?;
    let cgroups = cgroups.display();
    let text = format!(
        "#!/bin/sh\n\
         exec unshare --mount --propagation private sh -c 'mount --bind {cgroups} {cgroups} && \
         mount -o remount,bind,ro {cgroups} && {mount} && exec \"$0\" \"$@\"' \
         setpriv --bounding-set={bounds} --inh-caps=-all --no-new-privs {program} \"$@\"\n"
    );
    fs::write(&file, text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

/// What the kernel says of a running agent's container: the manifest's capabilities and no others.
fn compare_contained(lab: &Lab, verdict: &mut Verdict, hopline: &Path, capabilities: &[String]) -> Result<()> {
    let mut command = Command::new(hopline);
    command
        .args(["agent", "--listen", "127.0.0.1:0", "--state-dir=", "--cgroup"])
        .arg(lab.traffic.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let agent = Process::spawn(command, None, &lab.tools)?;
    let mut held = None;
    process::poll(Duration::from_secs(10) * lab.patience(), || {
        held = container::held(&agent)
            .ok()
            .filter(|(bounds, _)| bounds.count_ones() < 20);
        Ok(held.is_some())
    })?;
    let (bounds, is_bound) = held.context("no container")?;
    verdict.count(
        "capabilities of the container (/proc)",
        bounds.count_ones().into(),
        capabilities.len() as u64,
    );
    verdict.count("no new privileges (/proc)", u64::from(is_bound), 1);
    agent.signal(Signal::SIGTERM)
}

/// What the kernel says that a program started so holds: the manifest's capabilities and no others.
fn compare_held(lab: &Lab, verdict: &mut Verdict, cat: &Path, capabilities: &[String]) -> Result<()> {
    let mut command = Command::new(cat);
    command
        .arg("/proc/self/status")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let status = Process::spawn(command, None, &lab.tools)?.finish()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("")
            .trim()
            .to_owned()
    };
    let bits = u64::from_str_radix(&field("CapEff:"), 16)?;
    verdict.count(
        "capabilities held (/proc)",
        bits.count_ones().into(),
        capabilities.len() as u64,
    );
    verdict.text("no new privileges (/proc)", field("NoNewPrivs:"), "1");
    Ok(())
}

/// Without `NET_ADMIN` no connection can be seen: the agent is alive and not ready, and says why in one line; `trace` does not
/// say that it is ready.
fn without_net_admin(lab: &Lab, verdict: &mut Verdict, capabilities: &[String]) -> Result<()> {
    let rest: Vec<String> = capabilities
        .iter()
        .filter(|name| *name != "net_admin")
        .cloned()
        .collect();
    let own = lab.hopline(&[]);
    let program = Path::new(own.get_program()).display().to_string();
    let without = wrapped(lab, "hopline-no-net-admin", &rest, "true", &program)?;
    let traffic = lab.traffic.path();
    let mut trace = Command::new(&without);
    trace.args(["trace", "--for", "2s", "--cgroup"]).arg(traffic);
    let output = trace.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let names = |said: &str| u64::from(said.contains("no new connection") && said.contains("CAP_NET_ADMIN"));
    let code = output.status.code().unwrap_or_default();
    verdict.count("trace without NET_ADMIN: exit code", u64::from(code.unsigned_abs()), 1);
    verdict.count("trace without NET_ADMIN says what is not seen", names(&said), 1);
    verdict.count(
        "trace without NET_ADMIN says ready",
        u64::from(said.contains("ready")),
        0,
    );

    let mut command = Command::new(&without);
    let address = hopline::free_address()?;
    command
        .args(["agent", "--listen", &address.to_string(), "--state-dir=", "--cgroup"])
        .arg(traffic)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let agent = Process::spawn(command, None, &lab.tools)?;
    process::poll(Duration::from_secs(10) * lab.patience(), || {
        Ok(hopline::get(address, "/livez").is_ok_and(|(status, _)| status == 200))
    })?;
    // As long as a search for open sockets takes: it is not what the agent waits for.
    std::thread::sleep(Duration::from_secs(1) * lab.patience());
    let (status, body) = hopline::get(address, "/readyz")?;
    verdict.count("/readyz without NET_ADMIN", status.into(), 503);
    verdict.count("/readyz without NET_ADMIN says why", names(&body), 1);
    verdict.count("/readyz without NET_ADMIN: lines", body.lines().count() as u64, 1);
    agent.signal(Signal::SIGTERM)
}

/// The features that only a classic tracepoint serves on this kernel, as hopline with all capabilities says.
fn needs_tracefs(lab: &Lab) -> Result<Vec<&'static str>> {
    const FEATURE: &str = "failure_before_syn";
    let output = lab.hopline(&["doctor", "--json"]).stdin(Stdio::null()).output()?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let features = said["features"].as_array().context("doctor names no features")?;
    let needs = features.iter().any(|feature| {
        let hook = feature["hook"].as_str().unwrap_or_default();
        feature["feature"] == FEATURE && hook.starts_with("tracepoint/")
    });
    Ok(if needs { vec![FEATURE] } else { Vec::new() })
}

/// What doctor says: these features are off, each with a reason, and why not all sockets are found.
fn doctor(verdict: &mut Verdict, name: &str, hopline: &Path, off: &[&str]) -> Result<()> {
    let output = Command::new(hopline)
        .args(["doctor", "--json"])
        .stdin(Stdio::null())
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(
        output.status.success(),
        "doctor ended with {}: {complaint}",
        output.status
    );
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let features = said["features"].as_array().context("doctor names no features")?;
    let is_off = |feature: &&Value| feature["enabled"] == false;
    let names = features
        .iter()
        .filter(is_off)
        .map(|feature| feature["feature"].as_str());
    let names: Vec<&str> = names.map(Option::unwrap_or_default).collect();
    verdict.text(format!("{name}: off"), names.join(" "), off.join(" "));
    let unexplained = features.iter().filter(is_off).filter(|feature| feature["reason"] == "");
    verdict.count(format!("{name}: without a reason"), unexplained.count() as u64, 0);
    let existing = features.iter().find(|feature| feature["feature"] == "existing");
    let reason = existing.map_or("", |feature| feature["reason"].as_str().unwrap_or_default());
    let is_there = reason.contains("SYS_ADMIN");
    verdict.count(format!("{name}: `existing` names SYS_ADMIN"), u64::from(is_there), 1);
    Ok(())
}

/// The last line of a scenario that runs with this hopline.
fn scenario(lab: &Lab, hopline: &Path, name: &str) -> Result<String> {
    let mut command = Command::new(lab.executable());
    command
        .args([name, "--short"])
        .env("HOPLINE_BIN", hopline)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let Some(sabotage) = lab.sabotage {
        command.args(["--sabotage", &format!("{sabotage:?}").to_lowercase()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = text.lines().filter(|line| line.ends_with("<- FAIL"));
    failed.for_each(|line| println!("{name}: {line}"));
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_capabilities() {
        let names = capabilities(MANIFEST).expect("capabilities");
        assert!(
            names.contains(&"bpf".to_owned()) && !names.contains(&"sys_admin".to_owned()),
            "{names:?}"
        );
    }
}
