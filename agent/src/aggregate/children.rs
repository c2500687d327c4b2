//! A set of children of one destination: a bit for each, as many words as the table of children needs.
use std::sync::LazyLock;

use super::child::{CHILDREN, Child, Family};

const WORDS: usize = CHILDREN.div_ceil(u64::BITS as usize);

/// Which children a destination has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Children([u64; WORDS]);

/// The children that are histograms, and those that have both directions: they are more than one time series.
static HISTOGRAMS: LazyLock<Children> = LazyLock::new(|| Child::all().filter(|child| child.is_histogram()).collect());
static DIRECTIONS: LazyLock<Children> = LazyLock::new(|| Child::all().filter(|child| child.has_directions()).collect());

impl Children {
    pub(super) fn insert(&mut self, child: Child) {
        let (word, bit) = place(child);
        self.0[word] |= bit;
    }

    pub(super) fn contains(self, child: Child) -> bool {
        let (word, bit) = place(child);
        self.0[word] & bit != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == [0; WORDS]
    }

    pub(super) fn union(self, other: Self) -> Self {
        self.zip(other, |mine, other| mine | other)
    }

    pub(super) fn intersection(self, other: Self) -> Self {
        self.zip(other, |mine, other| mine & other)
    }

    pub(super) fn difference(self, other: Self) -> Self {
        self.zip(other, |mine, other| mine & !other)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Child> {
        Child::all().filter(move |child| self.contains(*child))
    }

    /// Time series of all of them; asked often.
    pub(super) fn series(self) -> usize {
        let histograms = self.intersection(*HISTOGRAMS).len();
        self.len() + histograms * (Family::Rtt.series() - 1) + self.intersection(*DIRECTIONS).len()
    }

    fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn zip(mut self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        for (mine, other) in self.0.iter_mut().zip(other.0) {
            *mine = combine(*mine, other);
        }
        self
    }
}

impl FromIterator<Child> for Children {
    fn from_iter<I: IntoIterator<Item = Child>>(children: I) -> Self {
        let mut all = Self::default();
        children.into_iter().for_each(|child| all.insert(child));
        all
    }
}

fn place(child: Child) -> (usize, u64) {
    let index = child.index();
    (index / u64::BITS as usize, 1 << (index % u64::BITS as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_child_has_its_own_bit() {
        let mut all = Children::default();
        for child in Child::all() {
            assert!(!all.contains(child), "{child:?}");
            let alone: Children = [child].into_iter().collect();
            assert_eq!(alone.series(), child.series(), "{child:?}");
            assert_eq!(alone.iter().collect::<Vec<_>>(), [child]);
            all.insert(child);
        }
        assert_eq!(all.len(), CHILDREN);
        assert_eq!(all.series(), Child::ALL_SERIES);
        assert!(all.difference(all).is_empty());
    }
}
