//! Whose overflows they were. The kernel counts overflows per namespace, and per listener all that was dropped there, SYNs
//! that came again among it: neither is the answer, both together nearly always are.

/// A listener since the last sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    /// What was dropped there, for whatever reason.
    pub(super) drops: u64,
    /// Its queue is full now.
    pub(super) is_full: bool,
}

/// Shares the overflows of a namespace out among its listeners: none gets more than it dropped, and those that are full
/// come first. Where the namespace's count is not known, what full ones dropped has to do.
pub(super) fn share(overflows: Option<u64>, listeners: &[Dropped]) -> Vec<u64> {
    let mut shares = vec![0; listeners.len()];
    let mut left = overflows.unwrap_or(u64::MAX);
    for full in [true, false] {
        if !full && overflows.is_none() {
            break;
        }
        let all = || (0..).zip(listeners).filter(|(_, listener)| listener.is_full == full);
        let wanted: u64 = all().map(|(_, listener)| listener.drops).sum();
        let given = left.min(wanted);
        let mut rest = given;
        for (at, listener) in all() {
            // Rounded up, so that nothing is left over; the last ones get a little less.
            let part = u128::from(listener.drops) * u128::from(given);
            let part = part.div_ceil(u128::from(wanted.max(1))) as u64;
            let part = part.min(rest);
            shares[at as usize] = part;
            rest -= part;
        }
        left -= given;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let check = |overflows: Option<u64>, listeners: &[(u64, bool)], expected: &[u64]| {
            let listeners: Vec<Dropped> = listeners
                .iter()
                .map(|(drops, is_full)| Dropped {
                    drops: *drops,
                    is_full: *is_full,
                })
                .collect();
            assert_eq!(share(overflows, &listeners), expected, "{overflows:?} {listeners:?}");
        };
        check(Some(10), &[], &[]);
        // SYNs that came again are no overflows.
        check(Some(135), &[(135, true), (28, false)], &[135, 0]);
        check(Some(130), &[(135, true), (28, false)], &[130, 0]);
        // It was full, and is no longer.
        check(Some(7), &[(7, false), (0, false)], &[7, 0]);
        check(Some(140), &[(135, true), (28, false)], &[135, 5]);
        // More than can be told: those of listeners that have gone.
        check(Some(500), &[(3, true), (4, false)], &[3, 4]);
        check(Some(9), &[(10, true), (10, true)], &[5, 4]);
        check(Some(0), &[(10, true)], &[0]);
        check(None, &[(10, true), (4, false)], &[10, 0]);
        check(
            Some(u64::MAX),
            &[(u64::from(u32::MAX), true); 2],
            &[u64::from(u32::MAX); 2],
        );
    }
}
