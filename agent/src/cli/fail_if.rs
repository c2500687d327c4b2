//! The conditions of `compare --fail-if`: `tls.p95 > 100ms`, `failures > 0`, `expires < 14d`. Pure.
use std::fmt;

use super::units::parse_duration;
use crate::connection::Phase;

const QUANTITIES: &str = "dns, tcp, tls or ttfb with .p50 or .p95, failures or expires";

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// A quantile of a phase, microseconds.
    Phase(Phase, Quantile),
    /// Requests that failed.
    Failures,
    /// Until the certificate expires, seconds.
    Expires,
}

/// Which quantile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// Median.
    P50,
    /// 95th percentile.
    P95,
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(phase, Quantile::P50) => write!(f, "{}.p50", phase.name()),
            Self::Phase(phase, Quantile::P95) => write!(f, "{}.p95", phase.name()),
            Self::Failures => f.write_str("failures"),
            Self::Expires => f.write_str("expires"),
        }
    }
}

/// How both sides compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones first: `<=` begins like `<`.
const OPERATORS: [(&str, Operator); 4] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailIf {
    /// As typed.
    pub text: String,
    /// What it is about.
    pub quantity: Quantity,
    operator: Operator,
    /// In the quantity's unit.
    bound: i64,
}

impl FailIf {
    /// Reads a condition; what is wrong with it otherwise.
    pub fn parse(text: &str) -> Result<Self, String> {
        let at = text
            .find(['<', '>'])
            .ok_or("write QUANTITY OPERATOR VALUE, such as 'tls.p95 > 100ms', with <, <=, > or >=")?;
        let (quantity, rest) = text.split_at(at);
        let (value, operator) = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((rest.strip_prefix(sign)?.trim(), *operator)))
            .expect("it begins with < or >");
        let quantity = parse_quantity(quantity.trim())?;
        let bound = match quantity {
            Quantity::Phase(..) => whole(parse_duration(value)?.as_micros())?,
            Quantity::Expires => whole(parse_duration(value)?.as_secs())?,
            Quantity::Failures => value
                .parse::<u32>()
                .map_err(|_| format!("`{value}` is no number of failures"))?
                .into(),
        };
        Ok(Self {
            text: text.trim().to_owned(),
            quantity,
            operator,
            bound,
        })
    }

    /// Whether it holds for a value in the quantity's unit.
    pub fn holds(&self, value: i64) -> bool {
        match self.operator {
            Operator::Less => value < self.bound,
            Operator::LessOrEqual => value <= self.bound,
            Operator::Greater => value > self.bound,
            Operator::GreaterOrEqual => value >= self.bound,
        }
    }
}

fn parse_quantity(text: &str) -> Result<Quantity, String> {
    let unknown = || format!("`{text}` cannot be judged: {QUANTITIES}");
    let Some((phase, quantile)) = text.split_once('.') else {
        return match text {
            "failures" => Ok(Quantity::Failures),
            "expires" => Ok(Quantity::Expires),
            _ => Err(unknown()),
        };
    };
    let phase = match phase {
        "dns" => Phase::Dns,
        "tcp" => Phase::Tcp,
        "tls" => Phase::Tls,
        "ttfb" => Phase::Ttfb,
        _ => return Err(unknown()),
    };
    let quantile = match quantile {
        "p50" => Quantile::P50,
        "p95" => Quantile::P95,
        _ => return Err(unknown()),
    };
    Ok(Quantity::Phase(phase, quantile))
}

fn whole(number: impl TryInto<i64>) -> Result<i64, String> {
    number.try_into().map_err(|_| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let check = |text: &str, values: [i64; 3], expected: [bool; 3]| {
            let condition = FailIf::parse(text).expect(text);
            assert_eq!(values.map(|value| condition.holds(value)), expected, "{text}");
        };
        check("tls.p95 > 100ms", [99_999, 100_000, 100_001], [false, false, true]);
        check("tls.p95>=100ms", [99_999, 100_000, 100_001], [false, true, true]);
        check(" dns.p50 < 1.5ms ", [1_499, 1_500, 1_501], [true, false, false]);
        check("tcp.p50<=2s", [1_999_999, 2_000_000, 2_000_001], [true, true, false]);
        check("failures > 0", [0, 1, 2], [false, true, true]);
        check("expires < 14d", [14 * 86_400 - 1, 14 * 86_400, -1], [true, false, true]);
    }

    #[test]
    fn quantities() {
        let check = |text: &str, expected: Quantity| {
            let quantity = FailIf::parse(&format!("{text} > 1")).map_or_else(
                |_| FailIf::parse(&format!("{text} > 1s")).expect(text).quantity,
                |condition| condition.quantity,
            );
            assert_eq!((quantity, quantity.to_string().as_str()), (expected, text));
        };
        check("dns.p50", Quantity::Phase(Phase::Dns, Quantile::P50));
        check("ttfb.p95", Quantity::Phase(Phase::Ttfb, Quantile::P95));
        check("failures", Quantity::Failures);
        check("expires", Quantity::Expires);
    }

    #[test]
    fn mistakes() {
        let check = |text: &str, part: &str| {
            let error = FailIf::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        };
        check("", "QUANTITY OPERATOR VALUE");
        check("tls.p95", "QUANTITY OPERATOR VALUE");
        check("tls.p95 = 1s", "QUANTITY OPERATOR VALUE");
        check("tls > 1s", "`tls` cannot be judged");
        check("tls.p99 > 1s", ".p50 or .p95");
        check("rtt.p95 > 1s", "dns, tcp, tls or ttfb");
        check("turn.p95 > 1s", "dns, tcp, tls or ttfb");
        check("> 1s", "`` cannot be judged");
        check("tls.p95 > 100", "500ms");
        check("tls.p95 > ", "500ms");
        check("tls.p95 >> 1s", "`> 1s` is no time");
        check("tls.p95 => 1s", "`tls.p95 =` cannot be judged");
        check("failures > 1s", "`1s` is no number");
        check("failures > -1", "`-1` is no number");
        check("expires < 14", "is no time");
        check("tcp.p50 > 1000000000d", "too long");
    }
}
