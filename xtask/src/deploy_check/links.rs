//! Relative links between pages: the file must be there, and the heading if one is named.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::workspace;

/// Pages at the root that lead to others.
const PAGES: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// Links that lead nowhere.
pub(super) fn broken() -> Result<Vec<String>> {
    let root = workspace::root();
    let mut pages: Vec<PathBuf> = PAGES.iter().map(|page| root.join(page)).collect();
    for folder in ["docs", "deploy"] {
        collect(&root.join(folder), &mut pages)?;
    }
    let mut complaints = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
        let shown = page.strip_prefix(&root).unwrap_or(page).display();
        for link in links(&text).filter(|link| !leads(page, link)) {
            complaints.push(format!("{shown}: the link to {link} leads nowhere"));
        }
    }
    println!("links of {} pages looked at", pages.len());
    Ok(complaints)
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

/// Targets of `[text](target)` that are no addresses.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.contains(' '))
}

fn leads(page: &Path, link: &str) -> bool {
    let (file, heading) = link
        .split_once('#')
        .map_or((link, None), |(file, heading)| (file, Some(heading)));
    let target = match file {
        "" => page.to_owned(),
        _ => page.parent().unwrap_or(page).join(file),
    };
    match heading {
        None => target.exists(),
        Some(heading) => fs::read_to_string(target).is_ok_and(|text| headings(&text).any(|one| one == heading)),
    }
}

/// Headings as links name them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
        let kept = title.to_lowercase().replace(' ', "-");
        Some(
            kept.chars()
                .filter(|character| character.is_alphanumeric() || "-_".contains(*character))
                .collect(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_headings() {
        let text = "[a](b.md) [c](https://d.test/) [e](f.md#g-h) code](x y)";
        assert_eq!(links(text).collect::<Vec<_>>(), ["b.md", "f.md#g-h"]);
        let of = |text: &str| headings(text).collect::<Vec<_>>();
        assert_eq!(of("# One `two`?\ntext\n## Three-four\n#no"), ["one-two", "three-four"]);
    }
}
