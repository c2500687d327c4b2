//! A snapshot in the bytes that are not zero: most of what a connection may have, one connection has not, and most numbers
//! are small. 100 000 open connections are held like this.
use agent_ebpf::{
    connection::{ConnectionState, WORDS},
    timeline::{RECENT_TURNS, Timeline},
};

/// Bytes that a snapshot takes at most, and the last word's leading zeros.
const LONGEST: usize = (WORDS * (1 + size_of::<u64>()) + size_of::<u64>()).next_multiple_of(SPARE);
/// Lengths are multiples of this, so that most snapshots fit into the memory of the one before.
const SPARE: usize = 16;
const _: () = assert!(WORDS <= u128::BITS as usize);
/// Words that are asked for of every connection at a time.
const COOKIE: usize = std::mem::offset_of!(ConnectionState, cookie) / size_of::<u64>();
const REPORTED: usize = std::mem::offset_of!(ConnectionState, reported_ns) / size_of::<u64>();

/// A [`ConnectionState`] at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// A bit for each word that is not zero, the first word's lowest.
    filled: u128,
    /// For each of these words, in their order, how many bytes it has but for leading zeros, and the bytes. Zeros follow.
    bytes: Box<[u8]>,
}

impl From<&ConnectionState> for Packed {
    fn from(state: &ConnectionState) -> Self {
        let mut packed = Self::default();
        packed.set(state);
        packed
    }
}

impl Packed {
    /// The snapshot, without what is the kernel's own, and single turns.
    pub fn state(&self) -> ConnectionState {
        let mut words = [0; WORDS];
        for (place, word) in self.words() {
            if let Some(at) = words.get_mut(place) {
                *at = word;
            }
        }
        ConnectionState::from_words(words)
    }

    /// A newer one, in the same memory if it is about as long.
    pub fn set(&mut self, state: &ConnectionState) {
        let mut filled = 0_u128;
        let (mut bytes, mut length) = ([0; LONGEST], 0);
        for (place, word) in at_rest(state).to_words().into_iter().enumerate() {
            if word == 0 {
                continue;
            }
            filled |= 1 << place;
            let used = size_of::<u64>() - word.leading_zeros() as usize / 8;
            bytes[length] = used as u8;
            // All eight bytes of the word: the next one goes over those that are zero.
            bytes[length + 1..length + 9].copy_from_slice(&word.to_le_bytes());
            length += 1 + used;
        }
        self.filled = filled;
        let bytes = &bytes[..length.next_multiple_of(SPARE)];
        if self.bytes.len() == bytes.len() {
            self.bytes.copy_from_slice(bytes);
        } else {
            self.bytes = bytes.into();
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
        if self.filled & 1 << number == 0 {
            return 0;
        }
        let word = self.words().find(|(place, _)| *place == number);
        word.map_or(0, |(_, word)| word)
    }

    /// Each word that is not zero, with its place.
    fn words(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let (mut filled, mut bytes) = (self.filled, &self.bytes[..]);
        std::iter::from_fn(move || {
            let (used, rest) = bytes.split_first().filter(|(used, _)| **used > 0)?;
            let (word, rest) = rest.split_at_checked(usize::from(*used))?;
            let place = filled.trailing_zeros() as usize;
            (filled, bytes) = (filled & filled.wrapping_sub(1), rest);
            let value = word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            Some((place, value))
        })
    }
}

/// What only the kernel's machine goes by is of no meaning here, and turns are counted when they are told of.
fn at_rest(state: &ConnectionState) -> ConnectionState {
    ConnectionState {
        timeline: Timeline {
            next_seq: [0; 2],
            turn_seq: 0,
            backward_last: 0,
            turns_full: 0,
            recent_turns_us: [0; RECENT_TURNS],
            recent_turns_begun: [0; RECENT_TURNS],
            recent_turns_status: [0; RECENT_TURNS],
            reported_segments: 0,
            record_seq: [0; 2],
            forward_ack: 0,
            request_seq: 0,
            hello_seq: [0; 2],
            plain_seq: [0; 2],
            partial: [[0; 8]; 2],
            partial_length: [0; 2],
            ..state.timeline
        },
        // Looked at when a connection is first heard of.
        netns_cookie: 0,
        ..*state
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
            first in prop::collection::vec(prop_oneof![Just(0), any::<u64>(), (0..64_u32).prop_map(|bits| u64::MAX >> bits)], WORDS),
            second in prop::collection::vec(prop_oneof![Just(0), any::<u64>(), (0..64_u32).prop_map(|bits| u64::MAX >> bits)], WORDS),
        ) {
            let mut packed = Packed::default();
            for words in [first, second] {
                let state = ConnectionState::from_words(words.try_into().expect("as many words"));
                packed.set(&state);
                prop_assert_eq!(packed.state(), at_rest(&state));
                prop_assert_eq!((packed.cookie(), packed.reported_ns()), (state.cookie, state.reported_ns));
            }
        }
    }
}
