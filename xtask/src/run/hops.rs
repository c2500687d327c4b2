//! The path to the first mirror, as the agent traced it, beside what the lab's routers add to a round trip. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::history::percentile;
use super::table::time;

/// How far a hop's usual round trip may be from what its routers add, microseconds or a part of it.
const WITHIN_US: f64 = 1_000.0;
const WITHIN: f64 = 0.05;

/// A router of the lab: its address, and the round trip to it in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Router {
    address: String,
    us: f64,
}

impl Router {
    /// The lab's line `router ADDRESS US`, without its first word.
    pub(super) fn read(line: &str) -> Option<Self> {
        let (address, us) = line.split_once(' ')?;
        Some(Self {
            address: address.to_owned(),
            us: us.parse().ok()?,
        })
    }
}

/// What the traces of one destination said, hop by hop.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// Those that were taken in.
    traced_ns: Vec<u64>,
    /// By number: addresses, medians in microseconds.
    hops: BTreeMap<u64, (Vec<String>, Vec<f64>)>,
}

impl Traces {
    /// Takes in the latest trace of `destination` from an answer of `/api/v1/paths`, unless that is known.
    pub(super) fn add(&mut self, answer: &Value, destination: &str) {
        let paths = answer["paths"].as_array().into_iter().flatten();
        let is_meant = |path: &&Value| {
            let host = path["destination"].as_str().unwrap_or_default();
            super::table::endpoint(host, &path["port"]) == destination
        };
        for path in paths.filter(is_meant) {
            let traced_ns = path["traced_ns"].as_u64().unwrap_or_default();
            if self.traced_ns.contains(&traced_ns) {
                continue;
            }
            self.traced_ns.push(traced_ns);
            for hop in path["path"]["hops"].as_array().into_iter().flatten() {
                let (addresses, times) = self.hops.entry(hop["hop"].as_u64().unwrap_or_default()).or_default();
                if let Some(address) = hop["address"].as_str()
                    && !addresses.iter().any(|known| known == address)
                {
                    addresses.push(address.to_owned());
                }
                times.extend(hop["rtt_us"]["p50"].as_f64());
            }
        }
    }

    /// How many there were.
    pub(super) fn count(&self) -> usize {
        self.traced_ns.len()
    }

    /// A line for each router; an error when one of them is another, or further away than it is.
    pub(super) fn compare(&self, routers: &[Router]) -> Result<String> {
        let mut text = format!(
            "{:<32} {:<15} {:>9} {:>9} {:>10}\n",
            format!("p50 OF {} TRACES", self.count()),
            "ADDRESS",
            "HOPLINE",
            "ROUTERS",
            "DEVIATION"
        );
        let mut wrong = Vec::new();
        for (number, router) in (1..).zip(routers) {
            let (addresses, mut times) = self.hops.get(&number).cloned().unwrap_or_default();
            let measured = percentile(&mut times, 50).unwrap_or(f64::NAN);
            let deviation = measured - router.us;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<32} {:<15} {:>9} {:>9} {:>10}",
                format!("hop {number}"),
                addresses.join(" "),
                time(Some(measured)),
                time(Some(router.us)),
                format!("{:+.2} ms", deviation / 1e3)
            );
            let is_near = deviation.abs() <= (router.us * WITHIN).max(WITHIN_US);
            if addresses != [router.address.as_str()] || !is_near {
                wrong.push(number);
            }
        }
        ensure!(wrong.is_empty(), "hops {wrong:?} are not as the routers are:\n{text}");
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn traces(third_us: u64) -> Traces {
        let mut traces = Traces::default();
        for traced_ns in [1, 2, 2] {
            let hop = |number: u64, us: u64| json!({"hop": number, "address": format!("10.0.0.{number}"), "rtt_us": {"p50": us}});
            let answer = json!({"paths": [
                {"destination": "b.test", "port": 443, "traced_ns": 9, "path": {"hops": [hop(7, 1)]}},
                {"destination": "a.test", "port": 443, "traced_ns": traced_ns,
                 "path": {"hops": [hop(1, 1_010), hop(2, 2_020), hop(3, third_us)]}},
            ]});
            traces.add(&answer, "a.test:443");
        }
        traces
    }

    #[test]
    fn hops_are_those_of_the_routers() {
        let router = |line| Router::read(line).expect("a router");
        let routers = ["10.0.0.1 1000", "10.0.0.2 2000", "10.0.0.3 9000"].map(router);
        let right = traces(9_100);
        assert_eq!(right.count(), 2);
        let text = right.compare(&routers).expect("as they are");
        assert!(text.contains("+0.10 ms"), "{text}");
        assert!(traces(10_100).compare(&routers).is_err(), "later");
        let other = [router("10.0.0.9 1000")];
        assert!(right.compare(&other).is_err(), "another address");
        let more = [routers.to_vec(), vec![router("10.0.0.4 9000")]].concat();
        assert!(right.compare(&more).is_err(), "one that was not seen");
    }
}
