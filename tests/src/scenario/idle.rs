//! Requests with pauses between them, some of which the server thinks about: acknowledgements that are held back for
//! 40 ms are no round trips.
//!
//! Truth: captures on the side of each record. They must have such acknowledgements, else the scenario shows nothing.

use anyhow::Result;

use super::rtt::compare::{self, Tolerance};
use crate::capture::{Capture, RoundTrip, RoundTrips};
use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Family, Pair};
use crate::traffic::pulse::pulses;
use crate::verdict::{Verdict, percentile};

const PORT: u16 = 8_080;
const CONNECTIONS: usize = 10;
/// Each way.
const DELAY_US: u64 = 2_000;
/// What takes this much longer than the path was held back.
const HELD_BACK_US: f64 = 34_000.0;
/// A bound of the histogram, less what the device's clock and the socket's may differ by.
const SLOW_US: f64 = 24_600.0;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let settings = RouterSettings {
        delay_us: DELAY_US,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let to = Family::Ipv4.server(PORT).to_string();
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "idle", lab.traffic.path())?;
    let mut server = lab.helper(&["serve", &format!("{to}/pulse")], &pair.server, &lab.traffic)?;
    server.wait_for("ready")?;
    let at_client = Capture::start(lab, "idle-client", &pair.client, DEVICE)?;
    let at_server = Capture::start(lab, "idle-server", &pair.server, DEVICE)?;
    let milliseconds = (lab.seconds(if lab.short { 40 } else { 300 }) * 1_000).to_string();
    let words = ["pulse", "--pause-ms", "300", "--think-every", "6", "--think", "12"];
    let words = words.into_iter().chain(["--milliseconds", &milliseconds]);
    let words: Vec<&str> = words.chain([to.as_str(); CONNECTIONS]).collect();
    let made = pulses(&lab.helper(&words, &pair.client, &lab.traffic)?.finish()?)?;
    trace.wait_for(2 * made.len())?;
    let metrics = agent.scrape_drained()?;
    let totals = agent.totals()?;
    let records = trace.finish()?;
    drop(server);
    agent.stop()?;

    for (role, capture) in [("client", at_client), ("server", at_server)] {
        let capture = RoundTrips::read(&capture.end()?)?;
        let of_role: Vec<&Record> = records.iter().filter(|record| record.role == role).collect();
        verdict.count(format!("{role} records"), of_role.len() as u64, made.len() as u64);
        let (mut held_back, mut genuine, mut slow) = (0, 0, 0);
        let mut worst = 0.0_f64;
        for record in of_role {
            let (late, in_time) = split(compare::truth(record, &capture));
            held_back += late;
            genuine += in_time.len() as u64;
            slow += in_time.iter().filter(|us| **us > SLOW_US).count();
            worst = worst.max(deviation(verdict, role, record, in_time));
        }
        let name = format!("{role} held back, in the capture");
        if role == "client" {
            verdict.at_least(name, held_back as f64, 5.0, "");
            let told = totals.get("/client/truth/delayed_acks") as f64;
            verdict.at_least("client held back, told", told, held_back as f64 * 0.9, "");
            verdict.at_most("client held back, told", told, held_back as f64 * 1.1, "");
        } else {
            // After a pause a client acknowledges at once.
            verdict.note(name, held_back as f64, "");
        }
        verdict.at_most(
            format!("{role} p50 and p99, worst deviation of what is allowed"),
            worst * 100.0,
            100.0,
            "%",
        );
        let labels = [("role", role)];
        let count = metrics.sum("hopline_tcp_rtt_seconds_count", &labels);
        let below = metrics.sum("hopline_tcp_rtt_seconds_bucket", &[("role", role), ("le", "0.0256")]);
        // A busy machine makes some that late without a timer, and a few of the timer's look as if the way back had done it.
        let allowed = slow as f64 + held_back as f64 / 100.0;
        let name = format!("{role} samples above 25.6 ms");
        verdict.at_most(name, count.saturating_sub(below) as f64, allowed, "");
        // A few of each connection are told as a mean: those of its first quarter of a second.
        verdict.at_least(format!("{role} samples"), count as f64, genuine as f64 * 0.9, "");
        verdict.at_most(format!("{role} samples"), count as f64, genuine as f64 * 1.1 + 20.0, "");
    }
    super::compare_losses(verdict, &metrics);
    Ok(())
}

/// How many were held back, and the others.
fn split(truth: &[RoundTrip]) -> (u64, Vec<f64>) {
    let least = truth.iter().map(|trip| trip.us).fold(f64::INFINITY, f64::min);
    let settled = compare::settled_us(truth);
    let all = settled.len();
    let in_time: Vec<f64> = settled.into_iter().filter(|us| *us < least + HELD_BACK_US).collect();
    ((all - in_time.len()) as u64, in_time)
}

/// Of the quantiles of one record, as a part of what is allowed.
fn deviation(verdict: &mut Verdict, role: &str, record: &Record, mut truth: Vec<f64>) -> f64 {
    let tolerance = Tolerance {
        part: 0.05,
        least_us: 1_000.0,
    };
    let rtt = &record.tcp.rtt_us;
    let compared = [(50, rtt.p50), (99, rtt.p99)].map(|(percent, measured)| {
        let measured = measured.map_or(f64::NAN, |us| us as f64);
        let truth = percentile(&mut truth, percent);
        let allowed = (truth * tolerance.part).max(tolerance.least_us);
        let name = format!("{role} port {} p{percent}", record.local.port);
        verdict.fold(|verdict| verdict.time_us(name, measured, truth, allowed));
        (measured - truth).abs() / allowed
    });
    compared.into_iter().fold(0.0, f64::max)
}
