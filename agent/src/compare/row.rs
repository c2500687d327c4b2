//! One URL: its requests counted, its phases in quantiles.
use std::collections::BTreeMap;

use super::{Measured, Quantiles, failure};
use crate::{
    connection::Phase,
    fetch::{Fetched, Presented, Target},
};

/// A value for each phase of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Phases<T> {
    /// The name's look-up.
    pub dns: Option<T>,
    /// TCP's handshake.
    pub tcp: Option<T>,
    /// The TLS handshake.
    pub tls: Option<T>,
    /// From the request to the answer's first byte.
    pub ttfb: Option<T>,
}

impl<T: Copy> Phases<T> {
    /// All of them, in the order in which they happen.
    pub fn all(&self) -> [Option<T>; 4] {
        [self.dns, self.tcp, self.tls, self.ttfb]
    }

    /// One of them.
    pub fn get(&self, phase: Phase) -> Option<T> {
        match phase {
            Phase::Dns => self.dns,
            Phase::Tcp => self.tcp,
            Phase::Tls => self.tls,
            Phase::Ttfb => self.ttfb,
            Phase::Turn => None,
        }
    }
}

/// What was found of one URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The URL as typed.
    pub url: String,
    /// Its host.
    pub host: String,
    /// Requests that ended.
    pub requests: u64,
    /// Those that were answered with a status below 400.
    pub ok: u64,
    /// Connections that the kernel side told of.
    pub measured: u64,
    /// The others by reason.
    pub failures: BTreeMap<String, u64>,
    /// Of every request that got through the phase; time to first byte of the answered ones alone.
    pub phases: Phases<Quantiles>,
    /// TLS version and cipher suite of the last connection.
    pub agreed: Option<(String, String)>,
    /// What the server showed of itself, the last time.
    pub presented: Option<Presented>,
    /// No other is better.
    pub is_best: bool,
}

impl Row {
    /// Counts the requests to `target`, each with its connection.
    pub(super) fn new<'a>(
        target: &Target,
        requests: impl Iterator<Item = (&'a Fetched, Option<&'a Measured>)>,
    ) -> Self {
        let mut row = Self {
            url: target.url.clone(),
            host: target.host.clone(),
            requests: 0,
            ok: 0,
            measured: 0,
            failures: BTreeMap::new(),
            phases: Phases {
                dns: None,
                tcp: None,
                tls: None,
                ttfb: None,
            },
            agreed: None,
            presented: None,
            is_best: false,
        };
        let mut durations_us: [Vec<u64>; 4] = Default::default();
        for (fetched, measured) in requests {
            row.requests += 1;
            let failure = failure(fetched, measured);
            let is_ok = failure.is_none();
            match failure {
                Some(reason) => *row.failures.entry(reason).or_default() += 1,
                None => row.ok += 1,
            }
            if let Some(presented) = &fetched.presented {
                row.presented = Some(presented.clone());
            }
            let Some(measured) = measured else { continue };
            row.measured += 1;
            if measured.agreed.is_some() {
                row.agreed.clone_from(&measured.agreed);
            }
            let mut phases_us = measured.phases_us;
            // How fast an error page comes says nothing of what was asked for.
            phases_us.ttfb = phases_us.ttfb.filter(|_| is_ok);
            for (durations_us, duration_us) in durations_us.iter_mut().zip(phases_us.all()) {
                durations_us.extend(duration_us);
            }
        }
        let [dns, tcp, tls, ttfb] = durations_us.map(|mut durations_us| Quantiles::of(&mut durations_us));
        row.phases = Phases { dns, tcp, tls, ttfb };
        row
    }

    /// Sum of the medians; `None` when nothing was answered.
    pub fn total_us(&self) -> Option<u64> {
        self.phases.ttfb?;
        Some(self.phases.all().iter().flatten().map(|quantiles| quantiles.p50).sum())
    }

    /// The smaller, the better.
    pub(super) fn rank(&self) -> (u8, u64) {
        let class = match (self.ok, self.failures.len()) {
            (0, _) => 2,
            (_, 0) => 0,
            _ => 1,
        };
        (class, self.total_us().unwrap_or(u64::MAX))
    }
}
