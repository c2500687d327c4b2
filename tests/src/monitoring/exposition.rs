//! Whether `docs/metrics.md` says of each family what a scrape says: its kind, its help, its labels.

use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// What a scrape says of one family.
#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Families of a scrape in the classic text format, and what the page says otherwise of some.
pub(crate) fn compare_with_page(text: &str) -> (usize, Vec<String>) {
    let page = of_page(PAGE);
    let scraped = of_scrape(text);
    let complaints = scraped.iter().filter_map(|(name, family)| match page.get(name) {
        None => Some(format!("{name} is not on the page")),
        Some(known) if known == family => None,
        Some(known) => Some(format!("{name}: {family:?}, on the page {known:?}")),
    });
    (scraped.len(), complaints.collect())
}

/// Rows `| NAME | KIND | LABELS | HELP | WHEN |`.
fn of_page(text: &str) -> BTreeMap<String, Family> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, help, _when, ""] = cells[..] else {
            return None;
        };
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let family = Family {
            kind: kind.to_owned(),
            help: help.to_owned(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
        };
        Some((name.strip_prefix('`')?.strip_suffix('`')?.to_owned(), family))
    });
    rows.collect()
}

fn of_scrape(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.trim_end_matches('.')
                .clone_into(&mut families.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            kind.clone_into(&mut families.entry(current.clone()).or_default().kind);
        } else if let Some((_, rest)) = line.split_once('{')
            && let Some(family) = families.get_mut(&current)
        {
            // A label begins after `{` or `",`, whatever its value holds.
            let names = rest.split("\",").filter_map(|pair| pair.split_once("=\""));
            let names = names.map(|(label, _)| label.to_owned()).filter(|label| label != "le");
            family.labels.extend(names);
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_lies_is_found() {
        let page = "| metric | kind | labels | what | when |\n| --- | --- | --- | --- | --- |\n\
                    | `a_total` | counter | `x`, `y` | Help | always |\n";
        let scrape = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"1\",y=\"\"} 2\n";
        assert_eq!(of_page(page)["a_total"], of_scrape(scrape)["a_total"]);
        assert_ne!(
            of_page(page)["a_total"],
            of_scrape(&scrape.replace("y=", "z="))["a_total"]
        );
        assert_eq!(compare_with_page("# TYPE no_such gauge\nno_such 1\n").1.len(), 1);
    }
}
