//! A snapshot in which every family has data: what the page of the metrics is made of. Nothing of it was ever observed.
//!
//! Who adds a family adds it here; the tests in `export/prometheus/reference.rs` notice when that was forgotten.
use std::sync::Arc;

use super::{
    ActiveRule, At, Child, Counters, DestinationSnapshot, DnsLabels, FallbackLabels, Histogram, Labels, Leg, LegLabels,
    ListenerDetail, NameSource, PathsSnapshot, Place, PortsDetail, ResolverLabels, Snapshot, TlsFailure, TlsVersion,
    UndeclaredLabels,
};
use crate::{
    connection::{Idle, Role, TcpState, record::ProcessRecord},
    path::{HopRecord, PathRecord, PathSnapshot, RttRecord},
    windows::WindowSnapshot,
    workloads::{FAILURES, Source, Workload},
};

const NAME: &str = "example.net";

impl Snapshot {
    /// This one with one destination, one resolver and one socket of every kind.
    #[must_use]
    pub fn with_one_of_everything(mut self) -> Self {
        self.destinations = Role::ALL.map(destination).into();
        for counts in &mut self.families {
            counts.series = 1;
        }
        self.fallbacks = [(
            FallbackLabels {
                group: "go".into(),
                from: NAME.into(),
                to: NAME.into(),
                source: Some(source()),
            },
            1,
        )]
        .into();
        self.undeclared = ["outside", "unverified"]
            .map(|reason| {
                let labels = UndeclaredLabels {
                    declaration: "builds".into(),
                    reason,
                    destination: NAME.into(),
                    port: Some(443),
                    group: "go".into(),
                    source: Some(source()),
                };
                (labels, 1)
            })
            .into();
        self.active_rules.push(ActiveRule {
            rule: "rtt_spike",
            destination: NAME.to_owned(),
            port: 443,
            group: "go".to_owned(),
        });
        self.resolvers();
        self.staying();
        self.pods();
        self.paths = paths();
        self.legs();
        self
    }

    fn pods(&mut self) {
        let pods = &mut self.counts.pods;
        pods.pods = 1;
        pods.state.is_wanted = true;
        pods.state.source = Some(Source::Api);
        pods.state.failures = FAILURES.map(|reason| (reason, 1)).to_vec();
    }

    fn resolvers(&mut self) {
        let resolvers = Role::ALL.map(|role| ResolverLabels {
            role,
            destination: NAME.into(),
            port: Some(53),
            group: "dns".into(),
        });
        let counts = resolvers.clone().map(|resolver| {
            let labels = DnsLabels {
                resolver,
                query_type: "A",
                rcode: "NOERROR",
                source: Some(source()),
            };
            (labels, 1)
        });
        self.resolvers.queries = counts.clone().into();
        self.resolvers.lookups = counts.into();
        self.resolvers.durations = resolvers.map(|resolver| (resolver, Histogram::default())).into();
    }

    fn legs(&mut self) {
        let labels = LegLabels {
            destination: NAME.into(),
            port: Some(443),
            group: "go".into(),
        };
        let of = |leg: Leg| (labels.clone(), leg, Histogram::default());
        self.legs.durations = [Leg::ClientProxy, Leg::Proxy, Leg::ProxyUpstream].map(of).into();
        self.legs.rtt = [Leg::ClientProxy, Leg::ProxyUpstream].map(of).into();
        self.legs.links = ["linked", "ambiguous", "unproven"].map(|result| (result, 1));
    }

    fn staying(&mut self) {
        let [client, server] = [Role::Client, Role::Server].map(|role| Place {
            role,
            destination: NAME.into(),
            port: Some(443),
            group: "go".into(),
            source: Some(source()),
        });
        let staying = &mut self.staying;
        staying.idle = [Idle::Silent, Idle::Dripping]
            .map(|what| {
                let place = server.clone();
                (At { place, what }, 1)
            })
            .into();
        staying.listeners = [ListenerDetail {
            place: server.clone(),
            address: String::new(),
            queue_depth: 0,
            queue_limit: 1,
            overflows: 1,
            process: ProcessRecord::default(),
        }]
        .into();
        staying.overflows = [(server.clone(), 1)].into();
        staying.ports = [PortsDetail {
            netns: 0,
            place: client.clone(),
            used: 1,
            usable: 1,
            processes: Vec::new(),
        }]
        .into();
        let process = At {
            place: client.clone(),
            what: "go".into(),
        };
        staying.unreused = [(process, 1)].into();
        staying.writes_after_close = [(client, 1), (server, 1)].into();
        staying.sweeps.unattributed = TcpState::ALL.map(|state| (state, 0)).to_vec();
    }
}

fn source() -> Arc<Workload> {
    Arc::new(Workload {
        namespace: "builds".into(),
        name: "runner".into(),
    })
}

fn destination(role: Role) -> DestinationSnapshot {
    let mut destination = DestinationSnapshot {
        role,
        labels: Labels {
            destination: NAME.into(),
            port: Some(443),
            group: "go".into(),
            source_namespace: "builds".into(),
            source_workload: "runner".into(),
        },
        source: NameSource::Ip,
        children: Child::all().collect(),
        counters: Counters::default(),
        active: Default::default(),
        waiting: 0,
        waiting_by_phase: Default::default(),
        longest_wait_ns: 0,
        quantiles: Default::default(),
        window: WindowSnapshot {
            rtt_min_ns: Some(1),
            ..WindowSnapshot::default()
        },
        srtt_us: None,
        rtt_jitter_us: Some(1),
    };
    let counters = &mut destination.counters;
    counters.unanswered = [(); 2].map(|()| Some(Box::default()));
    counters.tls_handshakes = Some(Box::new([[1; 2]; TlsVersion::ALL.len()]));
    counters.tls_failures = Some(Box::new([1; TlsFailure::COUNT]));
    destination
}

fn paths() -> PathsSnapshot {
    let address = [192, 0, 2, 1].into();
    let hop = HopRecord {
        hop: 1,
        address: Some(address),
        addresses: Vec::new(),
        rtt_us: Some(RttRecord { min: 1, p50: 1, p95: 1 }),
        probes: 1,
        answers: 1,
        unanswered: Some(0.0),
        loss: Some(0.0),
        answer_ttl: None,
    };
    let path = PathRecord {
        schema: 1,
        r#type: "path".into(),
        host: NAME.to_owned(),
        address,
        port: Some(443),
        source: address,
        source_port: 1,
        protocol: "tcp".into(),
        reached: true,
        end: None,
        end_by: None,
        hops: vec![hop],
        step: None,
        ignored: 0,
    };
    let traced = PathSnapshot {
        destination: NAME.to_owned(),
        port: 443,
        group: "go".to_owned(),
        netns: 0,
        changes: 1,
        arriving_hops: Some(1),
        traced_ns: 1,
        path,
    };
    PathsSnapshot {
        paths: [traced].into(),
        probes: 1,
        failed: 1,
        refused: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Family, *};

    #[test]
    fn every_family_of_destinations_has_a_child() {
        let snapshot = Snapshot::default().with_one_of_everything();
        for family in Family::ALL {
            let has = |child: &Child| snapshot.destinations[0].has(*child);
            assert!(
                Child::all().filter(has).any(|child| child.family() == family),
                "{family:?}"
            );
        }
    }
}
