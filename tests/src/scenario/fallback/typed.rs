//! `hopline trace -- go mod download …` as somebody types it: the lines and the summary that a terminal shows.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::cases::Case;
use super::{LIMIT, mirrors, module, prepare, surroundings, urls};
use crate::capture::Capture;
use crate::certificates::Certificates;
use crate::hopline::falsify_lines;
use crate::lab::Lab;
use crate::names::Names;
use crate::process::Process;
use crate::router::DEVICE;
use crate::topology::Pair;
use crate::verdict::Verdict;

/// Where the module's mirrors are, and who knows them.
pub(super) struct Site<'a> {
    pub(super) lab: &'a Lab,
    pub(super) pair: &'a Pair,
    pub(super) names: &'a Names,
    pub(super) certificates: &'a Certificates,
    pub(super) config: &'a Path,
}

pub(super) fn run(site: &Site<'_>, verdict: &mut Verdict, number: usize, case: &Case, separator: char) -> Result<()> {
    let Site { lab, pair, .. } = *site;
    let job = lab.file(format!("typed-{number}"));
    fs::create_dir_all(&job)?;
    prepare(&job, case)?;
    let [said, log] = ["said", "log"].map(|name| job.join(name));
    let hopline = lab.hopline(&["trace", "--config"]);
    let mut command = site.names.command(hopline.get_program());
    surroundings(&mut command, site.certificates, &job);
    command
        .args(hopline.get_args())
        .arg(site.config)
        .args(["--", "go", "mod", "download"])
        .arg(format!("{}@{}", module::MODULE, module::VERSION))
        .env("GOPROXY", urls(number, case).join(&separator.to_string()))
        .stdin(Stdio::null())
        .stdout(File::create(&said)?)
        .stderr(File::create(&log)?);
    let capture = Capture::start(lab, &format!("typed-{number}"), &pair.client, DEVICE)?;
    let status = Process::spawn(command, Some(&pair.client), &lab.tools)?.wait(LIMIT * lab.patience())?;
    let truth = capture.finish()?;
    let text = fs::read_to_string(&said)?;
    eprintln!("{text}");
    // One line a connection, then the table, each under its heading.
    let (connections, summary) = text.rsplit_once("DESTINATION ").context("no summary")?;
    let name = |what: &str| format!("typed, {}: {what}", case.name);
    let code = status.code().context("hopline trace was killed")?;
    verdict.count(name("exit code"), u64::from(code.unsigned_abs()), 0);

    let connections: Vec<String> = falsify_lines(lab.sabotage, connections);
    let summary: Vec<String> = falsify_lines(None, summary);
    for (letter, mirror) in ["a", "b"].into_iter().zip(mirrors(number, case)) {
        let end = format!("{}:{}", mirror.host, mirror.address.port());
        let count = truth.to(mirror.address).count() as u64;
        let of_it = |line: &&String| line.split_whitespace().any(|word| word == end);
        let told = connections
            .iter()
            .filter(of_it)
            .filter(|line| !line.contains(" STUCK "));
        verdict.count(
            name(&format!("lines of connections to {letter}")),
            told.count() as u64,
            count,
        );
        let summed = summary.iter().filter(of_it).count() as u64;
        verdict.count(
            name(&format!("lines of the summary on {letter}")),
            summed,
            (count > 0).into(),
        );
    }
    let fallbacks = connections.iter().filter(|line| line.contains(" FALLBACK ")).count() as u64;
    verdict.count(name("fallbacks told"), fallbacks, case.is_fallback().into());
    if case.is_stuck() {
        let stuck = connections
            .iter()
            .filter(|line| line.contains(" STUCK in tls "))
            .count() as u64;
        verdict.at_least(name("lines while it hangs"), stuck as f64, 1.0, "");
    }
    Ok(())
}
