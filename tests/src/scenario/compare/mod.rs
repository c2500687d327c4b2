//! `hopline compare` over a path of 20 ms: mirrors that are good, old, slow, lack their intermediate, fail or are gone.
//!
//! Its quantiles are compared with those of the same connections in the capture at the client, decrypted with the
//! client's keys. A mirror whose certificates are not good is asked nothing: it has a first byte with `--insecure` only.
//! Then the same of the demo's mirrors (`mirrors`), which are asked for by name.

mod mirrors;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::capture::decrypted::{self, ByConnection};
use crate::capture::{self, Capture, Conversation, Conversations};
use crate::certificates::Certificates;
use crate::hopline::{Compare, Row};
use crate::lab::{Lab, Tolerance};
use crate::nginx;
use crate::process::Process;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Pair, SERVER4};
use crate::verdict::{Verdict, percentile};

const GOOD: u16 = 9000;
const OLD: u16 = 9001;
const SLOW: u16 = 9002;
const LACKING: u16 = 9003;
const FAILING: u16 = 9004;
const GONE: u16 = 9005;
/// Where nginx asks for pages that take a while.
const THINKER: &str = "127.0.0.1:8000";
const THINK_MS: u64 = 60;

/// What must be said of a mirror.
struct Mirror {
    port: u16,
    tls: Option<&'static str>,
    failure: Option<&'static str>,
    missing: Option<&'static str>,
}

/// In the order in which they must come; the failing ones, which have no figure to go by, as typed.
const MIRRORS: [Mirror; 6] = [
    Mirror::good(GOOD, "1.3"),
    // Its handshake has one more round trip.
    Mirror::good(OLD, "1.2"),
    Mirror::good(SLOW, "1.3"),
    Mirror {
        failure: Some("cert_missing_intermediate"),
        missing: Some("intermediate.lab.test"),
        ..Mirror::good(LACKING, "1.3")
    },
    Mirror {
        failure: Some("http_5xx"),
        ..Mirror::good(FAILING, "1.3")
    },
    Mirror {
        tls: None,
        failure: Some("refused"),
        ..Mirror::good(GONE, "")
    },
];

impl Mirror {
    const fn good(port: u16, tls: &'static str) -> Self {
        Self {
            port,
            tls: Some(tls),
            failure: None,
            missing: None,
        }
    }

    fn url(&self) -> String {
        let path = if self.port == SLOW {
            format!("/think/{THINK_MS}")
        } else {
            "/".to_owned()
        };
        format!("https://{SERVER4}:{}{path}", self.port)
    }
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let certificates = Certificates::make(lab)?;
    // Half of it each way.
    let settings = RouterSettings {
        delay_us: 10_000,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let servers = serve(lab, &pair, &certificates)?;

    let requests = if lab.short { 10 } else { 30 };
    let authority = certificates.file("root.pem").display().to_string();
    let words = |more: &[&str]| {
        let mut words = vec!["--cacert".to_owned(), authority.clone()];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    let mut all = words(&["--fail-if", "ttfb.p50 > 60ms", "--fail-if", "failures > 1000", "-n"]);
    all.push(requests.to_string());
    all.extend(MIRRORS.iter().map(Mirror::url));
    let (compare, truth) = measure(lab, &pair, "compare", &all)?;
    judge_rows(verdict, &compare.rows, requests);
    for mirror in &MIRRORS {
        // No request is sent where no certificate is trusted.
        let asked = if mirror.missing.is_none() && mirror.tls.is_some() {
            requests
        } else {
            0
        };
        judge_times(lab, verdict, &compare.rows, &truth, mirror, asked)?;
    }
    verdict.count("exit code when a condition holds", exit(&compare), 1);
    let slow = MIRRORS[2].url();
    let said = format!("--fail-if 'ttfb.p50 > 60ms': {slow} has ttfb.p50 = ");
    let lines = compare.stderr.lines().filter(|line| line.contains(" has "));
    verdict.count("lines on conditions that hold", lines.clone().count() as u64, 1);
    let told = lines.filter(|line| line.contains(&said)).count();
    verdict.count("lines that name the slow one", told as u64, 1);

    // The chain that lacks a certificate, and is gone on with.
    let lacking = &MIRRORS[3];
    let mut one = words(&["--insecure", "--fail-if", "failures > 0", "-n"]);
    one.extend([requests.to_string(), lacking.url()]);
    let (compare, truth) = measure(lab, &pair, "insecure", &one)?;
    judge_times(lab, verdict, &compare.rows, &truth, lacking, requests)?;
    let missing = compare.rows.first().and_then(missing);
    verdict.text(
        "--insecure: missing",
        missing.unwrap_or_default(),
        "intermediate.lab.test",
    );
    verdict.count("--insecure: exit code when no condition holds", exit(&compare), 0);
    // The demo's network has the same addresses.
    drop((servers, pair));
    mirrors::run(lab, verdict, certificates)
}

fn exit(compare: &Compare) -> u64 {
    u64::from(compare.exit.unsigned_abs())
}

fn serve(lab: &Lab, pair: &Pair, certificates: &Certificates) -> Result<[Process; 2]> {
    let mut thinker = lab.helper(&["serve", &format!("{THINKER}/think")], &pair.server, &lab.tools)?;
    thinker.wait_for("ready")?;
    let server = |port: u16, chain: &str, versions: &str, answer: &str| {
        let [chain, key] = [chain, "leaf.key"].map(|name| certificates.file(name));
        format!(
            "server {{ listen {SERVER4}:{port} ssl; ssl_protocols {versions}; ssl_certificate {}; \
             ssl_certificate_key {}; location / {{ {answer} }} }}",
            chain.display(),
            key.display()
        )
    };
    let newest = "TLSv1.2 TLSv1.3";
    let servers = [
        server(GOOD, "good-chain.pem", newest, ""),
        server(OLD, "good-chain.pem", "TLSv1.2", ""),
        server(SLOW, "good-chain.pem", newest, &format!("proxy_pass http://{THINKER};")),
        server(LACKING, "good.pem", newest, ""),
        server(FAILING, "good-chain.pem", newest, "return 503;"),
    ];
    let probe = [SocketAddr::new(SERVER4.into(), FAILING)];
    let nginx = nginx::start_servers(lab, "nginx", &pair.server, &lab.tools, &servers.join(" "), &probe)?;
    Ok([nginx, thinker])
}

/// What passed the client's device during one run.
struct Truth {
    handshakes: Conversations,
    exchanges: ByConnection,
}

fn measure(lab: &Lab, pair: &Pair, name: &str, words: &[String]) -> Result<(Compare, Truth)> {
    let capture = Capture::start_long(lab, name, &pair.client, DEVICE)?;
    let keys = lab.file(format!("{name}.keys"));
    let compare = Compare::run(lab, name, (&pair.client, None), &keys, words)?;
    Ok((compare, truth(&capture.end()?, &keys)?))
}

fn truth(file: &Path, keys: &Path) -> Result<Truth> {
    Ok(Truth {
        handshakes: capture::conversations(file)?,
        exchanges: decrypted::read(file, keys, &(GOOD..=GONE))?,
    })
}

/// Order, counts and reasons.
fn judge_rows(verdict: &mut Verdict, rows: &[Row], requests: u64) {
    // Ports tell them apart.
    let order = |urls: &mut dyn Iterator<Item = String>| {
        let ends = urls.filter_map(|url| url.rsplit(':').next().map(str::to_owned));
        ends.collect::<Vec<_>>().join(" ")
    };
    let expected = order(&mut MIRRORS.iter().map(Mirror::url));
    verdict.text("order", order(&mut rows.iter().map(|row| row.url.clone())), expected);
    for (mirror, row) in MIRRORS.iter().zip(rows) {
        let name = |what: &str| format!("{}: {what}", mirror.port);
        let ok = if mirror.failure.is_some() { 0 } else { requests };
        verdict.count(name("requests"), row.requests, requests);
        verdict.count(name("ok"), row.ok, ok);
        verdict.count(name("measured"), row.measured, requests);
        let failures = mirror.failure.map(|reason| (reason.to_owned(), requests));
        let as_text = |failures: &BTreeMap<String, u64>| format!("{failures:?}");
        verdict.text(
            name("failures"),
            as_text(&row.failures),
            as_text(&failures.into_iter().collect()),
        );
        verdict.count(name("best"), row.best.into(), (mirror.port == GOOD).into());
        let version = row.tls.as_ref().and_then(|tls| tls.version.as_deref());
        verdict.text(name("TLS"), version.unwrap_or("none"), mirror.tls.unwrap_or("none"));
        let Some(chain) = row.tls.as_ref().and_then(|tls| tls.chain.as_ref()) else {
            verdict.count(name("chains"), 0, mirror.tls.is_some().into());
            continue;
        };
        verdict.text(
            name("missing"),
            missing(row).unwrap_or_default(),
            mirror.missing.unwrap_or_default(),
        );
        verdict.count(name("complete"), chain.complete.into(), mirror.missing.is_none().into());
        verdict.text(name("subject"), &chain.subject, "leaf.lab.test");
        // Made for 30 days, a moment ago.
        verdict.count(name("days to expiry"), chain.expires_days.unsigned_abs(), 29);
    }
}

fn missing(row: &Row) -> Option<&str> {
    row.tls.as_ref()?.chain.as_ref()?.missing.as_deref()
}

/// The quantiles of one mirror that got `asked` requests, beside those of its connections in the capture.
fn judge_times(
    lab: &Lab,
    verdict: &mut Verdict,
    rows: &[Row],
    truth: &Truth,
    mirror: &Mirror,
    asked: u64,
) -> Result<()> {
    let url = mirror.url();
    let row = rows.iter().find(|row| row.url == url).context("a mirror without row")?;
    let server = SocketAddr::new(SERVER4.into(), mirror.port);
    let (mut tcp, mut tls, mut ttfb) = (Vec::new(), Vec::new(), Vec::new());
    for (client, conversation) in truth.handshakes.to(server) {
        if mirror.tls.is_some() {
            tcp.extend(Conversation::client_tcp_us(conversation));
        }
        if let Some(Ok(exchanges)) = truth.exchanges.get(&(client, server)) {
            tls.push(exchanges.tls_us);
            ttfb.push(exchanges.ttfb_us);
        }
    }
    let insecure = if mirror.missing.is_some() && asked > 0 {
        "--insecure "
    } else {
        ""
    };
    verdict.count(
        format!("{insecure}{}: requests captured", mirror.port),
        tls.len() as u64,
        asked,
    );
    if row.ok == 0 {
        // An error page's first byte is not counted.
        ttfb.clear();
    }
    for (phase, mut truth) in [("tcp", tcp), ("tls", tls), ("ttfb", ttfb)] {
        let name = format!("{insecure}{}: {phase}", mirror.port);
        // Without a request the capture does not tell when TLS was done.
        if truth.is_empty() {
            let is_told = row.phases_us.get(phase).copied().flatten().is_some();
            verdict.count(name, is_told.into(), (phase == "tls" && mirror.tls.is_some()).into());
        } else {
            judge_phase(lab, verdict, &name, (row, phase), &mut truth);
        }
    }
    Ok(())
}

/// A phase's p50 and p95 beside those of the connections in the capture.
fn judge_phase(lab: &Lab, verdict: &mut Verdict, name: &str, (row, phase): (&Row, &str), truth: &mut [f64]) {
    let quantiles = row.phases_us.get(phase).copied().flatten();
    for percent in [50, 95] {
        let measured = quantiles.map(|both| if percent == 50 { both.p50 } else { both.p95 });
        let measured = measured.map_or(f64::NAN, |us| us as f64);
        let truth = percentile(truth, percent);
        if percent == 95 && lab.tolerance == Tolerance::Vm {
            // Of few connections it is the slowest: between device and socket an emulated machine loses time.
            verdict.note(format!("{name} p{percent} off by"), measured - truth, "us");
        } else {
            let tolerance_us = lab.tolerance.of_phase_us(truth);
            verdict.time_us(format!("{name} p{percent}"), measured, truth, tolerance_us);
        }
    }
}
