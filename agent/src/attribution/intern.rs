//! One copy of each name and path, however many processes and connections bear it.
use std::{borrow::Cow, collections::HashSet, sync::Arc};

/// Fewer strings than this are never looked through for unused ones.
const SMALL: usize = 4_096;

/// Longest string that is kept: what the kernel programs send of a path. Those in `/proc` may be sixteen times as long.
const LONGEST: usize = 256;

/// The strings in use.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: HashSet<Arc<str>>,
    /// Unused strings are dropped when there are more than this.
    clean_above: usize,
}

impl Interner {
    /// The string in NUL-terminated or NUL-padded bytes.
    pub(super) fn intern(&mut self, bytes: &[u8]) -> Arc<str> {
        self.intern_str(&text(bytes))
    }

    pub(super) fn intern_str(&mut self, string: &str) -> Arc<str> {
        let string = &string[..string.floor_char_boundary(LONGEST)];
        if let Some(known) = self.strings.get(string) {
            return Arc::clone(known);
        }
        if self.strings.len() > self.clean_above {
            self.strings.retain(|string| Arc::strong_count(string) > 1);
            self.clean_above = SMALL.max(2 * self.strings.len());
        }
        let string: Arc<str> = string.into();
        self.strings.insert(Arc::clone(&string));
        string
    }
}

/// The text before the first NUL.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_strings_leave() {
        let mut strings = Interner::default();
        let kept = strings.intern(b"kept\0\0");
        assert!(Arc::ptr_eq(&kept, &strings.intern(b"kept")));
        (0..3 * SMALL).for_each(|number| drop(strings.intern_str(&number.to_string())));
        assert!(strings.strings.len() <= SMALL + 2);
        assert!(Arc::ptr_eq(&kept, &strings.intern(b"kept")));
    }

    #[test]
    fn long_strings_are_cut() {
        let mut strings = Interner::default();
        assert_eq!(strings.intern_str(&"ä/".repeat(2_000)).len(), LONGEST - 1);
        assert_eq!(strings.intern(&[0xff; 200]).len(), 255);
    }
}
