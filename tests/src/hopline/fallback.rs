//! The `fallback` lines of `trace --json`: a process went on to another host of a group.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Sabotage;
use super::record::Owner;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fallback {
    pub(crate) group: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) reason: String,
    pub(crate) process: Owner,
}

impl Fallback {
    /// Those among the lines of a trace, falsified when that is asked for.
    pub(super) fn read_all(text: &str, sabotage: Option<Sabotage>) -> Result<Vec<Self>> {
        let lines = text.lines().filter(|line| line.starts_with("{\"event\":\"fallback\","));
        let parsed = lines.map(|line| serde_json::from_str(line).with_context(|| format!("fallback `{line}`")));
        let mut all: Vec<Self> = parsed.collect::<Result<_>>()?;
        match sabotage {
            None | Some(Sabotage::Shift) => {}
            Some(Sabotage::Drop) => drop(all.drain(..1.min(all.len()))),
            Some(Sabotage::Swap) => {
                for pair in all.chunks_exact_mut(2) {
                    let [first, second] = pair else { continue };
                    std::mem::swap(&mut first.process, &mut second.process);
                }
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fallbacks_are_read_and_the_first_may_be_dropped() {
        let text = "{\"event\":\"finished\",\"x\":1}\n\
            {\"event\":\"fallback\",\"group\":\"g\",\"from\":\"a\",\"to\":\"b\",\"reason\":\"closed\",\
            \"process\":{\"pid\":7,\"comm\":\"go\",\"ancestry\":[\"sh\"]}}\n";
        let all = Fallback::read_all(text, None).expect("lines");
        assert_eq!((all.len(), all[0].from.as_str(), all[0].process.pid), (1, "a", Some(7)));
        assert!(
            Fallback::read_all(text, Some(Sabotage::Drop))
                .expect("lines")
                .is_empty()
        );
    }
}
