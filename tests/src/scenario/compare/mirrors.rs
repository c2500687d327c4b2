//! `hopline compare` on the mirrors of the demo, by name: order, the missing intermediate, the silent one, `--fail-if`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::capture::{self, Capture, Conversation, decrypted};
use crate::certificates::Certificates;
use crate::demo::Network;
use crate::demo::mirrors::{ALL, FAST, HEAVY, Mirror, SILENT};
use crate::hopline::{Compare, Row};
use crate::lab::Lab;
use crate::router::DEVICE;
use crate::verdict::Verdict;

/// Address records.
const A: u16 = 1;
const PATIENCE: &str = "1s";

pub(super) fn run(lab: &Lab, verdict: &mut Verdict, certificates: Certificates) -> Result<()> {
    let network = Network::start(lab, certificates)?;
    let client = &network.pair.client;
    let requests: u64 = if lab.short { 6 } else { 20 };
    let traffic = Capture::start_long(lab, "mirrors", client, DEVICE)?;
    let lookups = Capture::start_dns(lab, "mirrors-lookups", client, "lo")?;
    let keys = lab.file("mirrors.keys");
    let authority = network.certificates.file("root.pem").display().to_string();
    // The silent one has every place but one: the others shall not wait for it.
    let fixed = ["--cacert", &authority, "--timeout", PATIENCE, "-c", "4", "--fail-if"];
    let mut words: Vec<String> = fixed.map(str::to_owned).to_vec();
    words.extend(["dns.p95 > 100ms".to_owned(), "-n".to_owned(), requests.to_string()]);
    words.extend(ALL.iter().map(|mirror| mirror.url()));
    let compare = Compare::run(lab, "mirrors", (client, Some(&network.names)), &keys, &words)?;

    let order = |urls: &mut dyn Iterator<Item = String>| {
        let hosts = urls.filter_map(|url| Some(url.strip_prefix("https://")?.split('.').next()?.to_owned()));
        hosts.collect::<Vec<_>>().join(" ")
    };
    // The two that serve nothing come last, as typed.
    verdict.text(
        "demo: order",
        order(&mut compare.rows.iter().map(|row| row.url.clone())),
        order(&mut ALL.iter().map(|mirror| mirror.url())),
    );
    for mirror in ALL {
        judge_row(verdict, mirror, row(&compare, mirror)?, requests);
    }
    let lines = compare.stderr.lines().filter(|line| line.contains(" has dns.p95 = "));
    let told: Vec<&str> = lines.collect();
    verdict.count("demo: exit code when a condition holds", super::exit(&compare), 1);
    verdict.count("demo: lines on conditions that hold", told.len() as u64, 1);
    verdict.count(
        "demo: lines that name the one with slow names",
        told.iter().filter(|line| line.contains(ALL[1].name)).count() as u64,
        1,
    );

    let (file, lookups) = (traffic.end()?, lookups.end()?);
    let conversations = capture::conversations(&file)?;
    let exchanges = decrypted::read(&file, &keys, &(FAST.port..=HEAVY.port))?;
    let messages = capture::dns::messages(&lookups)?.heard;
    for mirror in ALL {
        let row = row(&compare, mirror)?;
        let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (at, conversation) in conversations.to(mirror.at()) {
            let tcp = Conversation::client_tcp_us(conversation);
            times.entry("tcp").or_default().extend(tcp);
            if let Some(Ok(exchanges)) = exchanges.get(&(at, mirror.at())) {
                times.entry("tls").or_default().push(exchanges.tls_us);
                times.entry("ttfb").or_default().push(exchanges.ttfb_us);
            }
        }
        let asked = messages
            .iter()
            .filter(|message| message.name == mirror.name && message.kind == A);
        let mut sent = BTreeMap::new();
        for message in asked {
            let end = if message.is_response {
                message.destination
            } else {
                message.source
            };
            if !message.is_response {
                sent.insert((end, message.id), message.time_ns);
            } else if let Some(sent_ns) = sent.remove(&(end, message.id)) {
                let us = message.time_ns.saturating_sub(sent_ns) as f64 / 1e3;
                times.entry("dns").or_default().push(us);
            }
        }
        for (phase, mut truth) in times {
            let name = format!("demo: {}: {phase}", mirror.name);
            super::judge_phase(lab, verdict, &name, (row, phase), &mut truth);
        }
    }
    Ok(())
}

fn row<'a>(compare: &'a Compare, mirror: &Mirror) -> Result<&'a Row> {
    let url = mirror.url();
    let mut rows = compare.rows.iter();
    rows.find(|row| row.url == url).context("a mirror without row")
}

fn judge_row(verdict: &mut Verdict, mirror: &Mirror, row: &Row, requests: u64) {
    let name = |what: &str| format!("demo: {}: {what}", mirror.name);
    let lacks = mirror.name == HEAVY.name;
    let reason = if lacks {
        Some("cert_missing_intermediate")
    } else {
        (mirror.name == SILENT.name).then_some("no_answer")
    };
    verdict.count(name("ok"), row.ok, if reason.is_some() { 0 } else { requests });
    let expected: BTreeMap<String, u64> = reason.map(|reason| (reason.to_owned(), requests)).into_iter().collect();
    verdict.text(name("failures"), format!("{:?}", row.failures), format!("{expected:?}"));
    verdict.count(name("best"), row.best.into(), (mirror.name == FAST.name).into());
    let missing = if lacks { "intermediate.lab.test" } else { "" };
    verdict.text(name("missing"), super::missing(row).unwrap_or_default(), missing);
}
