//! Which pod had an address at a time. An address goes from pod to pod; where the time does not tell whose it was, nobody
//! is named.
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

/// Pods of one address that are remembered; the oldest is forgotten first.
const MAX_HOLDERS: usize = 8;
/// Holders that are remembered, of all addresses together.
pub(super) const MAX_HOLDERS_IN_ALL: usize = 65_536;

/// The time in which a pod may have had an address, nanoseconds of the agent's clock.
#[derive(Clone, Debug)]
struct Holder {
    uid: Box<str>,
    /// It may have it from here on.
    from_ns: u64,
    /// It was told to have it: from here on it does.
    told_ns: u64,
    /// It was told to have it no more; `u64::MAX` while it has it.
    until_ns: u64,
}

/// Addresses and who had them.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    holders: HashMap<IpAddr, VecDeque<Holder>>,
    len: usize,
}

impl Addresses {
    /// A pod that may have begun at `from_ns` was told to have an address.
    pub(super) fn held(&mut self, address: IpAddr, uid: &str, from_ns: u64, now_ns: u64) {
        if self.len >= MAX_HOLDERS_IN_ALL {
            return;
        }
        let holders = self.holders.entry(address).or_default();
        if holders
            .iter()
            .any(|holder| *holder.uid == *uid && holder.until_ns == u64::MAX)
        {
            return;
        }
        if holders.len() >= MAX_HOLDERS {
            holders.pop_front();
            self.len -= 1;
        }
        self.len += 1;
        holders.push_back(Holder {
            uid: uid.into(),
            from_ns: from_ns.min(now_ns),
            told_ns: now_ns,
            until_ns: u64::MAX,
        });
    }

    /// A pod was told to have an address no more.
    pub(super) fn left(&mut self, address: IpAddr, uid: &str, now_ns: u64) {
        let holders = self.holders.get_mut(&address).into_iter().flatten();
        for holder in holders.filter(|holder| *holder.uid == *uid) {
            holder.until_ns = holder.until_ns.min(now_ns);
        }
    }

    /// Uid of the pod that had an address at a time; `None` when nobody had, or when that cannot be told.
    pub(super) fn holder(&self, address: IpAddr, at_ns: u64) -> Option<&str> {
        let mut found: Option<&Holder> = None;
        let mut is_one = true;
        for holder in self.holders.get(&address)? {
            if holder.from_ns <= at_ns && at_ns < holder.until_ns {
                // Whoever came last and was told to have it by then has taken it from those before.
                is_one = found.is_none() || holder.told_ns <= at_ns;
                found = Some(holder);
            }
        }
        found.filter(|_| is_one).map(|holder| &*holder.uid)
    }

    /// Forgets who had to leave before `before_ns`.
    pub(super) fn expire(&mut self, before_ns: u64) {
        self.holders.retain(|_, holders| {
            holders.retain(|holder| holder.until_ns >= before_ns);
            !holders.is_empty()
        });
        self.len = self.holders.values().map(VecDeque::len).sum();
    }

    /// Holders of all addresses.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 4));

    #[test]
    fn reuse_is_told_by_time() {
        let mut addresses = Addresses::default();
        addresses.held(ADDRESS, "first", 90, 100);
        addresses.left(ADDRESS, "first", 200);
        addresses.held(ADDRESS, "second", 180, 210);
        let check = |at_ns, expected: Option<&str>| assert_eq!(addresses.holder(ADDRESS, at_ns), expected, "{at_ns}");
        check(89, None);
        check(90, Some("first"));
        check(179, Some("first"));
        // The first may have left, the second may have come.
        check(180, None);
        check(199, None);
        check(200, Some("second"));
        check(1_000, Some("second"));
    }

    #[test]
    fn an_end_that_was_never_told() {
        let mut addresses = Addresses::default();
        addresses.held(ADDRESS, "first", 0, 100);
        addresses.held(ADDRESS, "second", 300, 400);
        addresses.held(ADDRESS, "second", 300, 500);
        let check = |at_ns, expected: Option<&str>| assert_eq!(addresses.holder(ADDRESS, at_ns), expected, "{at_ns}");
        check(299, Some("first"));
        check(300, None);
        check(399, None);
        check(400, Some("second"));
    }

    #[test]
    fn the_same_pod_again_and_forgetting() {
        let mut addresses = Addresses::default();
        addresses.held(ADDRESS, "pod", 0, 100);
        addresses.left(ADDRESS, "pod", 200);
        addresses.held(ADDRESS, "pod", 300, 300);
        assert_eq!(addresses.holder(ADDRESS, 250), None);
        assert_eq!(addresses.holder(ADDRESS, 300), Some("pod"));
        addresses.expire(201);
        assert_eq!(addresses.holder(ADDRESS, 150), None, "forgotten");
        for number in 0..100 {
            addresses.held(ADDRESS, &number.to_string(), number, number);
        }
        assert_eq!(addresses.holders[&ADDRESS].len(), MAX_HOLDERS);
    }
}
