//! The `Accept` header of HTTP (RFC 9110, 12.5.1), as far as this agent has something to choose from.
//!
//! Total on any text: what cannot be read is as if it were not there.

/// Versions of OpenMetrics that a reader may ask for: what we write is readable as both.
const OPENMETRICS_VERSIONS: [&str; 2] = ["1.0.0", "0.0.1"];
/// The version of Prometheus' text format that we write.
const TEXT_VERSIONS: [&str; 1] = ["0.0.4"];

/// One range of media types with its weight in thousandths.
#[derive(Clone, Copy, Debug)]
struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    weight: u16,
}

/// Whether the reader prefers OpenMetrics to the text format, which is what all others get.
pub(super) fn wants_openmetrics(accept: &str) -> bool {
    let openmetrics = preference(accept, "application/openmetrics-text", &OPENMETRICS_VERSIONS);
    let text = preference(accept, "text/plain", &TEXT_VERSIONS);
    match (openmetrics, text) {
        // A tie goes to what was named; curl's `*/*` names nothing.
        (Some((weight, is_named)), Some((other, _))) if weight == other => weight > 0 && is_named,
        (Some((weight, _)), other) => weight > other.map_or(0, |(weight, _)| weight),
        (None, _) => false,
    }
}

/// Whether the reader names this media type, and does not refuse it.
pub(super) fn names(accept: &str, kind: &str) -> bool {
    ranges(accept).any(|range| range.kind.eq_ignore_ascii_case(kind) && range.weight > 0)
}

/// Weight of a media type by the most specific range that fits, and whether that range is the type itself.
fn preference(accept: &str, kind: &str, versions: &[&str]) -> Option<(u16, bool)> {
    let (main, _) = kind.split_once('/')?;
    let weight_of = |fits: &dyn Fn(&Range<'_>) -> bool| ranges(accept).filter(fits).map(|range| range.weight).max();
    let is_version = |range: &Range<'_>| range.version.is_none_or(|version| versions.contains(&version));
    let named = weight_of(&|range| range.kind.eq_ignore_ascii_case(kind) && is_version(range));
    if let Some(weight) = named {
        return Some((weight, true));
    }
    let of_main = weight_of(&|range| {
        let range = range.kind.strip_suffix("/*");
        range.is_some_and(|range| range.eq_ignore_ascii_case(main))
    });
    let weight = of_main.or_else(|| weight_of(&|range| range.kind == "*/*"))?;
    Some((weight, false))
}

fn ranges(accept: &str) -> impl Iterator<Item = Range<'_>> {
    accept.split(',').filter_map(range)
}

fn range(text: &str) -> Option<Range<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().filter(|kind| kind.contains('/'))?;
    let (mut version, mut weight) = (None, 1_000);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim() {
            "q" | "Q" => weight = thousandths(value)?,
            name if name.eq_ignore_ascii_case("version") => version = Some(value),
            _ => {}
        }
    }
    Some(Range { kind, version, weight })
}

/// `0.25` is 250; from 0 to 1 with at most three digits behind the point.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, rest) = weight.split_once('.').unwrap_or((weight, ""));
    if rest.len() > 3 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let behind: u16 = format!("{rest:0<3}").parse().ok()?;
    match whole {
        "0" => Some(behind),
        "1" if behind == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_or_text() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, openmetrics) in [
            (prometheus, true),
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("text/*", false),
            ("application/*", true),
            ("application/json", false),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text", true),
            ("application/openmetrics-text; version=1.0.0", true),
            ("application/openmetrics-text; version=\"1.0.0\"", true),
            ("application/openmetrics-text; version=2.0.0", false),
            (
                "application/openmetrics-text; version=2.0.0, application/openmetrics-text; q=0.1",
                true,
            ),
            ("application/openmetrics-text, text/plain", true),
            ("text/plain, application/openmetrics-text", true),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=0.000, */*", false),
            ("application/openmetrics-text ; q=0 , text/plain", false),
            ("application/openmetrics-text;q=0.3,text/plain;q=0.7", false),
            ("application/openmetrics-text;q=0.7,text/plain;q=0.3", true),
            ("application/openmetrics-text;Q=0.7,text/plain;Q=0.3", true),
            ("application/openmetrics-text;q=0.25,text/plain;q=0.249", true),
            ("application/openmetrics-text;q=0.5,*/*;q=0.1", true),
            ("application/openmetrics-text;q=0.1,*/*;q=0.5", false),
            ("text/plain;q=0,*/*", true),
            // A weight that is none takes its range with it.
            ("application/openmetrics-text;q=2", false),
            ("application/openmetrics-text;q=-1", false),
            ("application/openmetrics-text;q=0.1234", false),
            ("application/openmetrics-text;q=", false),
            ("application/openmetrics-text-not", false),
            (",;=,/;q=é,", false),
        ] {
            assert_eq!(wants_openmetrics(accept), openmetrics, "{accept}");
        }
    }

    #[test]
    fn a_type_that_is_named() {
        for (accept, named) in [
            ("text/event-stream", true),
            ("application/json, text/event-stream;q=0.1", true),
            ("text/event-stream;q=0", false),
            ("text/*", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(names(accept, "text/event-stream"), named, "{accept}");
        }
    }
}
