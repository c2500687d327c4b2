//! Every count in a JSON document of hopline, by its place: `/client/truth/connections/ok`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Sabotage;
use super::sabotage::falsify_counts;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    by_path: BTreeMap<String, u64>,
}

/// Both sums of one metric family, over all roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyTotals {
    /// In time series that are still there.
    pub(crate) live: u64,
    /// In those that left.
    pub(crate) expired: u64,
}

impl Totals {
    pub(super) fn new(document: &Value, sabotage: Option<Sabotage>) -> Self {
        let mut by_path = BTreeMap::new();
        collect(document, String::new(), &mut by_path);
        falsify_counts(sabotage, by_path.values_mut());
        Self { by_path }
    }

    /// One count; 0 when it is not there.
    pub(crate) fn get(&self, path: &str) -> u64 {
        self.by_path.get(path).copied().unwrap_or_default()
    }

    /// `/families/NAME/live` and `/expired`, each a number or an object of numbers; `None` when it is not there.
    pub(crate) fn family(&self, name: &str) -> Option<FamilyTotals> {
        let sum = |part: &str| {
            let place = format!("/families/{name}/{part}");
            let below = format!("{place}/");
            let counts = self
                .iter()
                .filter(|(path, _)| *path == place || path.starts_with(&below));
            counts.map(|(_, count)| count).reduce(|sum, count| sum + count)
        };
        Some(FamilyTotals {
            live: sum("live")?,
            expired: sum("expired")?,
        })
    }

    /// Every place with its count.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_path.iter().map(|(path, count)| (path.as_str(), *count))
    }
}

fn collect(value: &Value, path: String, into: &mut BTreeMap<String, u64>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                collect(member, format!("{path}/{name}"), into);
            }
        }
        Value::Number(number) => {
            if let Some(count) = number.as_u64() {
                into.insert(path, count);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_numbers_or_objects_of_numbers() {
        let document = serde_json::json!({"families": {
            "a_total": {"live": 5, "expired": 1},
            "a_total_more": {"live": 70, "expired": 70},
            "b": {"live": {"client": 2, "server": 3}, "expired": {"client": 0, "server": 4}},
            "c": {"live": 1},
        }});
        let totals = Totals::new(&document, None);
        let both = |name| totals.family(name).map(|sums| (sums.live, sums.expired));
        assert_eq!((both("a_total"), both("b")), (Some((5, 1)), Some((5, 4))));
        assert_eq!((both("c"), both("d")), (None, None));
    }
}
