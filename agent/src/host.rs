//! What the agent asks of its own machine: name, boot, kernel, clocks, and the cost of its own process.
//!
//! Called by `agent` and `command`; everything below them gets these values as arguments.
use std::{fs, io};

use nix::time::{ClockId, clock_gettime};

use crate::selfmetrics::ProcessStats;

/// Which machine this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub node: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Kernel release, such as `6.12.117`.
    pub kernel: String,
}

impl Host {
    /// Asks the running kernel.
    pub fn running() -> io::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/sys/kernel/{name}");
            fs::read_to_string(&path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot read {path}: {error}; is /proc mounted?"))
                })
        };
        Ok(Self {
            node: read("hostname")?,
            boot_id: read("random/boot_id")?,
            kernel: read("osrelease")?,
        })
    }
}

/// `CLOCK_MONOTONIC`, nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    u64::try_from(clock_ns(ClockId::CLOCK_MONOTONIC)).unwrap_or_default()
}

/// `CLOCK_BOOTTIME`, seconds: time since the boot, suspended time included.
pub fn uptime_s() -> u64 {
    u64::try_from(clock_ns(ClockId::CLOCK_BOOTTIME) / 1_000_000_000).unwrap_or_default()
}

/// `CLOCK_REALTIME`, seconds, for people.
pub fn unix_s() -> u64 {
    u64::try_from(clock_ns(ClockId::CLOCK_REALTIME) / 1_000_000_000).unwrap_or_default()
}

/// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds: the best of three readings.
pub fn clock_offset_ns() -> i64 {
    (0..3)
        .map(|_| {
            let before = clock_ns(ClockId::CLOCK_MONOTONIC);
            let real = clock_ns(ClockId::CLOCK_REALTIME);
            let after = clock_ns(ClockId::CLOCK_MONOTONIC);
            (after - before, real - i64::midpoint(before, after))
        })
        .min()
        .map_or(0, |(_, offset)| offset)
}

/// By how many seconds a clock of this process's time namespace is off the node's, by which the kernel programs take times;
/// `None` when none is, and before 5.6.
pub fn time_namespace_offset_s() -> Option<i64> {
    let namespace = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
    // The file tells of the namespace that children will have.
    if namespace("time")? != namespace("time_for_children")? {
        return None;
    }
    offset_s(&fs::read_to_string("/proc/self/timens_offsets").ok()?)
}

/// Lines of a clock, seconds, nanoseconds; a part of a second counts as one.
fn offset_s(text: &str) -> Option<i64> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().skip(1).map(str::parse::<i64>);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .map(|(seconds, nanoseconds)| seconds + i64::from(nanoseconds != 0))
        .find(|seconds| *seconds != 0)
}

fn clock_ns(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("every Linux has these clocks");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// The agent's own process; zeros where `/proc` does not tell.
pub fn process_stats() -> ProcessStats {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let uptime = read("/proc/uptime")
        .split(' ')
        .next()
        .and_then(|text| text.parse::<f64>().ok())
        .unwrap_or_default();
    let booted = clock_ns(ClockId::CLOCK_REALTIME) as f64 / 1e9 - uptime;
    parse_process_stats(&read("/proc/self/stat"), &read("/proc/self/statm"), open_fds, booted)
}

/// `stat` and `statm` as in proc(5); `booted` in seconds since the Unix epoch.
fn parse_process_stats(stat: &str, statm: &str, open_fds: u64, booted: f64) -> ProcessStats {
    // USER_HZ and the page size of every architecture that hopline is built for.
    const TICKS: f64 = 100.0;
    const PAGE: u64 = 4096;
    // The name may hold spaces and parentheses; the fields behind it start with the state, which is field 3.
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or("", |(_, fields)| fields)
        .split(' ')
        .collect();
    let ticks = |field: usize| {
        fields
            .get(field - 3)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or_default()
    };
    let pages: Vec<u64> = statm.split(' ').map_while(|text| text.parse().ok()).collect();
    let bytes = |index: usize| pages.get(index).copied().unwrap_or_default() * PAGE;
    ProcessStats {
        cpu_seconds: (ticks(14) + ticks(15)) / TICKS,
        resident_bytes: bytes(1),
        virtual_bytes: bytes(0),
        open_fds,
        start_seconds: booted + ticks(22) / TICKS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_and_statm() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 5 0 1000 9 9";
        let stats = parse_process_stats(stat, "100 25 3 1 0 9 0\n", 7, 5000.0);
        let expected = ProcessStats {
            cpu_seconds: 3.0,
            resident_bytes: 25 * 4096,
            virtual_bytes: 100 * 4096,
            open_fds: 7,
            start_seconds: 5010.0,
        };
        assert_eq!(stats, expected);
        assert_eq!(parse_process_stats("", "", 0, 0.0), ProcessStats::default());
    }

    #[test]
    fn this_process_has_a_cost_and_a_start() {
        let stats = process_stats();
        assert!(stats.resident_bytes > 1 << 20 && stats.open_fds >= 3, "{stats:?}");
        let now = clock_ns(ClockId::CLOCK_REALTIME) as f64 / 1e9;
        assert!((now - stats.start_seconds).abs() < 600.0, "{stats:?}");
    }

    #[test]
    fn a_time_namespace_is_known_by_its_offsets() {
        let check = |text: &str, expected| assert_eq!(offset_s(text), expected, "{text}");
        check(
            "monotonic           0         0\nboottime            0         0\n",
            None,
        );
        check(
            "monotonic      864000         0\nboottime       864000         0\n",
            Some(864_000),
        );
        check(
            "monotonic          -7         0\nboottime            0         0\n",
            Some(-7),
        );
        check(
            "monotonic           0         0\nboottime            0 500000000\n",
            Some(1),
        );
        check("", None);
    }

    #[test]
    fn the_offset_leads_from_one_clock_to_the_other() {
        let real = clock_ns(ClockId::CLOCK_REALTIME);
        let reached = i64::try_from(monotonic_ns()).expect("fits") + clock_offset_ns();
        assert!((reached - real).abs() < 1_000_000_000);
    }
}
