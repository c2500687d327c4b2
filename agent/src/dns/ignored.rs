//! Why a message has no part in what is counted and learned, as a closed set.

/// One reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// An answer on a socket that asked nothing with this id, or not of this server's client.
    Unsolicited,
    /// An answer to a query that went to another server.
    WrongServer,
    /// An answer of the right server to another question.
    OtherQuestion,
    /// An answer to a query that has ended as a time-out.
    Late,
    /// A query where answers go, or an answer where queries go.
    Direction,
    /// Neither query nor answer: NOTIFY, UPDATE and others.
    Opcode,
    /// A query that found its cgroup's share of the table used up.
    Crowded,
    /// A query whose id and socket are used too often at once.
    Repeated,
}

impl Ignored {
    /// Every reason, in the order of `self as usize`.
    pub const ALL: [Self; 8] = [
        Self::Unsolicited,
        Self::WrongServer,
        Self::OtherQuestion,
        Self::Late,
        Self::Direction,
        Self::Opcode,
        Self::Crowded,
        Self::Repeated,
    ];

    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsolicited => "unsolicited",
            Self::WrongServer => "wrong_server",
            Self::OtherQuestion => "other_question",
            Self::Late => "late",
            Self::Direction => "direction",
            Self::Opcode => "opcode",
            Self::Crowded => "crowded",
            Self::Repeated => "repeated",
        }
    }
}

/// How often each reason was met; the counts grow only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IgnoredCounts([u64; Ignored::ALL.len()]);

impl IgnoredCounts {
    /// One more for this reason.
    pub(super) fn count(&mut self, reason: Ignored) {
        self.0[reason as usize] += 1;
    }

    /// How many for this reason.
    pub fn get(&self, reason: Ignored) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Ignored, u64)> + '_ {
        Ignored::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count() {
        let mut counts = IgnoredCounts::default();
        for reason in Ignored::ALL {
            counts.count(reason);
        }
        counts.count(Ignored::Late);
        assert_eq!((counts.get(Ignored::Late), counts.get(Ignored::Direction)), (2, 1));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 9);
    }
}
