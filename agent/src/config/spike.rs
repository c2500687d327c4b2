//! The part of the configuration that is about RTT spikes. Used by `config` alone.
use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

use crate::{cli::units::parse_duration, events::SpikeSettings};

/// Longest time that makes sense, for a round trip as well as for waiting.
const LONGEST: Duration = Duration::from_hours(1);

/// When RTT has a spike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpikeConfig {
    /// More segments than this were sent again within the window; none: however many.
    #[serde(deserialize_with = "retransmits")]
    pub retransmits_above: Option<u32>,
    /// The window's median is by more than this above what is usual.
    #[serde(deserialize_with = "delta")]
    pub rtt_delta_above: Duration,
    /// For so long.
    #[serde(rename = "for", deserialize_with = "time")]
    pub hold: Duration,
}

impl Default for SpikeConfig {
    fn default() -> Self {
        let SpikeSettings {
            retransmits_above,
            rtt_delta_above,
            hold,
        } = SpikeSettings::default();
        Self {
            retransmits_above,
            rtt_delta_above,
            hold,
        }
    }
}

impl SpikeConfig {
    /// As the detector takes it.
    pub fn settings(self) -> SpikeSettings {
        SpikeSettings {
            retransmits_above: self.retransmits_above,
            rtt_delta_above: self.rtt_delta_above,
            hold: self.hold,
        }
    }

    /// The value of `retransmits_above` in a file.
    pub(super) fn retransmits_to_yaml(self) -> String {
        self.retransmits_above
            .map_or_else(|| "none".to_owned(), |above| above.to_string())
    }
}

fn retransmits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    struct CountOrNone;

    impl de::Visitor<'_> for CountOrNone {
        type Value = Option<u32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of segments, or none")
        }

        fn visit_u64<E: de::Error>(self, count: u64) -> Result<Self::Value, E> {
            let wrong = |_| E::custom(format_args!("{count} is out of range, 0 to {}", u32::MAX));
            u32::try_from(count).map(Some).map_err(wrong)
        }

        fn visit_i64<E: de::Error>(self, count: i64) -> Result<Self::Value, E> {
            let count = u64::try_from(count).map_err(|_| E::custom(format_args!("{count} is below 0: write none")))?;
            self.visit_u64(count)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                "none" => Ok(None),
                _ => Err(E::custom(format_args!("`{text}` is no number of segments, nor `none`"))),
            }
        }
    }

    deserializer.deserialize_any(CountOrNone)
}

fn delta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let delta = time(deserializer)?;
    if delta < Duration::from_micros(100) {
        return Err(de::Error::custom("out of range, 100us to 1h"));
    }
    Ok(delta)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = parse_duration(&text).map_err(de::Error::custom)?;
    if time > LONGEST {
        return Err(de::Error::custom(format_args!("{text} is out of range, at most 1h")));
    }
    Ok(time)
}
