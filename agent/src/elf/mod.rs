//! TLS code in programs and libraries: what to probe, and where. Pure functions on the bytes of a stranger's file.
//!
//! A file may be cut, lie, or be of any size: every read is checked against the file and against a budget, every loop is
//! bounded, and the answer is a value or a named refusal. Files are read by ranges, never mapped: a mapping of a file that
//! is cut meanwhile would end the agent.

mod code;
mod functions;
mod gnutls;
mod go;
mod image;
mod openssl;
mod symbols;

use std::fmt;

use functions::Functions;
pub use image::{Image, Source};

/// Functions to probe in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsCode {
    /// One of `agent_ebpf::tls_fact::LIBRARY_*`.
    pub library: u8,
    /// Major, minor and patch in the lowest three bytes; 0 when not known.
    pub version: u32,
    /// Where, and what each probe is told.
    pub probes: Vec<Place>,
}

/// One place to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset in the file of the first byte of an instruction.
    pub offset: u64,
    /// [`agent_ebpf::tls_fact::ProbeCookie`].
    pub cookie: u64,
}

/// Why a file is not probed though it may hold TLS code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Not an ELF file.
    NotElf,
    /// ELF of another kind than 64 bit, little endian, x86-64.
    OtherMachine,
    /// A table is outside the file, or contradicts another one.
    Malformed,
    /// More had to be read than the budget allows.
    TooLarge,
    /// A version of Go that passes arguments on the stack, or whose tables are of another form.
    OtherGo,
}

impl Refusal {
    /// As it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotElf => "not_elf",
            Self::OtherMachine => "other_machine",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::OtherGo => "other_go",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::error::Error for Refusal {}

/// Looks for TLS code; `None` when there is none that can be probed.
pub fn tls_code(source: &dyn Source) -> Result<Option<TlsCode>, Refusal> {
    let image = Image::open(source)?;
    if image.section(".go.buildinfo").is_some() {
        return go::tls_code(&image);
    }
    let functions = Functions::find(&image, &[openssl::NAMES, gnutls::NAMES].concat())?;
    Ok(gnutls::tls_code(&functions).or_else(|| openssl::tls_code(&functions)))
}

#[cfg(test)]
mod tests;
