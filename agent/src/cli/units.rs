//! Times, sizes and levels as people write them, on the command line and in the configuration. Pure.
use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A level of log messages, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub tracing::Level);

impl Default for Level {
    fn default() -> Self {
        Self(tracing::Level::INFO)
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_level(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.as_str().to_ascii_lowercase())
    }
}

/// A time with its unit: `250ms`, `5s`, `10m`, `2h`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 6] = [
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("d", 86400.0),
    ];
    let wrong = || format!("`{text}` is no time: write a number and us, ms, s, m, h or d, such as 500ms");
    let (number, unit) = split_unit(text);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let seconds = f64::from_str(number).map_err(|_| wrong())? * factor;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A size with its unit: `65536B`, `512KiB`, `8MiB`, `1GiB`; without one, bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let wrong = || format!("`{text}` is no size: write bytes, or a number and KiB, MiB or GiB, such as 8MiB");
    let (number, unit) = split_unit(text);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    u64::from_str(number)
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(wrong)
}

/// A size that a ring buffer can have.
pub fn parse_ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    if !bytes.is_power_of_two() || !(4096..=1 << 30).contains(&bytes) {
        return Err(format!(
            "`{text}` is no size of a ring buffer: a power of two from 4KiB to 1GiB"
        ));
    }
    u32::try_from(bytes).map_err(|error| error.to_string())
}

/// The name of a log level.
pub fn parse_level(text: &str) -> Result<Level, String> {
    const NAMES: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    if !NAMES.contains(&text) {
        return Err(format!("`{text}` is no level: {}", NAMES.join(", ")));
    }
    tracing::Level::from_str(text)
        .map(Level)
        .map_err(|error| error.to_string())
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A size in the largest unit that takes it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 != 0 && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A time in seconds, or in milliseconds when it is no whole number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let time = |text: &str, millis: Option<u64>| {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        };
        time("250ms", Some(250));
        time("1.5s", Some(1500));
        time("2 m", Some(120_000));
        time("1d", Some(86_400_000));
        time("5", None);
        time("-5s", None);
        time("s", None);
        time("5 fortnights", None);
        let size = |text: &str, bytes: Option<u64>| assert_eq!(parse_bytes(text).ok(), bytes, "{text}");
        size("65536", Some(65536));
        size("64KiB", Some(65536));
        size("1 GiB", Some(1 << 30));
        size("1GB", None);
        size("1.5MiB", None);
        size("99999999999999GiB", None);
    }
}
