//! A snapshot in as few bytes as it has words that are not zero: most of what a connection may have, one connection has not.
//! 100 000 open connections are held like this.
use agent_ebpf::connection::{ConnectionState, WORDS};

const _: () = assert!(WORDS <= u64::BITS as usize);
/// Words that are asked for of every connection at a time.
const COOKIE: usize = std::mem::offset_of!(ConnectionState, cookie) / size_of::<u64>();
const REPORTED: usize = std::mem::offset_of!(ConnectionState, reported_ns) / size_of::<u64>();

/// A [`ConnectionState`] at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// A bit for each word that is not zero, the first word's lowest.
    filled: u64,
    /// These words, in their order.
    words: Box<[u64]>,
}

impl From<&ConnectionState> for Packed {
    fn from(state: &ConnectionState) -> Self {
        let mut packed = Self::default();
        packed.set(state);
        packed
    }
}

impl Packed {
    /// The snapshot.
    pub fn state(&self) -> ConnectionState {
        let (mut words, mut filled) = ([0; WORDS], self.filled);
        for word in &self.words {
            if let Some(place) = words.get_mut(filled.trailing_zeros() as usize) {
                *place = *word;
            }
            filled &= filled.wrapping_sub(1);
        }
        ConnectionState::from_words(words)
    }

    /// A newer one, in the same place if it is as long.
    pub fn set(&mut self, state: &ConnectionState) {
        let words = state.to_words();
        let is_filled = words.iter().rev();
        self.filled = is_filled.fold(0, |filled, word| filled << 1 | u64::from(*word != 0));
        let words = words.into_iter().filter(|word| *word != 0);
        if self.words.len() == self.filled.count_ones() as usize {
            self.words.iter_mut().zip(words).for_each(|(place, word)| *place = word);
        } else {
            let mut longer = Vec::with_capacity(self.filled.count_ones() as usize);
            longer.extend(words);
            self.words = longer.into_boxed_slice();
        }
    }

    /// Cookie of the socket.
    pub fn cookie(&self) -> u64 {
        self.word(COOKIE)
    }

    /// When the socket last reported.
    pub fn reported_ns(&self) -> u64 {
        self.word(REPORTED)
    }

    fn word(&self, number: usize) -> u64 {
        let bit = 1 << number;
        if self.filled & bit == 0 {
            return 0;
        }
        let before = (self.filled & (bit - 1)).count_ones() as usize;
        self.words.get(before).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What was put in comes out, whichever words are zero, also where another was before.
        #[test]
        fn nothing_is_lost(
            first in prop::collection::vec(prop_oneof![Just(0), any::<u64>()], WORDS),
            second in prop::collection::vec(prop_oneof![Just(0), any::<u64>()], WORDS),
        ) {
            let mut packed = Packed::default();
            for words in [first, second] {
                let state = ConnectionState::from_words(words.try_into().expect("as many words"));
                packed.set(&state);
                prop_assert_eq!(packed.state(), state);
                prop_assert_eq!(&packed, &Packed::from(&state));
                prop_assert_eq!((packed.cookie(), packed.reported_ns()), (state.cookie, state.reported_ns));
            }
        }
    }
}
