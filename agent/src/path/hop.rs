//! What is known of one hop of a trace. Filled by `trace`.
use std::{collections::VecDeque, net::IpAddr};

/// Round trips that are kept; older ones make room.
const MOST_TIMES: usize = 1_000;
/// Addresses that one hop may have; more are counted.
const MOST_ADDRESSES: usize = 4;

/// One hop: whoever answers for probes with a certain TTL.
#[derive(Clone, Debug, Default)]
pub struct Hop {
    /// Who answered, and how often; routers that share the load, or that answer from several addresses, give more than one.
    addresses: Vec<(IpAddr, u64)>,
    /// Answers from further addresses.
    other_addresses: u64,
    /// Round trips in the order of their answers, nanoseconds.
    times_ns: VecDeque<u64>,
    answered: u64,
    lost: u64,
    answer_ttl: Option<u8>,
}

impl Hop {
    pub(super) fn answered_by(&mut self, address: IpAddr, round_trip_ns: u64, ttl: Option<u8>) {
        self.answered += 1;
        self.answer_ttl = ttl.or(self.answer_ttl);
        if let Some((_, count)) = self.addresses.iter_mut().find(|(known, _)| *known == address) {
            *count += 1;
        } else if self.addresses.len() < MOST_ADDRESSES {
            self.addresses.push((address, 1));
        } else {
            self.other_addresses += 1;
        }
        if self.times_ns.len() == MOST_TIMES {
            self.times_ns.pop_front();
        }
        self.times_ns.push_back(round_trip_ns);
    }

    pub(super) fn lose(&mut self) {
        self.lost += 1;
    }

    /// The address that answered most often; `None`: silent so far.
    pub fn address(&self) -> Option<IpAddr> {
        let most = self.addresses.iter().rev().max_by_key(|(_, count)| *count);
        most.map(|(address, _)| *address)
    }

    /// Every address that answered, the most frequent first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut sorted = self.addresses.clone();
        sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        sorted.into_iter().map(|(address, _)| address).collect()
    }

    /// Probes that were answered.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Probes whose time is over, answered or not.
    pub fn settled(&self) -> u64 {
        self.answered + self.lost
    }

    /// The part of its probes that nobody answered. It is no loss of the path where later hops answer more.
    pub fn unanswered_ratio(&self) -> Option<f64> {
        (self.settled() > 0).then(|| self.lost as f64 / self.settled() as f64)
    }

    /// TTL or hop limit of the last answer as it arrived.
    pub fn answer_ttl(&self) -> Option<u8> {
        self.answer_ttl
    }

    /// Nearest-rank quantiles of the round trips, nanoseconds; 0 is the least.
    pub fn quantiles_ns<const N: usize>(&self, percents: [usize; N]) -> Option<[u64; N]> {
        let mut sorted: Vec<u64> = self.times_ns.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(percents.map(|percent| sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1).min(last)]))
    }

    /// Median of the round trips, nanoseconds.
    pub fn p50_ns(&self) -> Option<u64> {
        self.quantiles_ns([50]).map(|[p50]| p50)
    }
}

/// Part of the probes that the path lost on the way to each hop and back, `None` where no hop from there on answers.
///
/// A router may answer little because it has better things to do. What a later hop answers has passed it, so a hop's loss
/// is the least of its own and all later ones'.
pub(super) fn loss(hops: &[Hop]) -> Vec<Option<f64>> {
    suffix_least(hops, |hop| hop.unanswered_ratio().filter(|_| hop.answered > 0))
}

/// Median round trip to each hop without what its router took to make the answer, nanoseconds: the least of its own and
/// all later ones'.
pub(super) fn latency_ns(hops: &[Hop]) -> Vec<Option<f64>> {
    suffix_least(hops, |hop| hop.p50_ns().map(|ns| ns as f64))
}

fn suffix_least(hops: &[Hop], value: impl Fn(&Hop) -> Option<f64>) -> Vec<Option<f64>> {
    let mut least: Option<f64> = None;
    let mut values: Vec<_> = hops
        .iter()
        .rev()
        .map(|hop| {
            if let Some(value) = value(hop) {
                least = Some(least.map_or(value, |least| least.min(value)));
            }
            least
        })
        .collect();
    values.reverse();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(times_ms: &[u64], lost: u64) -> Hop {
        let mut hop = Hop::default();
        for ms in times_ms {
            hop.answered_by([10, 0, 0, 1].into(), ms * 1_000_000, Some(60));
        }
        (0..lost).for_each(|_| hop.lose());
        hop
    }

    #[test]
    fn quantiles() {
        let one = hop(&[5, 1, 4, 2, 3], 0);
        assert_eq!(one.quantiles_ns([0, 50, 95]), Some([1_000_000, 3_000_000, 5_000_000]));
        assert_eq!(hop(&[], 3).quantiles_ns([50]), None);
        assert_eq!(hop(&[1; 2_000], 0).times_ns.len(), MOST_TIMES);
    }

    #[test]
    fn a_lazy_router_loses_nothing() {
        let hops = [
            hop(&[1; 9], 1),
            hop(&[9], 9),
            hop(&[], 10),
            hop(&[2; 8], 2),
            hop(&[], 10),
        ];
        assert_eq!(loss(&hops), [Some(0.1), Some(0.2), Some(0.2), Some(0.2), None]);
        assert_eq!(latency_ns(&hops)[1], Some(2e6));
    }

    #[test]
    fn the_most_frequent_address_comes_first_and_there_are_few() {
        let mut hop = Hop::default();
        for last in [1, 2, 2, 3, 4, 5, 6] {
            hop.answered_by([10, 0, 0, last].into(), 1, None);
        }
        assert_eq!(hop.address(), Some([10, 0, 0, 2].into()));
        assert_eq!((hop.addresses().len(), hop.other_addresses, hop.answered()), (4, 2, 7));
    }
}
