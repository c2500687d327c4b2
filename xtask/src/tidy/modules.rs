//! Which module of the agent may use which: the table of ARCHITECTURE.md, checked against `crate::` paths and crate names.
//!
//! Reads words, not Rust: a path in a comment counts too, so nobody writes one there that the code may not use.

use super::Source;

const AGENT: &str = "agent/src/";

/// A module, and the modules of the agent that it may use. `ANY` for those that put the others together.
const MAY_USE: &[(&str, &[&str])] = &[
    ("capacity", &[]),
    ("memory", &["capacity", "config"]),
    ("decode", &[]),
    ("protocol", &["capacity"]),
    ("selfmetrics", &[]),
    ("windows", &[]),
    ("privileges", &[]),
    ("path", &[]),
    ("chains", &["capacity"]),
    ("connection", &["capacity", "decode"]),
    ("groups", &["protocol"]),
    ("declared", &["groups"]),
    ("fallbacks", &["attribution", "connection"]),
    ("attribution", &["capacity", "connection", "decode", "dns"]),
    ("workloads", &["capacity"]),
    ("dns", &["connection", "protocol"]),
    ("events", &["capacity", "connection", "path", "windows"]),
    (
        "aggregate",
        &["attribution", "capacity", "connection", "path", "windows", "workloads"],
    ),
    (
        "pipeline",
        &[
            "aggregate",
            "attribution",
            "capacity",
            "chains",
            "connection",
            "declared",
            "decode",
            "dns",
            "events",
            "fallbacks",
            "groups",
            "path",
            "protocol",
            "sockets",
            "windows",
            "workloads",
        ],
    ),
    ("elf", &[]),
    ("tls_targets", &["bpf", "elf", "groups", "privileges", "selfmetrics"]),
    ("namespaces", &[]),
    ("sockets", &["connection"]),
    ("kubernetes", &["config", "owner", "workloads"]),
    ("sweeper", &["host", "namespaces", "owner", "privileges", "sockets"]),
    (
        "tracer",
        &["host", "namespaces", "owner", "path", "privileges", "selfmetrics"],
    ),
    ("cli", &["connection"]),
    ("fetch", &["protocol"]),
    ("compare", &["cli", "connection", "fetch"]),
    ("safe_mode", &[]),
    ("config", &["cli", "declared", "events", "groups", "path", "safe_mode"]),
    ("host", &["selfmetrics"]),
    ("bpf", &["config", "namespaces", "selfmetrics"]),
    ("reader", &["bpf", "owner"]),
    ("recording", &["config"]),
    (
        "export",
        &[
            "aggregate",
            "capacity",
            "cli",
            "compare",
            "connection",
            "events",
            "fetch",
            "path",
            "pipeline",
            "privileges",
            "selfmetrics",
            "windows",
            "workloads",
        ],
    ),
    (
        "owner",
        &[
            "aggregate",
            "host",
            "path",
            "pipeline",
            "recording",
            "selfmetrics",
            "sockets",
            "tracer",
            "workloads",
        ],
    ),
    (
        "kernel_side",
        &["bpf", "memory", "owner", "privileges", "reader", "selfmetrics"],
    ),
    ("agent", ANY),
    ("command", ANY),
    ("lib", ANY),
    ("main", ANY),
];
const ANY: &[&str] = &["*"];

/// A crate, and the only modules that may name it.
const CRATES: &[(&str, &[&str])] = &[
    ("aya", &["bpf", "reader"]),
    ("axum", &["export"]),
    ("clap", &["cli", "main"]),
    ("hyper", &["export", "fetch"]),
    ("iced_x86", &["elf"]),
    ("k8s_openapi", &["kubernetes"]),
    ("kube", &["kubernetes"]),
    ("prometheus_client", &["export"]),
    ("prost", &["kubernetes"]),
    ("rustls", &["fetch"]),
    ("tonic", &["kubernetes"]),
    ("x509_parser", &["fetch", "protocol"]),
];

/// Modules whose results depend on their arguments alone.
const PURE: &[&str] = &[
    "capacity",
    "decode",
    "elf",
    "protocol",
    "connection",
    "dns",
    "groups",
    "declared",
    "fallbacks",
    "aggregate",
    "events",
    "pipeline",
    "sockets",
    "compare",
    "path",
    "chains",
    "windows",
    "workloads",
];
/// What such a module must not name: the clock, files, the environment, the network, tasks.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "tokio::",
];

/// Complaints about every file of the agent.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for Source { path, text } in sources {
        let Some(module) = module_of(path) else { continue };
        // Tests may reach for anything that helps.
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            complaints.push(format!(
                "{path}: module `{module}` is not in tidy's table of who may use whom"
            ));
            continue;
        };
        for used in used_modules(code) {
            if used != module && *allowed != ANY && !allowed.contains(&used) {
                complaints.push(format!("{path}: `{module}` must not use `{used}`"));
            }
        }
        for (name, modules) in CRATES {
            if !modules.contains(&module) && names_crate(code, name) {
                complaints.push(format!(
                    "{path}: only {} may use the crate `{name}`",
                    modules.join(" and ")
                ));
            }
        }
        if PURE.contains(&module) {
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                complaints.push(format!(
                    "{path}: `{word}` in `{module}`, which works on its arguments alone"
                ));
            }
        }
    }
    complaints
}

/// The top module of a file: `agent/src/bpf/plan.rs` and `agent/src/bpf.rs` are both `bpf`.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix(AGENT)?;
    let name = inside.split('/').next()?;
    super::text::is_rust(path).then(|| name.strip_suffix(".rs").unwrap_or(name))
}

/// First words after each `crate::`, braces opened, without repetition.
fn used_modules(code: &str) -> Vec<&str> {
    let mut modules = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        // `agent_crate::x` is another crate.
        if code[..at].ends_with(|character: char| character.is_alphanumeric() || character == '_') {
            continue;
        }
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(first_words(group)),
            None => modules.extend(word(rest)),
        }
    }
    modules.sort_unstable();
    modules.dedup();
    // Types and macros at the crate's root are not modules.
    modules.retain(|name| name.starts_with(|character: char| character.is_ascii_lowercase()));
    modules
}

/// In `a, b::{c, d}, e}` the words a, b and e.
fn first_words(group: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut depth = 0_usize;
    let mut at_start = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && depth == 0 && !character.is_whitespace() => {
                words.extend(word(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    words
}

fn word(text: &str) -> Option<&str> {
    let end = text
        .find(|character: char| !(character.is_alphanumeric() || character == '_'))
        .unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// True when `name::` or `use name` stands in the code, not as the end of a longer name.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let after = &code[at + name.len()..];
        let before = code[..at].chars().next_back();
        let is_whole = !before.is_some_and(|character| character.is_alphanumeric() || "_-`.:".contains(character));
        is_whole && after.starts_with("::")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(path: &str, text: &str, expected: &[&str]) {
        let complaints = check(&[Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }]);
        assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
        for (complaint, part) in complaints.iter().zip(expected) {
            assert!(complaint.contains(part), "{complaint} lacks {part}");
        }
    }

    #[test]
    fn the_table_is_kept() {
        check_one("agent/src/connection/table.rs", "use crate::decode::Event;\n", &[]);
        check_one(
            "agent/src/connection/table.rs",
            "use crate::aggregate::Series;\n",
            &["must not use `aggregate`"],
        );
        check_one(
            "agent/src/aggregate/mod.rs",
            "use crate::{\n    connection::{A, decode},\n    bpf::X,\n};\n",
            &["must not use `bpf`"],
        );
        check_one("agent/src/agent.rs", "use crate::{bpf, export};\n", &[]);
        check_one("agent/src/news.rs", "", &["not in tidy's table"]);
        check_one("tests/src/main.rs", "use crate::anything;\n", &[]);
    }

    #[test]
    fn crates_stay_where_they_belong() {
        check_one("agent/src/bpf/mod.rs", "use aya::Ebpf;\n", &[]);
        check_one("agent/src/agent.rs", "use aya::Ebpf;\n", &["crate `aya`"]);
        check_one("agent/src/agent.rs", "my_aya::x();\n", &[]);
    }

    #[test]
    fn pure_modules_are_given_the_time() {
        check_one(
            "agent/src/pipeline.rs",
            "let now = Instant::now();\n",
            &["Instant::now"],
        );
        check_one(
            "agent/src/pipeline.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { Instant::now(); } }\n",
            &[],
        );
    }
}
