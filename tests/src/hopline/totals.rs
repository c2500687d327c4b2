//! Every count in a JSON document of hopline, by its place: `/client/truth/connections/ok`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Sabotage;
use super::sabotage::falsify_counts;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    by_path: BTreeMap<String, u64>,
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
