//! Variables of a process's environment that the configuration allows, and no others. Total on any bytes: a process may write
//! what it likes where its environment was.
use std::sync::Arc;

/// Longest value that is kept, bytes.
const VALUE_BYTES: usize = 256;
/// All values of a process together; what comes later in the configuration's order is left out.
const ALL_BYTES: usize = 1_024;

/// Allowed variables that a process has, in the order of the configuration.
pub type Environment = Arc<[(Arc<str>, Box<str>)]>;

/// The allowed variables in `bytes`, which are `NAME=VALUE` with a NUL behind each. As for `getenv`, the first of a name counts.
pub fn allowed(bytes: &[u8], names: &[Arc<str>]) -> Environment {
    let variables = || bytes.split(|byte| *byte == 0);
    let value =
        |name: &str| variables().find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let mut left = ALL_BYTES;
    names
        .iter()
        .filter_map(|name| {
            let value = kept(value(name)?);
            left = left.checked_sub(value.len())?;
            Some((Arc::clone(name), value))
        })
        .collect()
}

fn kept(value: &[u8]) -> Box<str> {
    let text = String::from_utf8_lossy(value);
    let mut end = text.len().min(VALUE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(bytes: &[u8], expected: &[(&str, &str)]) {
        let names = ["CI_JOB_ID".into(), "B".into()];
        let found = allowed(bytes, &names);
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn variables() {
        check(b"A=1\0CI_JOB_ID=7\0PASSWORD=x\0", &[("CI_JOB_ID", "7")]);
        check(b"B=b=c\0CI_JOB_ID=\0", &[("CI_JOB_ID", ""), ("B", "b=c")]);
        check(b"CI_JOB_ID=1\0CI_JOB_ID=2", &[("CI_JOB_ID", "1")]);
        check(b"CI_JOB_ID_2=1\0XB=2\0B\0CI_JOB_ID", &[]);
        check(b"B=\xff", &[("B", "\u{fffd}")]);
        check(b"", &[]);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2_000), value in "\\PC{0,400}") {
            let names = ["B".into()];
            for found in [allowed(&bytes, &names), allowed(format!("B={value}\0").as_bytes(), &names)] {
                prop_assert!(found.iter().all(|(_, value)| value.len() <= VALUE_BYTES));
            }
        }
    }
}
