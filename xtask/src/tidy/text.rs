//! Rules about the text of single files: header, size, marks of unfinished work, paths of somebody's machine, features documented.

use super::Source;

/// No file may be longer: a reader holds one file in mind.
const LONGEST: usize = 600;
/// Marks of unfinished work, in pieces so that this file has none.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
/// Beginnings of paths that exist on one machine only, in pieces likewise.
const MACHINE_PATHS: [&str; 4] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/Us", "ers/"),
];
/// Where the features' names are: the agent's list, and the pages that must explain each.
const FEATURE_LIST: &str = "agent/src/bpf/plan.rs";
const FEATURE_PAGES: [&str; 2] = ["ARCHITECTURE.md", "README.md"];

/// Complaints about all files.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for Source { path, text } in sources {
        if is_rust(path) {
            if !text.starts_with("//!") {
                complaints.push(format!(
                    "{path}:1: does not open with //! (what it does, what it must not do, who calls it)"
                ));
            }
            let lines = text.lines().count();
            if lines > LONGEST {
                complaints.push(format!("{path}: {lines} lines, more than {LONGEST}: split it"));
            }
        }
        // Licences and lock files are as others wrote them.
        if path.starts_with("LICENSE") || path == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = UNFINISHED.iter().find(|mark| line.contains(**mark)) {
                complaints.push(format!("{path}:{}: {mark}: finish it, or open an issue", number + 1));
            }
            if let Some(start) = MACHINE_PATHS.iter().find(|start| has_path(line, start)) {
                complaints.push(format!(
                    "{path}:{}: a path below {start} exists on one machine only",
                    number + 1
                ));
            }
        }
    }
    complaints
}

/// True when an absolute path in `line` begins with `start`; the middle of a longer path is none.
fn has_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|character| !(character.is_alphanumeric() || "._-/}~*".contains(character)))
    })
}

/// Complaints about features of the agent that no page explains.
pub(super) fn check_features_documented(sources: &[Source]) -> Vec<String> {
    let find = |wanted: &str| sources.iter().find(|source| source.path == wanted);
    let Some(list) = find(FEATURE_LIST) else {
        return vec![format!(
            "{FEATURE_LIST} is not there: tidy reads the features' names from it"
        )];
    };
    let features = feature_names(&list.text);
    if features.is_empty() {
        return vec![format!("{FEATURE_LIST}: no feature names found")];
    }
    let pages: Vec<&Source> = FEATURE_PAGES.iter().filter_map(|page| find(page)).collect();
    let is_documented = |feature: &str| pages.iter().any(|page| page.text.contains(&format!("`{feature}`")));
    let missing = features.iter().filter(|feature| !is_documented(feature));
    missing
        .map(|feature| {
            format!(
                "feature `{feature}` is explained neither in {}",
                FEATURE_PAGES.join(" nor in ")
            )
        })
        .collect()
}

/// First words of tuples, `("name", …)`: so the agent lists its features.
fn feature_names(text: &str) -> Vec<&str> {
    let mut names: Vec<&str> = text
        .split('(')
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once("\","))
        .map(|(name, _)| name)
        .filter(|name| {
            name.chars()
                .all(|character| character.is_ascii_lowercase() || character == '_')
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// One line on how long the Rust files are.
pub(super) fn sizes(sources: &[Source]) -> String {
    let mut lines: Vec<(usize, &str)> = sources
        .iter()
        .filter(|source| is_rust(&source.path))
        .map(|source| (source.text.lines().count(), source.path.as_str()))
        .collect();
    lines.sort_unstable();
    let Some((longest, path)) = lines.last() else {
        return "no Rust files".to_owned();
    };
    let at = |share: f64| lines[((lines.len() - 1) as f64 * share) as usize].0;
    format!(
        "{} Rust files, lines: median {}, p90 {}, longest {longest} ({path})",
        lines.len(),
        at(0.5),
        at(0.9)
    )
}

pub(super) fn is_rust(path: &str) -> bool {
    path.rsplit('.').next() == Some("rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    fn complaints(path: &str, text: &str) -> usize {
        check(&[source(path, text)]).len()
    }

    #[test]
    fn each_rule_finds_its_offender() {
        assert_eq!(complaints("a.rs", "//! Fine.\n"), 0);
        assert_eq!(complaints("a.rs", "use x;\n"), 1);
        assert_eq!(complaints("a.rs", &format!("//! Long.\n{}", "\n".repeat(LONGEST))), 1);
        assert_eq!(complaints("a.md", &format!("{} later\n", UNFINISHED[0])), 1);
        assert_eq!(complaints("a.md", &format!("see {}me/x\n", MACHINE_PATHS[0])), 1);
        assert_eq!(complaints("a.md", &format!("docs{}x\n", MACHINE_PATHS[2])), 0);
    }

    #[test]
    fn a_feature_must_be_explained() {
        let list = source(
            FEATURE_LIST,
            "    (\n        \"syn\",\n        &[x]),\n    (\"rtt\", &[y]),\n",
        );
        let page = source("README.md", "`syn` is the first segment");
        let found = check_features_documented(&[list, page]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`rtt`"), "{found:?}");
    }

    #[test]
    fn the_median_is_printed() {
        let files = [
            source("a.rs", "//!\n"),
            source("b.rs", "//!\n\n\n"),
            source("c.rs", "//!\n\n\n\n\n"),
        ];
        assert_eq!(sizes(&files), "3 Rust files, lines: median 3, p90 3, longest 5 (c.rs)");
    }
}
