//! `/api/v1/sockets`: sockets that stay, with the processes that have them. Pure.
use serde_json::{Value, json};

use crate::aggregate::{PortsDetail, Snapshot};

/// Everything of the latest look and sweep: `staying` by process, destination and state or silence, `listeners` with
/// their queues, `ports` by namespace, `unreused` by process.
pub fn sockets(snapshot: &Snapshot) -> Value {
    let staying = &snapshot.staying;
    let sweeps = &staying.sweeps;
    let unattributed = sweeps.unattributed.iter();
    let unattributed = unattributed.map(|(state, count)| (state.name().to_owned(), (*count).into()));
    json!({
        "staying": &*staying.staying,
        "listeners": &*staying.listeners,
        "ports": staying.ports.iter().map(ports).collect::<Value>(),
        "unreused": &*staying.unreusing,
        "sweep": {
            "took_us": sweeps.took.as_micros() as u64,
            "done": sweeps.done,
            "skipped": sweeps.skipped,
            "unattributed": Value::Object(unattributed.collect()),
        },
    })
}

fn ports(ports: &PortsDetail) -> Value {
    let mut value = json!(ports);
    value["ratio"] = match ports.usable {
        0 => Value::Null,
        usable => json!(f64::from(ports.used) / f64::from(usable)),
    };
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::{Place, StayingSnapshot},
        connection::Role,
    };

    #[test]
    fn ports_have_their_share() {
        let ports = PortsDetail {
            netns: 7,
            place: Place {
                role: Role::Client,
                destination: "db".into(),
                port: Some(5432),
                group: "".into(),
                source: None,
            },
            used: 3,
            usable: 4,
            processes: Vec::new(),
        };
        let staying = StayingSnapshot {
            ports: [ports].into(),
            ..StayingSnapshot::default()
        };
        let snapshot = Snapshot {
            staying,
            ..Snapshot::default()
        };
        let value = sockets(&snapshot);
        for (path, expected) in [
            ("/ports/0/ratio", json!(0.75)),
            ("/ports/0/destination", json!("db")),
            ("/ports/0/role", json!("client")),
            ("/staying", json!([])),
            ("/sweep/done", json!(0)),
        ] {
            assert_eq!(value.pointer(path), Some(&expected), "{path}");
        }
    }
}
