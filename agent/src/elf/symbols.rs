//! Functions by name: the dynamic symbols through their hash table, a few reads each; else all symbols.

use std::collections::HashMap;

use super::{
    Refusal,
    image::{Image, half, long, text, word},
};

const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_GNU_HASH: u64 = 0x6fff_fef5;

const SYMBOL_BYTES: u64 = 24;
/// Symbols of one bucket that are compared.
const MOST_IN_BUCKET: u32 = 256;
/// Longest name that is compared.
const NAME_BYTES: u64 = 96;

/// Code of one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) address: u64,
    pub(super) size: u64,
}

/// Finds functions; what is not there, or defined elsewhere, is left out.
pub(super) fn find<'a>(image: &Image<'_>, names: &[&'a str]) -> Result<HashMap<&'a str, Function>, Refusal> {
    let mut found = HashMap::new();
    if let Some(table) = Dynamic::of(image)? {
        for name in names {
            if let Some(function) = table.find(image, name)? {
                found.insert(*name, function);
            }
        }
    }
    if found.is_empty() {
        scan(image, names, &mut found)?;
    }
    Ok(found)
}

/// The hash table of dynamic symbols (`DT_GNU_HASH`).
struct Dynamic {
    strings: u64,
    string_bytes: u64,
    symbols: u64,
    buckets_at: u64,
    buckets: u32,
    first: u32,
    chains_at: u64,
}

impl Dynamic {
    fn of(image: &Image<'_>) -> Result<Option<Self>, Refusal> {
        let dynamic = image.dynamic()?;
        let value = |wanted| dynamic.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
        let place = |tag| value(tag).and_then(|address| image.offset(address));
        let (Some(strings), Some(symbols), Some(hashes)) = (place(DT_STRTAB), place(DT_SYMTAB), place(DT_GNU_HASH))
        else {
            return Ok(None);
        };
        let header = image.read(hashes, 16)?;
        let (buckets, first, filter) = (word(&header, 0), word(&header, 4), word(&header, 8));
        let buckets_at = hashes + 16 + 8 * u64::from(filter);
        Ok(Some(Self {
            strings,
            string_bytes: value(DT_STRSZ).unwrap_or_default(),
            symbols,
            buckets_at,
            buckets,
            first,
            chains_at: buckets_at + 4 * u64::from(buckets),
        }))
    }

    fn find(&self, image: &Image<'_>, name: &str) -> Result<Option<Function>, Refusal> {
        if self.buckets == 0 {
            return Ok(None);
        }
        let hash = name.bytes().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(byte))
        });
        let bucket = image.read(self.buckets_at + 4 * u64::from(hash % self.buckets), 4)?;
        let bucket = word(&bucket, 0);
        if bucket < self.first {
            return Ok(None);
        }
        for number in bucket..bucket.saturating_add(MOST_IN_BUCKET) {
            let chain = image.read(self.chains_at + 4 * u64::from(number - self.first), 4)?;
            let chain = word(&chain, 0);
            // The lowest bit marks the end of the chain.
            if chain | 1 == hash | 1 {
                let symbol = image.read(
                    self.symbols.saturating_add(SYMBOL_BYTES * u64::from(number)),
                    SYMBOL_BYTES,
                )?;
                let at = u64::from(word(&symbol, 0));
                let length = self.string_bytes.saturating_sub(at).min(NAME_BYTES);
                let strings = image.read(self.strings.saturating_add(at), length)?;
                if text(&strings, 0) == name {
                    return Ok(defined(&symbol));
                }
            }
            if chain & 1 == 1 {
                break;
            }
        }
        Ok(None)
    }
}

/// A function that is in this file.
fn defined(symbol: &[u8]) -> Option<Function> {
    /// `STT_FUNC`, and the kind of those that choose at load (`STT_GNU_IFUNC`) is another one.
    const FUNCTION: u8 = 2;
    let function = Function {
        address: long(symbol, 8),
        size: long(symbol, 16),
    };
    (symbol[4] & 15 == FUNCTION && half(symbol, 6) != 0 && function.address != 0).then_some(function)
}

/// All symbols of the file, where they were not stripped.
fn scan<'a>(image: &Image<'_>, names: &[&'a str], found: &mut HashMap<&'a str, Function>) -> Result<(), Refusal> {
    let Some(table) = image.section(".symtab") else {
        return Ok(());
    };
    let Some(strings) = image.sections.get(table.link as usize) else {
        return Err(Refusal::Malformed);
    };
    let (symbols, strings) = (image.contents(table)?, image.contents(strings)?);
    for symbol in symbols.chunks_exact(SYMBOL_BYTES as usize) {
        let Some(function) = defined(symbol) else { continue };
        let Some(rest) = strings.get(word(symbol, 0) as usize..) else {
            continue;
        };
        for name in names {
            if rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0) {
                found.insert(*name, function);
            }
        }
    }
    Ok(())
}

/// The address of the symbol `runtime.text`, which is no function for the linker.
pub(super) fn address_of(image: &Image<'_>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(table) = image.section(".symtab") else {
        return Ok(None);
    };
    let Some(strings) = image.sections.get(table.link as usize) else {
        return Err(Refusal::Malformed);
    };
    let (symbols, strings) = (image.contents(table)?, image.contents(strings)?);
    let named = |symbol: &&[u8]| {
        let rest = strings.get(word(symbol, 0) as usize..).unwrap_or_default();
        rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0)
    };
    let symbol = symbols.chunks_exact(SYMBOL_BYTES as usize).find(named);
    Ok(symbol.map(|symbol| long(symbol, 8)))
}
