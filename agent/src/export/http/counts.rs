//! What became of connections and requests of the HTTP server: closed sets of reasons, each with its counter.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::selfmetrics::HttpNumbers;

/// Makes an enum of reasons with their names in metrics.
macro_rules! reasons {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $reason:ident => $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($(#[$doc])* $reason,)* }

        impl $name {
            const ALL: &[Self] = &[$(Self::$reason,)*];

            fn name(self) -> &'static str {
                match self { $(Self::$reason => $text,)* }
            }
        }
    };
}

reasons! {
    /// How a connection ended.
    End {
        /// After its last response, or without a request, by either side.
        Finished => "finished",
        /// By the peer, amid a request or a response.
        Aborted => "aborted",
        /// What came is no HTTP, or its head is too long.
        Malformed => "malformed",
        /// A request head took too long.
        HeaderTimeout => "header_timeout",
        /// No further request came.
        IdleTimeout => "idle_timeout",
        /// Request and response took too long together.
        RequestTimeout => "request_timeout",
        /// The peer took nothing of what was sent.
        WriteTimeout => "write_timeout",
        /// Room was needed for others.
        Evicted => "evicted",
        /// Its peer had as many as it may have.
        PeerLimit => "peer_limit",
        /// There were as many as there may be, and none that could go.
        Full => "full",
    }
}

reasons! {
    /// Why a request was refused.
    Refusal {
        /// The `Host` header names no loopback address.
        Host => "host",
        /// The path is not served beyond loopback.
        Path => "path",
        /// It has a body.
        Body => "body",
        /// Others were asking, or the agent was ending.
        Busy => "busy",
        /// There are as many readers of event streams as there may be.
        Streams => "streams",
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub(in super::super) struct Counts {
    ended: [AtomicU64; End::ALL.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    accept_errors: AtomicU64,
}

impl Counts {
    pub(super) fn ended(&self, end: End) {
        self.ended[end as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn accept_error(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    /// Connections that did not end by themselves.
    pub(super) fn forced(&self) -> u64 {
        let by_themselves = [End::Finished, End::Aborted];
        let forced = End::ALL.iter().filter(|end| !by_themselves.contains(end));
        forced.map(|end| self.ended[*end as usize].load(Relaxed)).sum()
    }

    /// All of them beside the connections that are `open` of those that there may be.
    pub(in super::super) fn numbers(&self, open: usize, limit: usize) -> HttpNumbers {
        let named = |name: &'static str, count: &AtomicU64| (name, count.load(Relaxed));
        HttpNumbers {
            open: open as u64,
            limit: limit as u64,
            ended: (End::ALL.iter().zip(&self.ended))
                .map(|(end, count)| named(end.name(), count))
                .collect(),
            refused: (Refusal::ALL.iter().zip(&self.refused))
                .map(|(refusal, count)| named(refusal.name(), count))
                .collect(),
            accept_errors: self.accept_errors.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let counts = Counts::default();
        for (times, end) in (1..).zip(End::ALL) {
            (0..times).for_each(|_| counts.ended(*end));
        }
        assert_eq!(counts.forced(), (3..=10).sum::<u64>());
        counts.refused(Refusal::Streams);
        counts.accept_error();
        let numbers = counts.numbers(3, 9);
        assert!(numbers.ended.iter().map(|(_, count)| *count).eq(1..=10), "{numbers:?}");
        assert_eq!(numbers.refused.last(), Some(&("streams", 1)));
        assert_eq!((numbers.open, numbers.limit, numbers.accept_errors), (3, 9, 1));
    }
}
