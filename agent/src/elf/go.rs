//! Go's `crypto/tls`, through the table that the runtime needs and that `strip` leaves: `.gopclntab` (Go 1.18 to 1.26).

use std::collections::HashMap;

use agent_ebpf::tls_fact::{
    LIBRARY_GO, PROBE_GO_ALERT, PROBE_GO_BEGINS, PROBE_GO_ENDS, PROBE_GO_VERIFIED, ProbeCookie,
};

use super::{
    Place, Refusal, TlsCode, code,
    image::{Image, long, word},
    symbols::{self, Function},
};

const SEND_ALERT: &str = "crypto/tls.(*Conn).sendAlert";
const VERIFY: &str = "crypto/x509.(*Certificate).Verify";
const CLIENT: &str = "crypto/tls.(*Conn).clientHandshake";
const SERVER: &str = "crypto/tls.(*Conn).serverHandshake";

/// Magic numbers: Go 1.18 and 1.19, Go 1.20 and later.
const MAGIC_18: u32 = 0xffff_fff0;
const MAGIC_20: u32 = 0xffff_fff1;
/// Longest code of a function whose returns are looked for.
const MOST_CODE: u64 = 128 << 10;
/// The first version with registers for arguments on all that is probed, and of this form of the table.
const OLDEST: u32 = 18;

/// The code of a program by Go.
pub(super) fn tls_code(image: &Image<'_>) -> Result<Option<TlsCode>, Refusal> {
    let table = [".gopclntab", ".data.rel.ro.gopclntab"]
        .iter()
        .find_map(|name| image.section(name));
    let Some(table) = table else { return Ok(None) };
    let table = Table::read(image, image.contents(table)?)?;
    let functions = table.find(&[SEND_ALERT, VERIFY, CLIENT, SERVER]);
    let Some(alert) = functions.get(SEND_ALERT) else {
        return Ok(None);
    };
    let version = version(image)?;
    if version >> 16 != 1 || version >> 8 & 0xff < OLDEST {
        return Err(Refusal::OtherGo);
    }
    let place = |what, offset| Place {
        offset,
        cookie: ProbeCookie {
            library: LIBRARY_GO,
            version,
            first: protocol_at(version >> 8 & 0xff),
            what,
            ..ProbeCookie::default()
        }
        .pack(),
    };
    let mut probes = Vec::new();
    probes.extend(
        image
            .code_offset(alert.address)
            .map(|offset| place(PROBE_GO_ALERT, offset)),
    );
    for (name, what) in [
        (VERIFY, PROBE_GO_VERIFIED),
        (CLIENT, PROBE_GO_ENDS),
        (SERVER, PROBE_GO_ENDS),
    ] {
        let Some(function) = functions.get(name) else { continue };
        let Some(offset) = image.code_offset(function.address) else {
            continue;
        };
        if name != VERIFY {
            probes.push(place(PROBE_GO_BEGINS, offset));
        }
        let code = image.read(offset, function.size.min(MOST_CODE))?;
        let returns = code::returns(&code).unwrap_or_default();
        probes.extend(returns.into_iter().map(|at| place(what, offset + at)));
    }
    Ok(Some(TlsCode {
        library: LIBRARY_GO,
        version,
        probes,
    }))
}

/// Where a `tls.Conn` has the protocol agreed on, by Go's minor version (*measured* with `reflect`, first and last patches);
/// 0 for versions that nobody has looked at.
fn protocol_at(minor: u32) -> u16 {
    match minor {
        18 | 19 => 328,
        20 | 25 | 26 => 352,
        21 | 22 => 360,
        23 | 24 => 368,
        _ => 0,
    }
}

/// The table of functions.
struct Table {
    bytes: Vec<u8>,
    /// Address that entries count from.
    text: u64,
    functions: usize,
    /// Where names begin, and functions.
    names_at: usize,
    names_end: usize,
    functions_at: usize,
}

impl Table {
    fn read(image: &Image<'_>, bytes: Vec<u8>) -> Result<Self, Refusal> {
        if !matches!(word(&bytes, 0), MAGIC_18 | MAGIC_20) || bytes.get(7) != Some(&8) {
            return Err(Refusal::OtherGo);
        }
        let at = |place| usize::try_from(long(&bytes, place)).map_err(|_| Refusal::Malformed);
        let (functions, names_at, names_end, functions_at) = (at(8)?, at(32)?, at(40)?, at(64)?);
        // Each function has a row of 8 bytes, and there is one more.
        if functions > bytes.len() / 8 || names_at > names_end || names_end.max(functions_at) > bytes.len() {
            return Err(Refusal::Malformed);
        }
        // From 1.26 on the table does not say it; programs linked by others begin with code that is none of Go's.
        let text = match long(&bytes, 24) {
            0 => match symbols::address_of(image, "runtime.text")? {
                Some(text) => text,
                None => image.section(".text").ok_or(Refusal::Malformed)?.address,
            },
            text => text,
        };
        Ok(Self {
            bytes,
            text,
            functions,
            names_at,
            names_end,
            functions_at,
        })
    }

    /// Functions by name; those that are not there are left out.
    fn find<'a>(&self, names: &[&'a str]) -> HashMap<&'a str, Function> {
        // Names are searched first: their places are then compared as numbers.
        let mut places = HashMap::new();
        let mut at = 0;
        for string in self.bytes[self.names_at..self.names_end].split(|byte| *byte == 0) {
            if let Some(name) = names.iter().find(|name| name.as_bytes() == string) {
                places.insert(at as u32, *name);
            }
            at += string.len() + 1;
        }
        let rows = &self.bytes[self.functions_at..];
        let mut found = HashMap::new();
        for number in 0..self.functions {
            let row = number * 8;
            let (entry, function) = (word(rows, row), word(rows, row + 4) as usize);
            let Some(name) = places.get(&word(rows, function + 4)) else {
                continue;
            };
            // The row must agree with what it points to.
            if word(rows, function) != entry {
                continue;
            }
            let size = word(rows, row + 8).saturating_sub(entry);
            found.insert(
                *name,
                Function {
                    address: self.text.wrapping_add(u64::from(entry)),
                    size: u64::from(size),
                },
            );
        }
        found
    }
}

/// The version of Go in `.go.buildinfo`, 0 when it does not say (`devel`).
fn version(image: &Image<'_>) -> Result<u32, Refusal> {
    const MOST: u64 = 1024;
    /// The strings stand in the section itself (from 1.18 on).
    const INLINE: u8 = 2;
    let section = image.section(".go.buildinfo").ok_or(Refusal::Malformed)?;
    let bytes = image.read(section.offset, section.size.min(MOST))?;
    if !bytes.starts_with(b"\xff Go buildinf:") || bytes.get(15).is_none_or(|flags| flags & INLINE == 0) {
        return Err(Refusal::OtherGo);
    }
    let length = usize::from(*bytes.get(32).ok_or(Refusal::Malformed)?);
    let text = bytes.get(33..33 + length).ok_or(Refusal::Malformed)?;
    let text = std::str::from_utf8(text).map_err(|_| Refusal::Malformed)?;
    let numbers = text.strip_prefix("go").ok_or(Refusal::OtherGo)?;
    let mut numbers = numbers.split('.').map(|number| {
        let end = number
            .bytes()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(number.len());
        number[..end].parse::<u8>().unwrap_or(0)
    });
    let mut next = || u32::from(numbers.next().unwrap_or(0));
    Ok(next() << 16 | next() << 8 | next())
}
