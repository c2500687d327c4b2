//! What mtr and traceroute say of the same path.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::{FAMILIES, PORT, address_of, hop, start};
use crate::lab::Lab;
use crate::process::Process;
use crate::topology::{Family, Pair};
use crate::verdict::Verdict;

/// A hop as another program has it: its address, its least round trip in microseconds: they ask one after the other, and what
/// a machine that stands still adds is another time for each.
type Other = (IpAddr, f64);

/// Addresses must be equal, times within a millisecond (in an emulated machine five).
pub(super) fn compare(lab: &Lab, verdict: &mut Verdict, pair: &Pair) -> Result<()> {
    for family in FAMILIES {
        let path = start(lab, pair, family, &["--count", "20", "--interval", "100ms"])?.finish()?;
        for (program, others) in [
            ("mtr", mtr(lab, pair, family)?),
            ("traceroute", traceroute(lab, pair, family)?),
        ] {
            let name = format!("{}, {program}", family.name());
            verdict.count(format!("{name}: hops"), path.hops.len() as u64, others.len() as u64);
            for (number, (address, time_us)) in (1..).zip(others) {
                let ours = hop(&path, number);
                let shown = ours
                    .and_then(|hop| hop.address)
                    .map_or_else(String::new, |address| address.to_string());
                verdict.text(format!("{name}: address of hop {number}"), shown, address.to_string());
                verdict.text(
                    format!("{name}: which the lab gave it"),
                    address.to_string(),
                    address_of(family, number).to_string(),
                );
                let least = ours.and_then(|hop| hop.rtt_us).map_or(f64::NAN, |rtt| rtt.min as f64);
                verdict.time_us(
                    format!("{name}: least of hop {number}"),
                    least,
                    time_us,
                    lab.tolerance.least_us(),
                );
            }
        }
    }
    Ok(())
}

fn output(lab: &Lab, pair: &Pair, mut command: Command) -> Result<String> {
    command.stdout(Stdio::piped());
    Process::spawn(command, Some(&pair.client), &lab.tools)?.finish()
}

fn least(times_us: impl IntoIterator<Item = f64>) -> f64 {
    times_us.into_iter().fold(f64::NAN, f64::min)
}

/// Lines `h HOP ADDRESS` and `p HOP MICROSECONDS …`.
fn mtr(lab: &Lab, pair: &Pair, family: Family) -> Result<Vec<Other>> {
    let to = family.server(PORT);
    let mut command = Command::new("mtr");
    command.args([
        "--raw",
        "-n",
        "--tcp",
        "-c",
        "10",
        "-i",
        "0.3",
        "--gracetime",
        "1",
        "-P",
    ]);
    command.args([to.port().to_string(), to.ip().to_string()]);
    let text = output(lab, pair, command)?;
    let mut addresses: Vec<Option<IpAddr>> = Vec::new();
    let mut times_us: Vec<Vec<f64>> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind @ ("h" | "p"), at, value, ..] = words[..] else {
            continue;
        };
        let at: usize = at.parse().context("mtr's hop")?;
        addresses.resize(addresses.len().max(at + 1), None);
        times_us.resize(times_us.len().max(at + 1), Vec::new());
        if kind == "h" {
            addresses[at] = Some(value.parse().context("mtr's address")?);
        } else {
            times_us[at].push(value.parse().context("mtr's time")?);
        }
    }
    let hops = addresses.into_iter().zip(times_us);
    let mut hops: Vec<Other> = hops
        .map_while(|(address, times_us)| Some((address?, least(times_us))))
        .collect();
    // It goes on behind the destination until that has answered.
    let end = hops.iter().position(|(address, _)| *address == to.ip());
    hops.truncate(end.map_or(hops.len(), |end| end + 1));
    Ok(hops)
}

/// Lines ` HOP  ADDRESS  MILLISECONDS ms …`.
fn traceroute(lab: &Lab, pair: &Pair, family: Family) -> Result<Vec<Other>> {
    let to = family.server(PORT);
    let mut command = Command::new("traceroute");
    // One at a time: the answers' times hold no queue.
    command.args(["-n", "-T", "-q", "5", "-N", "1", "-p"]);
    command.args([to.port().to_string(), to.ip().to_string()]);
    let text = output(lab, pair, command)?;
    let hop = |line: &str| -> Option<Other> {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first()?.parse::<u8>().ok()?;
        let address = words.get(1)?.parse().ok()?;
        let times_us = words
            .windows(2)
            .filter(|pair| pair[1] == "ms")
            .filter_map(|pair| Some(pair[0].parse::<f64>().ok()? * 1e3));
        Some((address, least(times_us)))
    };
    Ok(text.lines().filter_map(hop).collect())
}
