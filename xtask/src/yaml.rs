//! YAML files of `deploy/` as JSON values, one for each document. No meaning is known here.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Every document of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("reading {}", path.display()))
}

/// Every document of a text; empty ones are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_become_values() {
        let documents = parse("a: 1\nb: [x, 'on']\n---\nc: |\n  two\n  lines\n").expect("YAML");
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0]["b"][1], "on");
        assert_eq!(documents[0]["a"], 1);
        assert_eq!(documents[1]["c"], "two\nlines\n");
        assert!(parse("a: [").is_err());
    }
}
