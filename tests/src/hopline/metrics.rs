//! Reads the text of `/metrics`, OpenMetrics or Prometheus.

use anyhow::{Context as _, Result, ensure};

/// One scrape.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(super) samples: Vec<Sample>,
}

/// One line of it.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

impl Metrics {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| parse_line(line).with_context(|| format!("metrics line `{line}`")));
        Ok(Self {
            samples: samples.collect::<Result<_>>()?,
        })
    }

    /// The samples as text again.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for sample in &self.samples {
            text.push_str(&sample.name);
            for (number, (name, value)) in sample.labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let open = if number == 0 { '{' } else { ',' };
                text.extend([&format!("{open}{name}=\""), value.as_str(), "\""]);
            }
            let close = if sample.labels.is_empty() { "" } else { "}" };
            text.extend([close, &format!(" {}\n", sample.value)]);
        }
        text
    }

    /// Sum over all samples of `name` with these labels; 0 when there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.matching(name, labels).map(|sample| sample.value).sum::<f64>() as u64
    }

    /// The largest value of the samples of `name` with these labels; NaN when there is none.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values = self.matching(name, labels).map(|sample| sample.value);
        values.fold(f64::NAN, f64::max)
    }

    /// Values of `label` among the samples of `name`, once each.
    pub(crate) fn values<'a>(&'a self, name: &'a str, label: &str) -> Vec<&'a str> {
        let mut values: Vec<&str> = self
            .matching(name, &[])
            .filter_map(|sample| sample.label(label))
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// Time series of hopline's families, those about itself included; what every process exports is none of them.
    pub(crate) fn series(&self) -> u64 {
        self.samples
            .iter()
            .filter(|sample| sample.name.starts_with("hopline_"))
            .count() as u64
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.label(key) == Some(value))
        })
    }
}

/// `name{key="value",…} number [time]`.
fn parse_line(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").context("label without value")?;
            let (value, after) = quoted(after).context("label without end")?;
            labels.push((key.trim_start_matches(',').to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
            ensure!(!rest.is_empty(), "labels without end");
        }
        rest = &rest[1..];
    }
    let number = rest.split_whitespace().next().context("no value")?;
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: number.parse()?,
    })
}

/// The text up to the closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_select_and_samples_add_up() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"q\\\"r}\"} 2\na_total{x=\"1\",y=\"s\"} 3 17.5\na_total{x=\"2\",y=\"s\"} 5\nb 7\n# EOF\n";
        let metrics = Metrics::parse(text).expect("metrics");
        assert_eq!(metrics.sum("a_total", &[]), 10);
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), 5);
        assert_eq!(metrics.sum("a_total", &[("y", "q\"r}")]), 2);
        assert_eq!(metrics.sum("b", &[]), 7);
        assert_eq!(metrics.values("a_total", "x"), ["1", "2"]);
    }
}
