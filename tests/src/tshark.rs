//! Fields of a capture, as tshark reads them once it has the keys: one line a packet, tabs between columns, commas between
//! the values of one.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::tools;

/// Reads `fields` of every packet of `capture` that `filter` lets through. `preferences` and `decode_as` (ports and the
/// protocol that is spoken there) are in tshark's words.
pub(crate) fn fields(
    capture: &Path,
    keys: Option<&Path>,
    filter: &str,
    preferences: &[&str],
    decode_as: &[String],
    fields: &[&str],
) -> Result<String> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-Y", filter, "-T", "fields", "-E", "occurrence=a", "-r"]);
    tshark.arg(capture);
    tshark.args(preferences.iter().flat_map(|preference| ["-o", preference]));
    if let Some(keys) = keys {
        tshark.arg("-o").arg(format!("tls.keylog_file:{}", keys.display()));
    }
    tshark.args(decode_as.iter().flat_map(|ports| ["-d", ports]));
    tshark.args(fields.iter().flat_map(|field| ["-e", field]));
    tools::output_of(&mut tshark)
}

/// The values of one column.
pub(crate) fn values(column: &str) -> impl Iterator<Item = &str> {
    column.split(',').filter(|value| !value.is_empty())
}

/// The numbers in one column: decimal, or hexadecimal behind `0x`.
pub(crate) fn numbers<T: TryFrom<u64>>(column: &str) -> Result<Vec<T>> {
    values(column)
        .map(|value| {
            let number = match value.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16)?,
                None => value.parse()?,
            };
            T::try_from(number).ok().context("number too large")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_column() {
        assert_eq!(numbers::<u16>("7,0x0304,,65535").expect("numbers"), [7, 0x304, 65_535]);
        assert!(numbers::<u64>("").expect("none").is_empty());
        for wrong in ["x", "65536", "0xg", "-1"] {
            assert!(numbers::<u16>(wrong).is_err(), "{wrong}");
        }
    }
}
