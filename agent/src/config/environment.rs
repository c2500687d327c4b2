//! The part of the configuration that is about environments of processes. Used by `config` alone.
use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, de};

/// Most variables, and the longest name.
const MOST: usize = 32;
const NAME_BYTES: usize = 128;

/// Names of variables; what no shell could set is a mistake.
pub(super) fn variables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let names = BTreeSet::<String>::deserialize(deserializer)?;
    if names.len() > MOST {
        return Err(de::Error::custom(format_args!(
            "{} variables, at most {MOST}",
            names.len()
        )));
    }
    match names.iter().find(|name| !is_name(name)) {
        Some(name) => Err(de::Error::custom(format_args!("`{name}` is no name of a variable"))),
        None => Ok(names),
    }
}

fn is_name(name: &str) -> bool {
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins_well = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    begins_well && name.len() <= NAME_BYTES && name.bytes().all(is_of_names)
}
