//! Functions of one file by name, and what is read off their code.

use std::collections::HashMap;

use super::{
    Place, Refusal,
    code::GETTER_BYTES,
    image::Image,
    symbols::{self, Function},
};

/// Longest code that is looked at whole.
const MOST_CODE: u64 = 4096;

/// What is there of the functions that were asked for.
pub(super) struct Functions<'a> {
    pub(super) image: &'a Image<'a>,
    by_name: HashMap<&'static str, Function>,
}

impl<'a> Functions<'a> {
    pub(super) fn find(image: &'a Image<'a>, names: &[&'static str]) -> Result<Self, Refusal> {
        let by_name = symbols::find(image, names)?;
        Ok(Self { image, by_name })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn address(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).map(|function| function.address)
    }

    /// Its first instruction, as a place to probe.
    pub(super) fn entry(&self, name: &str, cookie: u64) -> Option<Place> {
        let offset = self.image.code_offset(self.address(name)?)?;
        Some(Place { offset, cookie })
    }

    /// Bytes that decide what a function of two instructions returns.
    pub(super) fn beginning(&self, name: &str) -> Option<Vec<u8>> {
        let offset = self.image.code_offset(self.address(name)?)?;
        self.image.read(offset, GETTER_BYTES).ok()
    }

    /// Its whole code, and where in the file that is.
    pub(super) fn code(&self, name: &str) -> Option<(u64, Vec<u8>)> {
        let function = self.by_name.get(name)?;
        let offset = self.image.code_offset(function.address)?;
        let code = self.image.read(offset, function.size.min(MOST_CODE)).ok()?;
        Some((offset, code))
    }
}
