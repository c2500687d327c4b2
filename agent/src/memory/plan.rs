//! What fits into a memory limit. Depends on its arguments alone.
//!
//! With [`WHOLE_BYTES`] or more every ring and table has its usual size. Below that all of them get smaller in proportion, so
//! that all of them full at once still fit; below [`LEAST_BYTES`] the agent does not start. A value of `limits` that is not
//! the default is obeyed, and where the whole cannot fit then, a warning says so.
use super::{MemoryLimit, shown};
use crate::{
    capacity::Share,
    config::{LEAST_SERIES, LimitsConfig},
};

/// What the agent takes at most, everything full at once: the lab's scenario `bounds`.
const WHOLE_BYTES: u64 = 512 << 20;
/// What it takes with empty tables: the program, its threads, kernel programs and their maps, and the kernel's types for a
/// moment at the start.
const EMPTY_BYTES: u64 = 32 << 20;
/// The start alone takes 36 MiB on two processors, most of it for the kernel's types; more processors take more.
const LEAST_BYTES: u64 = 56 << 20;
/// Of the limit, the ring of connection events gets one part in so many; all rings together take twice as much.
const RING_PART: u64 = 64;
/// Bytes that a file with TLS code may need while it is read.
const FILE_BYTES: usize = 64 << 20;

/// At the worst, kernel memory included: with names of 253 bytes and samples of every length.
const CONNECTION_BYTES: u64 = 2_560;
/// With the longest path, ancestry and cgroup.
const PROCESS_BYTES: u64 = 1_280;
/// A fiftieth of a destination with full windows, and of a scrape's copy and text of it.
const SERIES_BYTES: u64 = 3_072;

/// State in a watched socket, with what the allocator adds: kernel memory, as all that follows.
const SOCKET_BYTES: u64 = 1_280;
/// Round trips by length, of half of the connections at most.
const RTT_BYTES: u64 = 512;
/// Whatever else grows: sockets of scrapers, page tables, open files.
const OTHER_KERNEL_BYTES: usize = 16 << 20;

/// The sizes to start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sizes of what the configuration sizes.
    pub limits: LimitsConfig,
    /// Sizes of all other tables.
    pub tables: Share,
    /// Bytes of a file with TLS code that may be in memory at once.
    pub file_bytes: u64,
    /// Kernel memory that may be taken beside what is loaded, most of it for watched sockets.
    pub kernel_bytes: u64,
    /// The memory limit, where it makes anything smaller.
    limit_bytes: Option<u64>,
    /// What was made smaller, for the log; empty where nothing was.
    pub reduced: Vec<String>,
    /// Why the whole may not fit; empty where it does.
    pub warning: String,
}

/// The limit leaves no room to start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hopline needs a memory limit of {} or more, but {} allows {}", shown(LEAST_BYTES), limit.file.display(), shown(limit.bytes))]
pub struct TooLittle {
    limit: MemoryLimit,
}

impl Plan {
    /// What fits; the usual sizes without a limit.
    pub fn new(limits: LimitsConfig, limit: Option<&MemoryLimit>) -> Result<Self, TooLittle> {
        let usual = LimitsConfig::default();
        let Some(limit) = limit.filter(|limit| limit.bytes < WHOLE_BYTES) else {
            return Ok(Self {
                limits,
                tables: Share::WHOLE,
                file_bytes: FILE_BYTES as u64,
                kernel_bytes: kernel_bytes(&limits, Share::WHOLE),
                limit_bytes: None,
                reduced: Vec::new(),
                warning: String::new(),
            });
        };
        if limit.bytes < LEAST_BYTES {
            return Err(TooLittle { limit: limit.clone() });
        }
        let tables = Share::new(limit.bytes - EMPTY_BYTES, WHOLE_BYTES - EMPTY_BYTES);
        let ring_bytes = usual.ring_bytes.min(1 << (limit.bytes / RING_PART).ilog2());
        let fitting = LimitsConfig {
            ring_bytes,
            connections: tables.of(usual.connections),
            processes: tables.of(usual.processes),
            series: tables.of(usual.series).max(LEAST_SERIES),
        };
        let mut plan = Self {
            limits,
            tables,
            file_bytes: tables.of(FILE_BYTES) as u64,
            kernel_bytes: 0,
            limit_bytes: Some(limit.bytes),
            reduced: Vec::new(),
            warning: String::new(),
        };
        if limits.ring_bytes == usual.ring_bytes && fitting.ring_bytes < usual.ring_bytes {
            plan.limits.ring_bytes = fitting.ring_bytes;
            let [from, to] = [usual.ring_bytes, fitting.ring_bytes].map(|bytes| shown(bytes.into()));
            plan.reduced.push(format!("ring {to} instead of {from}"));
        }
        let mut fit = |name, set: &mut usize, usual, fitting| {
            if *set == usual && fitting < usual {
                *set = fitting;
                plan.reduced.push(format!("{name} {fitting} instead of {usual}"));
            }
        };
        let set = &mut plan.limits;
        fit(
            "connections",
            &mut set.connections,
            usual.connections,
            fitting.connections,
        );
        fit("processes", &mut set.processes, usual.processes, fitting.processes);
        fit("series", &mut set.series, usual.series, fitting.series);
        plan.kernel_bytes = kernel_bytes(&plan.limits, tables);
        plan.reduced.push(format!("other tables {} %", tables.percent()));
        let extra = cost(&plan.limits).saturating_sub(cost(&fitting));
        if extra > 0 {
            plan.warning = format!(
                "`limits` may need {} more than the memory limit of {} leaves",
                shown(extra),
                shown(limit.bytes)
            );
        }
        Ok(plan)
    }

    /// Says what is smaller than usual, and what may not fit.
    pub fn log(&self) {
        if !self.reduced.is_empty() {
            tracing::info!("limits: {}", self.describe());
        }
        if !self.warning.is_empty() {
            tracing::warn!("{}", self.warning);
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        match self.limit_bytes {
            None => format!("no limit below {}: every table has its usual size", shown(WHOLE_BYTES)),
            Some(bytes) => format!("memory limit {}: {}", shown(bytes), self.reduced.join(", ")),
        }
    }
}

/// As many sockets as there may be connections and listeners in the agent's tables.
fn kernel_bytes(limits: &LimitsConfig, tables: Share) -> u64 {
    let sockets = limits.connections + limits.processes / 2;
    SOCKET_BYTES * sockets as u64 + RTT_BYTES * limits.connections as u64 / 2 + tables.of(OTHER_KERNEL_BYTES) as u64
}

/// What these sizes may cost at the worst.
fn cost(limits: &LimitsConfig) -> u64 {
    2 * u64::from(limits.ring_bytes)
        + CONNECTION_BYTES * limits.connections as u64
        + PROCESS_BYTES * limits.processes as u64
        + SERIES_BYTES * limits.series as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(limits: LimitsConfig, mib: u64) -> Result<Plan, String> {
        let limit = MemoryLimit {
            bytes: mib << 20,
            file: "/sys/fs/cgroup/memory.max".into(),
        };
        Plan::new(limits, Some(&limit)).map_err(|error| error.to_string())
    }

    #[test]
    fn enough_changes_nothing() {
        let usual = LimitsConfig::default();
        for plan in [Plan::new(usual, None), Ok(plan(usual, 512).expect("enough"))] {
            let plan = plan.expect("enough");
            assert_eq!((plan.limits, plan.tables), (usual, Share::WHOLE));
            assert!(plan.reduced.is_empty() && plan.warning.is_empty());
        }
    }

    #[test]
    fn little_makes_everything_smaller() {
        let usual = LimitsConfig::default();
        let mut before = usual;
        for mib in [400, 256, 128, 64, 56] {
            let plan = plan(usual, mib).expect("enough to start");
            let now = plan.limits;
            assert!(
                now.ring_bytes <= before.ring_bytes && now.connections < before.connections,
                "{mib}"
            );
            assert!(now.processes < before.processes && now.series <= before.series, "{mib}");
            assert!(now.ring_bytes.is_power_of_two() && now.series >= LEAST_SERIES, "{mib}");
            assert!(cost(&now) < (mib << 20), "{mib}");
            assert_eq!(plan.warning, "", "{mib}");
            before = now;
        }
        let plan = plan(usual, 64).expect("enough to start");
        assert_eq!(
            plan.describe(),
            "memory limit 64 MiB: ring 1 MiB instead of 4 MiB, connections 5312 instead of 80000, \
             processes 2176 instead of 32768, series 1328 instead of 20000, other tables 6 %"
        );
    }

    #[test]
    fn too_little_is_refused_in_one_sentence() {
        assert_eq!(
            plan(LimitsConfig::default(), 24),
            Err(
                "hopline needs a memory limit of 56 MiB or more, but /sys/fs/cgroup/memory.max allows 24 MiB"
                    .to_owned()
            )
        );
    }

    #[test]
    fn what_was_set_is_obeyed_with_a_warning() {
        let set = LimitsConfig {
            connections: 60_000,
            ..LimitsConfig::default()
        };
        let plan = plan(set, 64).expect("enough to start");
        assert_eq!(plan.limits.connections, 60_000);
        assert!(plan.limits.processes < set.processes);
        assert!(plan.warning.contains("MiB more"), "{}", plan.warning);
    }
}
