//! One connection from its first report to its CLOSE: table, name, what waits, what is counted when.
use std::sync::Arc;

use agent_ebpf::{
    connection::{ConnectionState, FLAG_FOUND_CONNECTING, FLAG_LATE},
    event::{HEARTBEAT_NS, TurnsEvent},
    timeline::Timeline,
};

use super::{
    Attached, Output, Pipeline,
    choices::{Choices, Heard, opened_ns},
    conclusion::Conclusion,
    destination::{key, pod_at},
    library,
    progress::{self, Counted},
    records::Said,
    resolution::Resolution,
    staying::Ending,
    subflows::Parent,
    talk::{self, Word},
    tls_outcome,
};
use crate::{
    aggregate::{DestinationId, DestinationKey, Name, Series},
    connection::{Activity, Admission, Entry, Packed, Role, Rtt, TcpState, connect_error, phase},
    protocol::{assembler::Assembler, facts::Facts, shared::Shared},
    workloads::Workloads,
};

/// A connection whose name does not come is counted under its address after this long.
const UNNAMED_NS: u64 = 5_000_000_000;

impl Pipeline {
    /// A snapshot of a connection, the last one or not.
    pub(super) fn connection(&mut self, closed: bool, role: Role, state: &ConnectionState, now_ns: u64) {
        let before = self.connections.get(state.cookie).map(|entry| entry.state.state());
        match before.map(|before| before.attempt) {
            Some(attempt) if attempt > state.attempt => {
                self.counts.stale += 1;
                return;
            }
            Some(attempt) if attempt < state.attempt => {
                // Its CLOSE was lost, and with it how it went: the kernel counted that loss.
                self.counts.superseded += 1;
                self.waiting.remove(state.cookie);
                if let Some(entry) = self.connections.remove(state.cookie) {
                    let_go(&mut self.series, &entry.attached);
                }
            }
            _ => {}
        }
        if closed {
            self.close(role, state, now_ns);
        } else if state.closed_ns != 0 {
            self.counts.stale += 1;
        } else if let Some(before) = before.filter(|before| before.attempt == state.attempt) {
            if progress::is_of_walk(&before, state) {
                self.told_ns = now_ns;
            }
            self.advance(role, state, now_ns);
        } else if self.open(role, state, now_ns) {
            self.advance(role, state, now_ns);
        }
    }

    /// Puts a connection into the table at its first event, whichever that is; `false` when there is no room.
    fn open(&mut self, role: Role, state: &ConnectionState, now_ns: u64) -> bool {
        let facts = self.hellos.facts(stream_of(state));
        let parent = self.subflows.parent(state, &self.connections);
        let named = is_named(role, state, facts, &parent, now_ns);
        let said = Word::of(facts.filter(|_| named));
        let attached = self.first_seen(role, state, named, said, now_ns);
        let destination = attached.destination;
        let entry = Entry {
            state: Packed::from(state),
            first_seen_ns: now_ns,
            attached,
        };
        match self.connections.insert(entry, now_ns) {
            Admission::Inserted => {}
            Admission::Evicted(entry) => {
                self.counts.evicted += 1;
                self.waiting.remove(entry.state.cookie());
                let_go(&mut self.series, &entry.attached);
            }
            // Nothing of it is counted yet: its CLOSE will count it whole.
            Admission::Refused => {
                self.counts.untracked += 1;
                return false;
            }
        }
        self.series.hold(destination);
        true
    }

    /// An open connection has moved on.
    fn advance(&mut self, role: Role, state: &ConnectionState, now_ns: u64) {
        let parent = self.subflows.parent(state, &self.connections);
        let Some(entry) = self.connections.get_mut(state.cookie) else {
            return;
        };
        entry.state.set(state);
        let attached = &mut entry.attached;
        attached.activity.seen(state, now_ns);
        let keeps_facts = keep_facts(&mut self.hellos, &mut self.facts, attached, state);
        attached.library = self.libraries.take(state.cookie, attached.library.take());
        let kept = attached.facts.take();
        library::settle(attached.library.as_deref_mut(), kept.as_deref());
        let facts = kept.as_deref().or_else(|| self.hellos.facts(stream_of(state)));
        if !attached.named && is_named(role, state, facts, &parent, now_ns) {
            name(
                &mut self.series,
                &self.choices,
                &mut self.resolution,
                &self.workloads,
                attached,
                state,
                facts,
                parent,
                now_ns,
            );
        }
        let answer = talk::first_byte(state, role, facts, &self.tickets);
        let turns_before = attached.counted.all_turns();
        if attached.named {
            if let Some(event) = self.unplaced_rtt.take(state.cookie) {
                progress::count_rtt(&mut self.series, attached, state, &event);
            }
            progress::count(&mut self.series, attached, state, facts, now_ns);
            if attached.is_newly_watched() {
                self.watch.touched.push(state.cookie);
            }
            if let Some(answer) = answer
                && progress::is_decided(state, answer, now_ns)
            {
                progress::count_first_byte(&mut self.series, attached, state, answer, now_ns);
            }
            let heard = Heard {
                state,
                facts,
                answer,
                failure: None,
                first_seen_ns: entry.first_seen_ns,
                turns_before,
                ended_ns: None,
                now_ns,
            };
            self.choices
                .heard(&mut self.attribution, &self.resolution, attached, &heard);
            self.linking.heard(attached, role, &heard);
        }
        attached.facts = kept.filter(|_| keeps_facts);
        enter(&mut self.series, attached, state);
        self.waiting
            .set(state.cookie, phase(state, answer.is_some(), entry.first_seen_ns));
    }

    /// Turns of an open connection; of one that has gone, its CLOSE has told.
    pub(super) fn turns(&mut self, event: &TurnsEvent) {
        let Some(entry) = self.connections.get(event.cookie) else {
            self.counts.stale += 1;
            return;
        };
        let is_news = event.turns.wrapping_sub(entry.attached.counted.turns()) <= u32::MAX / 2;
        let mut state = entry.state.state();
        let Some(role) = Role::of(&state).filter(|_| is_news && state.attempt == event.attempt) else {
            self.counts.stale += 1;
            return;
        };
        state.timeline = Timeline {
            turns: event.turns,
            turns_overlapping: event.turns_overlapping,
            recent_turns_us: event.recent_turns_us,
            recent_turns_begun: event.recent_turns_begun,
            recent_turns_status: event.recent_turns_status,
            // It was told of when the last of them ended.
            turn_ns: 0,
            ..state.timeline
        };
        self.advance(role, &state, event.header.time_ns);
    }

    /// Connections whose CLOSE was lost: everything open is heard of once in [`HEARTBEAT_NS`] while the walk goes on.
    /// Where there is none, silence says nothing.
    pub(super) fn drop_silent(&mut self) {
        let before_ns = self.told_ns.saturating_sub(3 * HEARTBEAT_NS);
        for entry in self.connections.take_silent(before_ns) {
            self.counts.evicted += 1;
            let state = entry.state.state();
            self.waiting.remove(state.cookie);
            self.linking.gone((state.cookie, state.attempt), self.now_ns);
            let_go(&mut self.series, &entry.attached);
        }
    }

    /// What is attached to a connection before anything of it is counted: from zero, but what a late one did before
    /// hopline is not ours. One that may still say its name is under that of DNS or its address until then.
    fn first_seen(&mut self, role: Role, state: &ConnectionState, named: bool, said: Word, now_ns: u64) -> Attached {
        let owner = self.attribution.owner(state);
        let pod = self.pod_of(state.cgroup_id, owner.pid, now_ns);
        let (mut resolved, mut waited) = (None, None);
        let claim = match role {
            Role::Client => {
                resolved = self.resolution.resolved(state, owner.pid, &mut self.attribution);
                let claim = self.resolution.claim(state, owner.pid, said, resolved.as_ref());
                let claim = claim.or_else(|| pod_at(&self.workloads, state));
                match self.subflows.parent(state, &self.connections) {
                    Parent::Named(claim) => claim,
                    Parent::Unnamed => claim,
                    Parent::Itself => {
                        if named {
                            waited = self.resolution.waited(state, owner.pid, claim.as_ref());
                        }
                        claim
                    }
                }
            }
            Role::Server => said.claim,
        };
        let host = claim.as_ref().map(|claim| &claim.host);
        let group = self.choices.group(state, host.map(|host| &**host));
        let key = key(role, &owner, state, host, &group, pod.as_deref());
        let destination = self.series.destination(key, now_ns);
        let (counted, rtt) = if late(state) {
            (Counted::before(state), Rtt::before(state.rtt))
        } else {
            Default::default()
        };
        Attached {
            owner,
            pod,
            destination,
            gauge: None,
            counted,
            activity: Activity::default(),
            turns: None,
            responses: None,
            rtt,
            window: None,
            named,
            claim,
            resolved: resolved.map(Box::new),
            waited,
            group,
            judged: false,
            facts: None,
            library: None,
            request: 0,
        }
    }

    /// The last event of a connection; of most it is the only one, and their name is known before anything is counted.
    fn close(&mut self, role: Role, state: &ConnectionState, now_ns: u64) {
        self.waiting.remove(state.cookie);
        self.resolution.closed(state.cookie);
        let last = self.hellos.take(stream_of(state));
        let Some(mut entry) = self.connections.remove(state.cookie) else {
            let said = Word::of(last.as_ref());
            let mut attached = self.first_seen(role, state, true, said, now_ns);
            let end = End {
                role,
                state,
                facts: last.as_ref(),
                first_seen_ns: now_ns,
                now_ns,
            };
            self.finish(&mut attached, &end);
            return;
        };
        let parent = self.subflows.parent(state, &self.connections);
        let attached = &mut entry.attached;
        let facts = attached.facts.take().or_else(|| last.map(Arc::new));
        if !attached.named {
            let facts = facts.as_deref();
            name(
                &mut self.series,
                &self.choices,
                &mut self.resolution,
                &self.workloads,
                attached,
                state,
                facts,
                parent,
                now_ns,
            );
        }
        let end = End {
            role,
            state,
            facts: facts.as_deref(),
            first_seen_ns: entry.first_seen_ns,
            now_ns,
        };
        self.finish(attached, &end);
        let_go(&mut self.series, attached);
    }

    /// Counts what is new in the last snapshot, how it went, and who ended it.
    fn finish(&mut self, attached: &mut Attached, end: &End<'_>) {
        let End {
            role,
            state,
            facts,
            first_seen_ns,
            now_ns,
        } = *end;
        let answer = talk::first_byte(state, role, facts, &self.tickets);
        tracing::trace!(cookie = state.cookie, ?role, ?answer, timeline = ?state.timeline, "closed");
        if let Some(facts) = facts {
            talk::learn_tickets(state, role, facts, &mut self.tickets);
        }
        if let Some(event) = self.unplaced_rtt.take(state.cookie) {
            progress::count_rtt(&mut self.series, attached, state, &event);
        }
        let turns_before = attached.counted.all_turns();
        progress::count(&mut self.series, attached, state, facts, now_ns);
        if let Some(answer) = answer {
            progress::count_first_byte(&mut self.series, attached, state, answer, now_ns);
        }
        self.subflows.ended(state, attached.claim.as_ref());
        let destination = attached.destination;
        self.note_path(role, destination, state);
        if !attached.counted.connected && (!late(state) || state.flags & FLAG_FOUND_CONNECTING != 0) {
            self.series.connected(destination, connect_error(state), now_ns);
        }
        attached.library = self.libraries.take(state.cookie, attached.library.take());
        let tls = facts.and_then(|facts| facts.tls.as_ref());
        let at_ns = now_ns.saturating_add_signed(self.clock_offset_ns);
        let failure = tls_outcome::failure(state, role, tls, attached.library.as_deref(), at_ns);
        if let Some((failure, _)) = failure {
            self.series.tls_failed(destination, failure, now_ns);
        }
        let conclusion = Conclusion::of(state, answer.is_some(), first_seen_ns, facts, failure.is_some());
        conclusion.count(&mut self.series, destination, now_ns);
        let end_ns = if state.closed_ns == 0 { now_ns } else { state.closed_ns };
        let heard = Heard {
            state,
            facts,
            answer,
            failure: failure.map(|(failure, _)| failure),
            first_seen_ns,
            turns_before,
            ended_ns: Some(end_ns),
            now_ns,
        };
        self.choices
            .heard(&mut self.attribution, &self.resolution, attached, &heard);
        self.linking.heard(attached, role, &heard);
        let ending = Ending {
            role,
            state,
            is_answered: answer.is_some(),
            opened_ns: opened_ns(&heard),
            ended_ns: end_ns,
        };
        let idle_before_ns = self.staying.ended(attached, &ending);
        if self.collect {
            let owner = Arc::clone(&attached.owner);
            let cgroup = self.attribution.cgroup(state.cgroup_id, owner.pid, now_ns);
            let said = Said {
                claim: attached.claim.as_ref(),
                waited: attached.waited.as_deref(),
                group: &attached.group.name,
                facts,
                answer,
                failure,
                library: attached.library.as_deref(),
                turns: attached.turns.as_deref(),
                responses: attached.responses.as_deref().map(|responses| &responses.0),
                rtt: &attached.rtt,
                idle_before_ns,
                outcome: Some(conclusion.outcome),
            };
            let surroundings = self.surroundings(cgroup.as_deref());
            let record = surroundings.record(
                role,
                state,
                &owner,
                &said,
                first_seen_ns..end_ns,
                conclusion.unanswered(),
            );
            self.tell_finished(record, attached, role, state);
        }
    }

    /// Tells each connection that has waited for too long, once for each phase.
    pub(super) fn tell_stuck(&mut self) {
        for (cookie, waiting) in self.waiting.newly_stuck(self.settings.stuck_after_ns, self.now_ns) {
            let Some(entry) = self.connections.get(cookie) else {
                continue;
            };
            let (state, attached) = (&entry.state.state(), &entry.attached);
            let Some(role) = Role::of(state) else { continue };
            let cgroup = self
                .attribution
                .cgroup(state.cgroup_id, attached.owner.pid, self.now_ns);
            let facts = attached
                .facts
                .as_deref()
                .or_else(|| self.hellos.facts(stream_of(state)));
            let said = Said {
                claim: attached.claim.as_ref(),
                waited: attached.waited.as_deref(),
                group: &attached.group.name,
                facts,
                answer: talk::first_byte(state, role, facts, &self.tickets),
                failure: None,
                library: attached.library.as_deref(),
                turns: attached.turns.as_deref(),
                responses: attached.responses.as_deref().map(|responses| &responses.0),
                rtt: &attached.rtt,
                idle_before_ns: None,
                outcome: None,
            };
            let times = entry.first_seen_ns..self.now_ns;
            let surroundings = self.surroundings(cgroup.as_deref());
            let (phase, since_ns) = waiting;
            let waiting = Some((phase, self.now_ns.saturating_sub(since_ns)));
            let record = surroundings.record(role, state, &attached.owner, &said, times, waiting);
            self.tell(Output::Stuck(Box::new(record)));
        }
    }
}

/// A connection whose last snapshot has come.
#[derive(Clone, Copy)]
struct End<'a> {
    role: Role,
    state: &'a ConnectionState,
    /// All that was read of what both ends said.
    facts: Option<&'a Facts>,
    first_seen_ns: u64,
    now_ns: u64,
}

/// Under which the hello bytes of a connection were sent.
fn stream_of(state: &ConnectionState) -> u64 {
    match state.timeline.hello_stream {
        0 => state.cookie,
        stream => stream,
    }
}

/// Once all was said, what was read moves to the connection: the assembler keeps nothing for long. `false` when it can be
/// used this once, as there is no room to hold it.
fn keep_facts(hellos: &mut Assembler, shared: &mut Shared, attached: &mut Attached, state: &ConnectionState) -> bool {
    let stream = stream_of(state);
    let is_all = || state.timeline.tls_done_ns != 0 || hellos.facts(stream).is_some_and(talk::is_answered_in_clear);
    if attached.facts.is_some() || !is_all() {
        return true;
    }
    let Some(facts) = hellos.take(stream) else { return true };
    let http = facts.http.as_ref();
    attached.request = http.and_then(|http| http.request).unwrap_or_default();
    let (facts, has_room) = shared.share(facts);
    attached.facts = Some(facts);
    has_room
}

/// Whether an open connection's name is as good as it will get.
fn is_named(role: Role, state: &ConnectionState, facts: Option<&Facts>, parent: &Parent, now_ns: u64) -> bool {
    let is_said = match parent {
        Parent::Itself => role == Role::Server || talk::is_named(state, facts),
        Parent::Unnamed => false,
        Parent::Named(_) => true,
    };
    is_said || state.established_ns != 0 && now_ns.saturating_sub(state.established_ns) > UNNAMED_NS || late(state)
}

/// The connection moves to the destination of its name, if it has one: nothing better will come.
#[expect(
    clippy::too_many_arguments,
    reason = "parts of the pipeline, of which another part is borrowed"
)]
fn name(
    series: &mut Series,
    choices: &Choices,
    resolution: &mut Resolution,
    workloads: &Workloads,
    attached: &mut Attached,
    state: &ConnectionState,
    facts: Option<&Facts>,
    parent: Parent,
    now_ns: u64,
) {
    attached.named = true;
    let role = Role::Client;
    if Role::of(state) != Some(role) {
        attached.claim = facts.and_then(talk::claim);
        return;
    }
    let pid = attached.owner.pid;
    let is_first = matches!(parent, Parent::Itself);
    attached.claim = if let Parent::Named(claim) = parent {
        claim
    } else {
        resolution
            .claim_of(state, pid, facts, attached.resolved.as_deref())
            .or_else(|| pod_at(workloads, state))
    };
    if is_first {
        attached.waited = resolution.waited(state, pid, attached.claim.as_ref());
    }
    let host = attached.claim.as_ref().map(|claim| &claim.host);
    let group = choices.group(state, host.map(|host| &**host));
    let key = key(role, &attached.owner, state, host, &group, attached.pod.as_deref());
    let destination = series.destination(key, now_ns);
    attached.group = group;
    // One copy of the name for all that go there.
    if let Some(claim) = &mut attached.claim
        && let Some(DestinationKey {
            name: Name::Host(host), ..
        }) = series.called(destination)
        && *host == claim.host
    {
        claim.host = Arc::clone(host);
    }
    move_to(series, attached, destination);
}

/// An open connection is another destination's from now on.
pub(super) fn move_to(series: &mut Series, attached: &mut Attached, destination: DestinationId) {
    if destination == attached.destination {
        return;
    }
    series.rename(attached.destination, destination);
    if let Some((raised, state)) = attached.gauge.take() {
        attached.gauge = Some((series.move_gauge(raised, destination, state), state));
    }
    attached.destination = destination;
}

/// Moves an open connection to the gauge of its present state.
fn enter(series: &mut Series, attached: &mut Attached, state: &ConnectionState) {
    let now = TcpState::of(state.tcp_state);
    if attached.gauge.map(|(_, state)| state) != now {
        if let Some((id, state)) = attached.gauge.take() {
            series.leave(id, state);
        }
        attached.gauge = now.map(|state| (series.enter(attached.destination, state), state));
    }
}

/// An open connection leaves the table.
pub(super) fn let_go(series: &mut Series, attached: &Attached) {
    if let Some((id, state)) = attached.gauge {
        series.leave(id, state);
    }
    series.release(attached.destination);
}

fn late(state: &ConnectionState) -> bool {
    state.flags & FLAG_LATE != 0
}
