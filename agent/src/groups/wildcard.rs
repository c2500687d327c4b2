//! Patterns in which `*` stands for any text. Pure.

/// Whether `text` fits `pattern`, where `*` stands for any text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        // The earliest place leaves the most for what follows.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("a.example", "a.example", true),
            ("a.example", "ba.example", false),
            ("a.example", "a.example.org", false),
            ("*.example", "a.example", true),
            ("*.example", "a.example.org", false),
            ("a*e", "a.example", true),
            ("a*x*le", "a.example", true),
            ("a*x*x*le", "a.example", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("ab*ba", "aba", false),
            ("**a**", "xay", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
