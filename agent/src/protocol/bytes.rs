//! A cursor over bytes of others: each read gives what was asked for or `None`, and never moves past the end.

/// What is left of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u24(&mut self) -> Option<usize> {
        let bytes = self.take(3)?;
        Some(u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize)
    }

    /// A vector with a length of one byte before it.
    pub(super) fn vector8(&mut self) -> Option<Self> {
        let length = usize::from(self.u8()?);
        self.take(length).map(Bytes)
    }

    /// A vector with a length of two bytes before it.
    pub(super) fn vector16(&mut self) -> Option<Self> {
        let length = usize::from(self.u16()?);
        self.take(length).map(Bytes)
    }

    /// A vector with a length of three bytes before it.
    pub(super) fn vector24(&mut self) -> Option<Self> {
        let length = self.u24()?;
        self.take(length).map(Bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_takes_nothing() {
        let mut bytes = Bytes(&[1, 2, 3]);
        assert_eq!(bytes.take(4), None);
        assert_eq!(bytes.u24(), Some(0x01_0203));
        assert_eq!(bytes.u8(), None);
        assert!(bytes.is_empty());
        assert!(Bytes(&[2, 0]).vector8().is_none());
        assert_eq!(Bytes(&[0, 1, 7, 9]).vector16().map(|vector| vector.0), Some(&[7][..]));
        assert_eq!(Bytes(&[0, 0, 1, 7]).vector24().map(|vector| vector.0), Some(&[7][..]));
    }
}
