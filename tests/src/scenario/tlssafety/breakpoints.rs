//! Breakpoints in a living process, seen from outside: bytes of a mapped library that are not those of its file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

/// `int3`.
const BREAKPOINT: u8 = 0xcc;

/// Those in the code of the library whose path holds `name`.
pub(super) fn count(pid: u32, name: &str) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found = 0;
    for line in maps
        .lines()
        .filter(|line| line.contains(name) && line.contains(" r-xp "))
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (first, last) = fields[0].split_once('-').context("no range")?;
        let number = |text| u64::from_str_radix(text, 16).context("no number");
        let (first, last, offset) = (number(first)?, number(last)?, number(fields[2])?);
        let mut mapped = vec![0; (last - first) as usize];
        memory
            .read_exact_at(&mut mapped, first)
            .context("reading the process")?;
        let file = fs::read(fields[5])?;
        let stored = file.get(offset as usize..).unwrap_or_default();
        let differ = mapped.iter().zip(stored).filter(|(mapped, stored)| mapped != stored);
        found += differ.filter(|(mapped, _)| **mapped == BREAKPOINT).count() as u64;
    }
    Ok(found)
}
