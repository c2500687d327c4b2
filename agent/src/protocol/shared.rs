//! Hello facts that many connections have in common are held once: a client says the same to a host each time.
use std::{collections::HashSet, sync::Arc};

use super::facts::Facts;
use crate::capacity::{Share, TableUse};

/// Different facts that are held. Of other connections they are forgotten once they were counted and gave the name.
const MOST: usize = 8_192;
/// When there is no room, those that nobody has any more are looked for at one in so many newcomers.
const LOOK_EVERY: u64 = 1_024;

/// One copy of each.
#[derive(Debug)]
pub struct Shared {
    limit: usize,
    facts: HashSet<Arc<Facts>>,
    refused: u64,
}

impl Default for Shared {
    fn default() -> Self {
        Self::new(Share::WHOLE)
    }
}

impl Shared {
    /// Nothing yet; this share of the usual number is held.
    pub fn new(share: Share) -> Self {
        Self {
            limit: share.of(MOST),
            facts: HashSet::new(),
            refused: 0,
        }
    }

    /// How full it is.
    pub fn usage(&self) -> TableUse {
        TableUse::new("hello_facts", self.facts.len(), self.limit)
    }

    /// How many found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The facts of a conversation whose hellos are over, in common with others where they say the same; and whether there is
    /// room to hold them.
    pub fn share(&mut self, mut facts: Facts) -> (Arc<Facts>, bool) {
        facts.settle();
        if let Some(known) = self.facts.get(&facts) {
            return (Arc::clone(known), true);
        }
        if self.facts.len() >= self.limit && self.refused.is_multiple_of(LOOK_EVERY) {
            self.facts.retain(|facts| Arc::strong_count(facts) > 1);
        }
        let facts = Arc::new(facts);
        let has_room = self.facts.len() < self.limit;
        if has_room {
            self.facts.insert(Arc::clone(&facts));
        } else {
            self.refused += 1;
        }
        (facts, has_room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::facts::{HttpFacts, TlsFacts};
    use crate::protocol::tls::{client_hello::ClientHello, server_hello::ServerHello};

    fn hellos(offered: u8, answered: u8) -> Facts {
        let tls = TlsFacts {
            client_hello: Some(ClientHello {
                session_id: [offered; 32].into(),
                ..ClientHello::default()
            }),
            server_hello: Some(ServerHello {
                version: 0x0303,
                session_id: [answered; 32].into(),
                ..ServerHello::default()
            }),
            ..TlsFacts::default()
        };
        Facts {
            tls: Some(tls),
            ..Facts::default()
        }
    }

    fn status(status: u16) -> Facts {
        let http = HttpFacts {
            status: Some(status),
            ..HttpFacts::default()
        };
        Facts {
            http: Some(http),
            ..Facts::default()
        }
    }

    #[test]
    fn sessions_make_no_difference_but_whether_one_was_resumed() {
        let mut shared = Shared::default();
        let [first, second, resumed] = [(1, 2), (3, 4), (5, 5)].map(|(offered, answered)| {
            let facts = hellos(offered, answered);
            let before = facts.tls.as_ref().and_then(TlsFacts::resumed);
            let (facts, _) = shared.share(facts);
            assert_eq!(facts.tls.as_ref().and_then(TlsFacts::resumed), before);
            facts
        });
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &resumed));
        assert_eq!(resumed.tls.as_ref().and_then(TlsFacts::resumed), Some(true));
    }

    #[test]
    fn room_is_bounded_and_found_again() {
        let mut shared = Shared::default();
        let most = u16::try_from(MOST).expect("few");
        let held: Vec<_> = (0..=most).map(|number| shared.share(status(number)).0).collect();
        assert_eq!(shared.facts.len(), MOST);
        let (again, is_held) = shared.share(status(most));
        assert!(!is_held && !Arc::ptr_eq(&held[MOST], &again));
        assert_eq!(shared.refused(), 2);
        drop(held);
        for _ in 0..LOOK_EVERY {
            drop(shared.share(status(most + 1)));
        }
        assert_eq!(shared.facts.len(), 1);
    }
}
