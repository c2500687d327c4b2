//! The line of one DNS lookup.
use super::{descent, printable, time, time_of_day};
use crate::pipeline::LookupRecord;

/// Addresses that are shown.
const MOST_ADDRESSES: usize = 3;

/// One lookup on one line, ended or waiting, without its line break.
pub(super) fn line(record: &LookupRecord) -> String {
    let name = printable(&record.name);
    let asked = if record.asked == record.name {
        String::new()
    } else {
        format!(" (asked: {})", printable(&record.asked))
    };
    let resolver = format!("{}:{}", record.resolver.address, record.resolver.port);
    let queries = match record.queries {
        1 => String::new(),
        queries => format!(", {queries} queries"),
    };
    let how = match (record.rcode, record.waiting_us) {
        (None, waited_us) => format!("STUCK in dns for {}", time(waited_us.unwrap_or_default() as f64)),
        (Some(rcode), _) => {
            let took = record
                .duration_us
                .map_or_else(String::new, |us| format!(" in {}", time(us as f64)));
            let addresses = record.addresses.iter().take(MOST_ADDRESSES).map(String::as_str);
            let addresses: Vec<&str> = addresses.collect();
            let more = match record.addresses.len().saturating_sub(MOST_ADDRESSES) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let arrow = if addresses.is_empty() { "" } else { " = " };
            format!("{rcode}{took}{arrow}{}{more}", addresses.join(", "))
        }
    };
    format!(
        "{:<12} DNS {} {name}{asked} from {resolver}/{}: {how}{queries}, {}",
        time_of_day(&record.time),
        record.qtype,
        record.transport,
        descent(&record.process)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{
        Phase, Role,
        record::{AddressRecord, ProcessRecord},
    };

    #[test]
    fn ended_and_waiting() {
        let mut record = LookupRecord {
            schema: 1,
            r#type: "lookup",
            node: "n".into(),
            time: "2026-03-01T10:00:00.250Z".into(),
            role: Role::Client,
            name: "api.shop.example".into(),
            asked: "api".into(),
            qtype: "A",
            rcode: Some("NOERROR"),
            resolver: AddressRecord {
                address: "10.0.0.53".into(),
                port: 53,
            },
            transport: "udp",
            queries: 3,
            duration_us: Some(21_500),
            addresses: (1..=5).map(|last| format!("10.0.0.{last}")).collect(),
            aliases: Vec::new(),
            waiting: None,
            waiting_us: None,
            process: ProcessRecord {
                comm: Some("go".into()),
                ancestry: vec!["sh".into()],
                ..ProcessRecord::default()
            },
        };
        assert_eq!(
            line(&record),
            "10:00:00.250 DNS A api.shop.example (asked: api) from 10.0.0.53:53/udp: NOERROR in 21.5ms = 10.0.0.1, \
             10.0.0.2, 10.0.0.3 and 2 more, 3 queries, sh → go"
        );
        record.rcode = None;
        record.waiting = Some(Phase::Dns);
        record.waiting_us = Some(5_000_000);
        record.asked = record.name.clone();
        record.queries = 1;
        assert_eq!(
            line(&record),
            "10:00:00.250 DNS A api.shop.example from 10.0.0.53:53/udp: STUCK in dns for 5.00s, sh → go"
        );
    }
}
