//! How large tables may be, and how full they are: what `hopline_table_entries` and `hopline_table_limit` show.
//!
//! Plain data. `memory` decides the share, `pipeline` divides its tables by it and says how full they are.

/// What a table gets of its usual size: all of it, or less where the agent's own memory is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    /// Tables have their usual size.
    pub const WHOLE: Self = Self(Self::PARTS);
    const PARTS: u16 = 1_024;
    /// No table has fewer entries than this, unless its usual size is smaller.
    const LEAST: usize = 64;

    /// `part` of `whole`, rounded down; never more than all.
    pub fn new(part: u64, whole: u64) -> Self {
        let parts = u64::from(Self::PARTS) * part.min(whole) / whole.max(1);
        Self(parts as u16)
    }

    /// This share of a table's usual size.
    pub fn of(self, usual: usize) -> usize {
        (usual * usize::from(self.0) / usize::from(Self::PARTS)).max(usual.min(Self::LEAST))
    }

    /// In percent, for people.
    pub fn percent(self) -> u16 {
        (100 * u32::from(self.0) / u32::from(Self::PARTS)) as u16
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::WHOLE
    }
}

/// One table: entries now, and the most it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// Its name, a label value.
    pub table: &'static str,
    /// Entries now.
    pub entries: u64,
    /// The most there may be.
    pub limit: u64,
}

impl TableUse {
    /// A table with this many entries.
    pub fn new(table: &'static str, entries: usize, limit: usize) -> Self {
        Self {
            table,
            entries: entries as u64,
            limit: limit as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let check = |share: Share, usual: usize, expected: usize| assert_eq!(share.of(usual), expected, "{share:?}");
        check(Share::WHOLE, 100_000, 100_000);
        check(Share::new(3, 2), 100_000, 100_000);
        check(Share::new(1, 8), 8_192, 1_024);
        check(Share::new(0, 8), 8_192, 64);
        check(Share::new(0, 0), 16, 16);
        assert_eq!((Share::WHOLE.percent(), Share::new(1, 8).percent()), (100, 12));
    }
}
