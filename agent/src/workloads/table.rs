//! The table of pods. One writer: the pipeline, with what the sources told; bounded, and what finds no room is counted.
use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use super::{
    addresses::{self, Addresses},
    pod::{Pod, Source},
};
use crate::capacity::{Share, TableUse};

/// Most pods that are remembered, those that have gone included. A node runs some hundreds at most.
const MAX_PODS: usize = 16_384;
/// What all pods may take: two hundred with the longest names and annotations, five thousand usual ones.
pub const PODS_BYTES: usize = 8 << 20;
/// A pod that has gone is remembered for this long: ends of its connections may come late.
const GONE_KEPT_NS: u64 = 300_000_000_000;

/// Every reason for which a source did not answer as it should.
pub const FAILURES: [&str; 11] = [
    "cut",
    "configuration",
    "forbidden",
    "gone",
    "invalid",
    "refused",
    "server",
    "throttled",
    "timeout",
    "unauthorized",
    "unreachable",
];

/// What a source tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A pod is there, or has changed.
    Seen(Box<Pod>),
    /// A pod has gone.
    Gone(Box<str>),
    /// These are all pods that the source knows; those that it told of before have gone.
    All(Source, Vec<Pod>),
    /// So many pods were too many or too large to be handed on.
    LeftOut(u64),
    /// How the source does.
    State(SourceState),
}

/// Who tells of pods, and how that goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceState {
    /// Names are wanted and there is somewhere to ask.
    pub is_wanted: bool,
    /// Somebody tells, or will at once: a pod that is not known may soon be.
    pub is_expected: bool,
    /// Who tells of pods at present.
    pub source: Option<Source>,
    /// Why it is not the first choice, or nobody; empty when all is well.
    pub reason: String,
    /// Failures so far, by reason.
    pub failures: Vec<(&'static str, u64)>,
}

/// For metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How the source does.
    pub state: SourceState,
    /// Pods that are there.
    pub pods: u64,
    /// Pods that found no room.
    pub refused: u64,
}

#[derive(Debug)]
struct Row {
    pod: Arc<Pod>,
    is_gone: bool,
}

/// All pods.
#[derive(Debug)]
pub struct Workloads {
    most_pods: usize,
    /// Bound on what all of them take ([`Pod::bytes`]), and what they take now.
    most_bytes: usize,
    bytes: usize,
    by_uid: HashMap<Box<str>, Row>,
    /// From the uid in cgroups, where that is another one.
    by_cgroup_uid: HashMap<Box<str>, Box<str>>,
    by_container: HashMap<Box<str>, Box<str>>,
    addresses: Addresses,
    /// When each has gone, the earliest first.
    gone: VecDeque<(u64, Box<str>)>,
    state: SourceState,
    /// Since when nobody tells of pods: whose an address is by now cannot be known.
    lost_ns: Option<u64>,
    refused: u64,
}

impl Default for Workloads {
    fn default() -> Self {
        Self::new(Share::WHOLE)
    }
}

impl Workloads {
    /// No pods yet; this share of the usual number may come.
    pub fn new(share: Share) -> Self {
        Self {
            most_pods: share.of(MAX_PODS),
            most_bytes: share.of(PODS_BYTES),
            bytes: 0,
            by_uid: HashMap::new(),
            by_cgroup_uid: HashMap::new(),
            by_container: HashMap::new(),
            addresses: Addresses::default(),
            gone: VecDeque::new(),
            state: SourceState::default(),
            lost_ns: None,
            refused: 0,
        }
    }

    /// How full it is.
    pub fn uses(&self) -> [TableUse; 3] {
        [
            TableUse::new("pods", self.by_uid.len(), self.most_pods),
            TableUse::new("pod_bytes", self.bytes, self.most_bytes),
            TableUse::new("pod_addresses", self.addresses.len(), addresses::MAX_HOLDERS_IN_ALL),
        ]
    }

    /// Takes a change in; the pods that are new or have new containers, for whoever waits for them. `clock_offset_ns` is `CLOCK_REALTIME` minus
    /// the clock of `now_ns`.
    pub fn apply(&mut self, change: Change, now_ns: u64, clock_offset_ns: i64) -> Vec<Arc<Pod>> {
        match change {
            Change::Seen(pod) => self.seen(*pod, now_ns, clock_offset_ns).into_iter().collect(),
            Change::Gone(uid) => {
                self.gone(&uid, now_ns);
                Vec::new()
            }
            Change::All(source, pods) => {
                let present: HashSet<Box<str>> = pods.iter().map(|pod| pod.uid.clone()).collect();
                let is_missing = |row: &Row| {
                    let told_by_it = row.pod.source <= source;
                    told_by_it && !row.is_gone && !present.contains(&row.pod.uid)
                };
                let missing: Vec<Box<str>> = self
                    .by_uid
                    .values()
                    .filter(|row| is_missing(row))
                    .map(|row| row.pod.uid.clone())
                    .collect();
                for uid in &missing {
                    self.gone(uid, now_ns);
                }
                pods.into_iter()
                    .filter_map(|pod| self.seen(pod, now_ns, clock_offset_ns))
                    .collect()
            }
            Change::LeftOut(pods) => {
                self.refused += pods;
                Vec::new()
            }
            Change::State(state) => {
                self.lost_ns = match state.source {
                    Some(_) => None,
                    None => self.lost_ns.or(Some(now_ns)),
                };
                self.state = state;
                Vec::new()
            }
        }
    }

    /// Names are wanted at all.
    pub fn is_wanted(&self) -> bool {
        self.state.is_wanted
    }

    /// A pod that is not known may soon be.
    pub fn is_expected(&self) -> bool {
        self.state.is_expected
    }

    /// The pod of a cgroup, by the uid in its path, else by the container in it.
    pub fn pod(&self, uid: Option<&str>, container: Option<&str>) -> Option<&Arc<Pod>> {
        let by_uid = uid.and_then(|uid| {
            let uid = self.by_cgroup_uid.get(uid).map_or(uid, |uid| uid);
            self.by_uid.get(uid)
        });
        let row = by_uid.or_else(|| {
            // A path with a uid that is not known belongs to a pod that is not known.
            let container = container.filter(|_| uid.is_none())?;
            self.by_uid.get(self.by_container.get(container)?)
        })?;
        Some(&row.pod)
    }

    /// The pod that had an address of its own at a time.
    pub fn at_address(&self, address: IpAddr, at_ns: u64) -> Option<&Arc<Pod>> {
        if self.lost_ns.is_some_and(|lost_ns| lost_ns <= at_ns) {
            return None;
        }
        let uid = self.addresses.holder(address, at_ns)?;
        self.by_uid.get(uid).map(|row| &row.pod)
    }

    /// Lets go of what went long ago.
    pub fn tick(&mut self, now_ns: u64) {
        let Some(before_ns) = now_ns.checked_sub(GONE_KEPT_NS) else {
            return;
        };
        if self.gone.front().is_none_or(|(at_ns, _)| *at_ns > before_ns) {
            return;
        }
        while let Some((_, uid)) = self.gone.pop_front_if(|(at_ns, _)| *at_ns <= before_ns) {
            self.forget(&uid);
        }
        self.addresses.expire(before_ns);
    }

    /// For metrics.
    pub fn counts(&self) -> Counts {
        Counts {
            state: self.state.clone(),
            pods: self.by_uid.values().filter(|row| !row.is_gone).count() as u64,
            refused: self.refused,
        }
    }

    fn seen(&mut self, pod: Pod, now_ns: u64, clock_offset_ns: i64) -> Option<Arc<Pod>> {
        let before = self.by_uid.get(&pod.uid).map(|row| Arc::clone(&row.pod));
        if before.as_ref().is_some_and(|before| before.source > pod.source) {
            return None; // The runtime knows nothing that the API server does not say better.
        }
        let grows = pod
            .bytes()
            .saturating_sub(before.as_ref().map_or(0, |before| before.bytes()));
        while before.is_none() && self.by_uid.len() >= self.most_pods || self.bytes + grows > self.most_bytes {
            let Some((_, oldest)) = self.gone.pop_front_if(|(_, uid)| *uid != pod.uid) else {
                self.refused += 1;
                return None;
            };
            self.forget(&oldest);
        }
        let from_ns = match pod.started_unix_ns {
            0 => now_ns,
            started_ns => u64::try_from(started_ns.saturating_sub(clock_offset_ns)).unwrap_or(0),
        };
        let had = before.as_ref().map_or(&[][..], |before| &before.addresses);
        for address in had {
            if pod.is_over || !pod.addresses.contains(address) {
                self.addresses.left(*address, &pod.uid, now_ns);
            }
        }
        if !pod.is_over {
            for address in &pod.addresses {
                // One that came later than the pod was not its own from the pod's beginning.
                let from_ns = if had.is_empty() { from_ns } else { now_ns };
                self.addresses.held(*address, &pod.uid, from_ns, now_ns);
            }
        }
        // A container that is started again has another id: those of a pod that fails for weeks are thousands.
        for old in before.iter().flat_map(|before| &before.containers) {
            if pod.containers.iter().all(|container| container.id != old.id) {
                self.by_container.remove(&old.id);
            }
        }
        for container in &pod.containers {
            self.by_container.insert(container.id.clone(), pod.uid.clone());
        }
        if let Some(cgroup_uid) = &pod.cgroup_uid {
            self.by_cgroup_uid.insert(cgroup_uid.clone(), pod.uid.clone());
        }
        self.bytes += pod.bytes();
        self.bytes -= before.as_ref().map_or(0, |before| before.bytes());
        let pod = Arc::new(pod);
        let row = Row {
            pod: Arc::clone(&pod),
            is_gone: false,
        };
        if self.by_uid.insert(pod.uid.clone(), row).is_some_and(|row| row.is_gone) {
            self.gone.retain(|(_, uid)| *uid != pod.uid);
        }
        let is_news = before.is_none_or(|before| before.containers != pod.containers);
        is_news.then_some(pod)
    }

    fn gone(&mut self, uid: &str, now_ns: u64) {
        let Some(row) = self.by_uid.get_mut(uid).filter(|row| !row.is_gone) else {
            return;
        };
        row.is_gone = true;
        for address in &row.pod.addresses {
            self.addresses.left(*address, uid, now_ns);
        }
        self.gone.push_back((now_ns, uid.into()));
    }

    fn forget(&mut self, uid: &str) {
        let Some(row) = self.by_uid.remove(uid) else { return };
        self.bytes -= row.pod.bytes();
        for container in &row.pod.containers {
            self.by_container.remove(&container.id);
        }
        if let Some(cgroup_uid) = &row.pod.cgroup_uid {
            self.by_cgroup_uid.remove(cgroup_uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use super::*;
    use crate::workloads::{Container, Workload};

    const SECOND_NS: u64 = 1_000_000_000;

    fn pod(source: Source, uid: &str, address: u8) -> Pod {
        Pod {
            source,
            uid: uid.into(),
            cgroup_uid: None,
            name: format!("pod-{uid}").into(),
            workload: Arc::new(Workload {
                namespace: "shop".into(),
                name: "cart".into(),
            }),
            addresses: vec![Ipv4Addr::new(10, 0, 0, address).into()],
            started_unix_ns: 0,
            is_over: false,
            containers: vec![Container {
                id: format!("container-{uid}").into(),
                name: "main".into(),
            }],
            only_container: None,
            annotations: BTreeMap::new(),
        }
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn see(pods: &mut Workloads, pod: Pod, at_s: u64) -> usize {
        pods.apply(Change::Seen(Box::new(pod)), at_s * SECOND_NS, 0).len()
    }

    #[test]
    fn by_uid_container_and_address() {
        let mut pods = Workloads::default();
        let mut first = pod(Source::Api, "a", 1);
        first.cgroup_uid = Some("hash".into());
        assert_eq!(see(&mut pods, first.clone(), 1), 1);
        assert_eq!(see(&mut pods, first, 2), 0, "known already");
        let name =
            |uid: Option<&str>, container: Option<&str>| pods.pod(uid, container).map(|pod| pod.name.to_string());
        assert_eq!(name(Some("a"), None).as_deref(), Some("pod-a"));
        assert_eq!(name(Some("hash"), None).as_deref(), Some("pod-a"));
        assert_eq!(name(None, Some("container-a")).as_deref(), Some("pod-a"));
        assert_eq!(name(Some("b"), Some("container-a")), None, "another pod's");
        assert_eq!(name(None, None), None);
        assert!(pods.at_address(address(1), SECOND_NS).is_some());
        assert!(pods.at_address(address(2), SECOND_NS).is_none());
    }

    #[test]
    fn a_pod_changes_its_address() {
        let mut pods = Workloads::default();
        see(&mut pods, pod(Source::Api, "a", 1), 1);
        see(&mut pods, pod(Source::Api, "a", 2), 5);
        see(&mut pods, pod(Source::Api, "b", 1), 6);
        let check = |last: u8, at_s: u64, expected: Option<&str>| {
            let found = pods.at_address(address(last), at_s * SECOND_NS);
            assert_eq!(found.map(|pod| &*pod.uid), expected, "{last} at {at_s}");
        };
        check(1, 1, Some("a"));
        check(1, 5, None);
        check(1, 6, Some("b"));
        check(2, 4, None);
        check(2, 5, Some("a"));
    }

    #[test]
    fn what_a_list_lacks_has_gone_and_is_remembered_for_a_while() {
        let mut pods = Workloads::default();
        let all = |uids: &[&str]| {
            let pods = uids.iter().map(|uid| pod(Source::Api, uid, uid.as_bytes()[0]));
            Change::All(Source::Api, pods.collect())
        };
        assert_eq!(pods.apply(all(&["a", "b"]), SECOND_NS, 0).len(), 2);
        assert_eq!(pods.apply(all(&["b", "c"]), 2 * SECOND_NS, 0).len(), 1);
        assert_eq!(pods.counts().pods, 2);
        assert!(pods.pod(Some("a"), None).is_some(), "its connections may end later");
        pods.tick(2 * SECOND_NS + GONE_KEPT_NS);
        assert!(pods.pod(Some("a"), None).is_none());
        assert!(pods.pod(None, Some("container-a")).is_none());
        assert!(pods.pod(Some("b"), None).is_some());
        // Who comes back is not forgotten by its old end.
        pods.apply(Change::Gone("b".into()), 3 * SECOND_NS, 0);
        see(&mut pods, pod(Source::Api, "b", b'b'), 4);
        pods.tick(400 * SECOND_NS);
        assert!(pods.pod(Some("b"), None).is_some());
    }

    #[test]
    fn the_runtime_does_not_overrule_the_server() {
        let mut pods = Workloads::default();
        see(&mut pods, pod(Source::Api, "a", 1), 1);
        see(&mut pods, pod(Source::Cri, "a", 9), 2);
        assert!(pods.at_address(address(9), 3 * SECOND_NS).is_none());
        // Nor does its list make the server's pods go.
        pods.apply(Change::All(Source::Cri, Vec::new()), 3 * SECOND_NS, 0);
        assert_eq!(pods.counts().pods, 1);
        // But the server's list makes the runtime's go.
        see(&mut pods, pod(Source::Cri, "b", 2), 4);
        pods.apply(
            Change::All(Source::Api, vec![pod(Source::Api, "a", 1)]),
            5 * SECOND_NS,
            0,
        );
        assert_eq!(pods.counts().pods, 1);
    }

    #[test]
    fn bytes_are_bounded() {
        let mut pods = Workloads {
            most_bytes: 12_000,
            ..Workloads::default()
        };
        let large = |uid: &str| Pod {
            annotations: BTreeMap::from([("key".to_owned(), "v".repeat(4_000))]),
            ..pod(Source::Api, uid, 1)
        };
        assert_eq!(["a", "b", "c"].map(|uid| see(&mut pods, large(uid), 1)), [1, 1, 0]);
        assert_eq!(pods.counts().refused, 1);
        // A change counts by what it adds; what has gone makes room; what was let go gives all of it back.
        see(&mut pods, pod(Source::Api, "b", 1), 2);
        assert_eq!(see(&mut pods, large("c"), 3), 1);
        pods.apply(Change::Gone("a".into()), 4 * SECOND_NS, 0);
        assert_eq!(see(&mut pods, large("d"), 5), 1);
        assert!(pods.pod(Some("a"), None).is_none());
        let kept: usize = pods.by_uid.values().map(|row| row.pod.bytes()).sum();
        assert_eq!(pods.bytes, kept);
    }

    #[test]
    fn a_container_that_is_started_again_replaces_the_old_one() {
        let mut pods = Workloads::default();
        for number in 0..10 {
            let mut restarted = pod(Source::Api, "a", 1);
            restarted.containers[0].id = format!("container-{number}").into();
            see(&mut pods, restarted, number);
        }
        assert_eq!(pods.by_container.len(), 1);
        assert!(pods.pod(None, Some("container-9")).is_some());
    }

    #[test]
    fn room_is_bounded() {
        let mut pods = Workloads {
            most_bytes: usize::MAX,
            ..Workloads::default()
        };
        for number in 0..MAX_PODS {
            see(&mut pods, pod(Source::Api, &number.to_string(), 1), 1);
        }
        assert_eq!(see(&mut pods, pod(Source::Api, "late", 1), 2), 0);
        assert_eq!(pods.counts().refused, 1);
        pods.apply(Change::Gone("7".into()), 3 * SECOND_NS, 0);
        assert_eq!(see(&mut pods, pod(Source::Api, "late", 1), 4), 1);
        assert!(pods.pod(Some("7"), None).is_none());
    }
}
