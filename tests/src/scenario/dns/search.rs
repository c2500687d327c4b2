//! Programs that are gone before anybody can read their search list: each name that one asked for is one lookup, and what it
//! was denied on the way is no denial.
//!
//! `curl` a hundred times below a process that stays, which has the same files, and a hundred times with files of its own, where
//! only the sequence of names tells. The truth is the capture at the client.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::clients::{self, CONFIGURED};
use super::{Site, truth};
use crate::capture::{self, Capture};
use crate::hopline::{Lookup, Trace};
use crate::nameserver::script::{OUTSIDE, SEARCH, SURE};
use crate::process::Process;
use crate::router::DEVICE;
use crate::verdict::{Verdict, percentile};

/// Programs of each kind.
const EACH: usize = 100;
/// How many at a time.
const PARALLEL: &str = "3";
/// Zones of names in turn: the suffix that completes a name, or none; the last does not exist.
const KINDS: [(&str, &str); 4] = [("ok", "b"), ("ok", "l"), ("ok", "e"), ("nx", "e")];
/// A program for each name of a list, below a shell that stays; addresses that it is given lead nowhere.
const FETCH: &str = "curl --silent --output /dev/null --max-time 5 \"http://$0/\"; true";
/// The same in place of the shell.
const FETCH_ALONE: &str = "exec curl --silent --output /dev/null --max-time 5 \"http://$0/\"";

pub(super) fn run(site: &Site<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = site.lab;
    let capture = Capture::start_dns(lab, &format!("search-{}", site.delay_ms), &site.pair.client, DEVICE)?;
    let trace = Trace::start_dns(lab, "search", lab.traffic.path())?;
    let configuration = lab.file("resolv-search");
    let text = format!(
        "search {}\noptions ndots:5 timeout:{}\nnameserver {}\n",
        SEARCH.join(" "),
        clients::timeout(lab).as_secs(),
        site.addresses[0].ip()
    );
    fs::write(&configuration, text)?;
    let switch = lab.file("nsswitch-search");
    fs::write(&switch, "hosts: files dns\n")?;
    let own_files = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        CONFIGURED,
        "sh",
    ];
    for who in ["below", "alone"] {
        let list = lab.file(format!("search-{who}"));
        let names: Vec<String> = KINDS
            .iter()
            .cycle()
            .enumerate()
            .take(EACH)
            .map(|(number, (kind, zone))| {
                let token = format!("{kind}-{zone}-{SURE}-{number}-{who}{}", site.delay_ms);
                if *zone == "e" {
                    format!("{token}.{OUTSIDE}")
                } else {
                    token
                }
            })
            .collect();
        fs::write(&list, names.join("\n") + "\n")?;
        let (configuration, switch) = (path(&configuration)?, path(&switch)?);
        let each = ["xargs", "-a", path(&list)?, "-P", PARALLEL, "-n", "1"];
        let with_files = own_files.into_iter().chain([configuration, switch]);
        let words: Vec<&str> = if who == "below" {
            with_files.chain(each).chain(["sh", "-c", FETCH]).collect()
        } else {
            each.into_iter()
                .chain(with_files)
                .chain(["sh", "-c", FETCH_ALONE])
                .collect()
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
        let cgroup = lab.traffic.child(&format!("search-{who}-{}", site.delay_ms))?;
        let output = Process::spawn(command, Some(&site.pair.client), &cgroup)?.finish();
        // Else xargs ends as its programs do, which fetch nothing.
        if who == "below" {
            output.context("curl below a process that stays")?;
        }
    }
    // A denial is over a second after the last answer.
    thread::sleep(Duration::from_secs(3) * lab.patience());
    let said = trace.finish_lookups()?;
    let messages = capture::dns::messages(&capture.end()?)?;
    judge(site, verdict, &said, &truth::names(&messages.heard));
    Ok(())
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("temporary directory")
}

fn judge(site: &Site<'_>, verdict: &mut Verdict, said: &[Lookup], truth: &truth::Names) {
    let mut by_name: HashMap<(&str, &str), Vec<&Lookup>> = HashMap::new();
    for lookup in said.iter().filter(|lookup| lookup.role == "client") {
        let key = (truth::token(&lookup.name), lookup.qtype.as_str());
        by_name.entry(key).or_default().push(lookup);
    }
    for who in ["below", "alone"] {
        let suffix = format!("{who}{}", site.delay_ms);
        let (mut names, mut once, mut rcodes, mut queries) = (0, 0, 0, 0);
        let (mut measured, mut expected) = (Vec::new(), Vec::new());
        let (mut false_denials, mut beside) = (0_u64, 0_u64);
        for ((token, kind), name) in truth.iter().filter(|((token, _), _)| token.ends_with(&suffix)) {
            let [captured] = name.lookups.as_slice() else {
                verdict.trouble(format!("{token}: {} lookups in the capture", name.lookups.len()));
                continue;
            };
            names += 1;
            let kind = if *kind == 1 { "A" } else { "AAAA" };
            let found = by_name.get(&(token.as_str(), kind)).map_or(&[][..], Vec::as_slice);
            let is_denial = |lookup: &&&Lookup| lookup.rcode == "NXDOMAIN";
            false_denials += if captured.rcode() == "NXDOMAIN" {
                found.len().saturating_sub(1) as u64
            } else {
                found.iter().filter(is_denial).count() as u64
            };
            let [lookup] = found else { continue };
            once += 1;
            rcodes += u64::from(lookup.rcode == captured.rcode());
            queries += u64::from(lookup.queries == captured.queries);
            if let (Some(duration_us), Some(truth_us)) = (lookup.duration_us, captured.duration_us()) {
                let duration_us = duration_us as f64;
                beside += u64::from((duration_us - truth_us).abs() > site.lab.tolerance.of_phase_us(truth_us));
                measured.push(duration_us);
                expected.push(truth_us);
            }
        }
        let name = |what: &str| format!("search list, curl {who}, {what}");
        // A and AAAA.
        verdict.count(name("names"), names, 2 * EACH as u64);
        verdict.count(name("one lookup each"), once, names);
        verdict.count(name("false NXDOMAIN"), false_denials, 0);
        verdict.count(name("rcode"), rcodes, names);
        verdict.count(name("queries"), queries, names);
        verdict.count(name("durations beside the capture's"), beside, 0);
        for percent in [50, 95] {
            let truth_us = percentile(&mut expected, percent);
            verdict.time_us(
                name(&format!("duration p{percent}")),
                percentile(&mut measured, percent),
                truth_us,
                site.lab.tolerance.of_phase_us(truth_us),
            );
        }
    }
}
