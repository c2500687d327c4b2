//! The lines of an RTT spike: where, how much, whose.
use std::fmt::Write as _;

use super::{MAX_DESCENT, endpoint, printable, time, time_of_day};
use crate::{connection::Role, events::SpikeRecord};

const MEMORY: &str = "writing to memory";

/// One line, without its line break.
pub(super) fn line(record: &SpikeRecord) -> String {
    let destination = &record.destination;
    let arrow = match record.role {
        Role::Client => "",
        Role::Server => "<- ",
    };
    let place = format!("{arrow}{}", endpoint(&destination.host, destination.port));
    let time_of_day = time_of_day(&record.time);
    if let (Some(over), Some(duration_us)) = (record.over, record.duration_us) {
        let (lasted, peak) = (time(duration_us as f64), time(record.peak_us as f64));
        return format!("{time_of_day:<12} RTT SPIKE OVER {place} after {lasted} ({over}), at most {peak}");
    }
    let mut line = format!("{time_of_day:<12} RTT SPIKE {place}");
    if let Some(window) = &record.window {
        write!(
            line,
            " p50 {}, usually {}; {} samples, {} sent again",
            time(window.p50_us as f64),
            time(window.baseline_us as f64),
            window.samples,
            window.retransmits
        )
        .expect(MEMORY);
    }
    let connections = record.connections_affected;
    let plural = if connections == 1 { "" } else { "s" };
    write!(line, "; {connections} connection{plural}").expect(MEMORY);
    for process in &record.processes {
        let ancestors = process.ancestry.iter().take(MAX_DESCENT).rev().map(String::as_str);
        let names: Vec<String> = ancestors
            .chain([process.comm.as_deref().unwrap_or("?")])
            .map(printable)
            .collect();
        let pid = process.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
        write!(line, ", {}{pid}", names.join(" \u{2192} ")).expect(MEMORY);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{SpikeDestination, SpikeProcess, SpikeWindow};

    #[test]
    fn lines() {
        let process = SpikeProcess {
            pid: Some(7),
            comm: Some("a\x1bb".to_owned()),
            ancestry: vec!["sh".to_owned()],
            connections: 1,
        };
        let mut record = SpikeRecord {
            schema: 1,
            r#type: "rtt_spike",
            id: "b-rtt-1".to_owned(),
            node: "n".to_owned(),
            time: "2026-11-21T01:33:20.123456789Z".to_owned(),
            scope: "connection",
            role: Role::Client,
            destination: SpikeDestination {
                host: "fd00::2".to_owned(),
                port: 443,
                group: String::new(),
            },
            window: Some(SpikeWindow {
                p50_us: 160_000,
                baseline_us: 10_100,
                samples: 12,
                retransmits: 6,
                ..SpikeWindow::default()
            }),
            duration_us: None,
            over: None,
            peak_us: 160_000,
            connections_affected: 1,
            connections: Vec::new(),
            processes: vec![process],
            path: None,
        };
        assert_eq!(
            line(&record),
            "01:33:20.123 RTT SPIKE [fd00::2]:443 p50 160ms, usually 10.1ms; 12 samples, 6 sent again; 1 connection, \
             sh \u{2192} a\u{fffd}b[7]"
        );
        (record.over, record.duration_us) = (Some("calm"), Some(12_300_000));
        record.role = Role::Server;
        assert_eq!(
            line(&record),
            "01:33:20.123 RTT SPIKE OVER <- [fd00::2]:443 after 12.3s (calm), at most 160ms"
        );
    }
}
