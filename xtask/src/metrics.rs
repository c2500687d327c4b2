//! Reads the Prometheus text format. No I/O.

use std::collections::BTreeMap;

/// One sample: `name{label="value",…} value`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Every sample of an exposition; comments and what is no sample are left out.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.insert(label.trim_start_matches(',').to_owned(), value);
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// Finished and failed connections of all destinations.
pub(crate) fn connections(samples: &[Sample]) -> u64 {
    samples
        .iter()
        .filter(|sample| sample.name == "hopline_tcp_connections_total")
        .map(|sample| sample.value as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_quotes_and_commas_inside() {
        let samples = parse("# HELP x y\nx_total{a=\"1,2\",b=\"say \\\"hi\\\"\"} 4\nplain 0.5 123\nbroken{a=\"\n");
        assert_eq!(samples.len(), 2);
        assert_eq!(
            (
                samples[0].labels["a"].as_str(),
                samples[0].labels["b"].as_str(),
                samples[0].value
            ),
            ("1,2", "say \"hi\"", 4.0)
        );
        assert_eq!(
            (samples[1].name.as_str(), samples[1].labels.len(), samples[1].value),
            ("plain", 0, 0.5)
        );
    }

    #[test]
    fn connections_are_counted_over_all_destinations() {
        let samples = parse(
            "hopline_tcp_connections_total{destination=\"10.0.0.2\",role=\"client\",error=\"\"} 7\n\
             hopline_tcp_connections_total{destination=\"10.0.0.2\",role=\"client\",error=\"refused\"} 2\n\
             hopline_connections_waiting{destination=\"10.0.0.2\",phase=\"tcp\"} 1\n",
        );
        assert_eq!(connections(&samples), 9);
    }
}
