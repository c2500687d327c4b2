//! The part of the configuration that is about destinations: groups, resolvers' ports, declarations. Used by `config` alone.
use std::{collections::HashSet, fmt, fmt::Write as _};

use serde::{Deserialize, Deserializer, de};

use super::{Config, in_range};
use crate::{
    declared::{Declaration, Target},
    groups::{Configured, DNS, Groups},
};

/// Most groups, declarations, and destinations in each: matching does not slow down with them, memory grows.
const MOST: usize = 100;
const MOST_IN_EACH: usize = 10_000;
/// Most ports of resolvers: each connection is compared with all of them.
const MOST_PORTS: usize = agent_ebpf::dns::MAX_DNS_PORTS;
/// Longest name of a group or a declaration: it becomes a label.
const LONGEST_NAME: usize = 63;

impl Config {
    /// All groups that destinations may have.
    pub fn groups(&self) -> Groups {
        Groups::new(&self.groups, self.builtin_groups, &self.dns_ports)
    }

    /// A group that a declaration names and that is not there.
    pub(super) fn unknown_group(&self) -> Option<&str> {
        let destinations = self.declared.iter().flat_map(|declaration| &declaration.destinations);
        let mut groups = destinations.filter_map(|target| match target {
            Target::Group(name) => Some(name.as_str()),
            Target::Pattern(_) => None,
        });
        let builtin = |name: &str| Groups::is_builtin(name) && (self.builtin_groups || name == DNS);
        groups.find(|name| !builtin(name) && !self.groups.contains_key(*name))
    }
}

/// The line on which a declaration names a group, from 1; 0 when it cannot be told.
pub(super) fn line_of_group(text: &str, group: &str) -> u64 {
    let wanted = format!("group:{group}");
    let named = |line: &str| {
        let mut places = line.match_indices(&wanted).map(|(at, _)| &line[at + wanted.len()..]);
        places.any(|rest| !rest.starts_with(is_name_character))
    };
    let at = text
        .lines()
        .position(|line| !line.trim_start().starts_with('#') && named(line));
    at.map_or(0, |at| at as u64 + 1)
}

pub(super) fn groups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Configured, D::Error> {
    let groups = Configured::deserialize(deserializer)?;
    bounded("groups", groups.len(), MOST)?;
    for (name, patterns) in &groups {
        let is_name = (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_name_character);
        if !is_name {
            return Err(de::Error::custom(format_args!(
                "`{name}` is no name of a group: at most {LONGEST_NAME} lower-case letters, digits, - and _"
            )));
        }
        bounded("patterns", patterns.len(), MOST_IN_EACH)?;
    }
    Ok(groups)
}

pub(super) fn dns_ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    struct Port(u16);
    impl<'de> Deserialize<'de> for Port {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            in_range(deserializer, &(1..=u16::MAX)).map(Self)
        }
    }
    let ports = Vec::<Port>::deserialize(deserializer)?;
    bounded("ports", ports.len(), MOST_PORTS)?;
    Ok(ports.into_iter().map(|Port(port)| port).collect())
}

pub(super) fn declared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Declaration>, D::Error> {
    let declared = Vec::<Declaration>::deserialize(deserializer)?;
    bounded("declarations", declared.len(), MOST)?;
    let mut names = HashSet::new();
    for declaration in &declared {
        let name = &declaration.name;
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
            return Err(de::Error::custom(format_args!(
                "`{name}` is no name of a declaration: from 1 to {LONGEST_NAME} bytes"
            )));
        }
        if !names.insert(name) {
            return Err(de::Error::custom(format_args!("`{name}` twice")));
        }
        if [&declaration.process, &declaration.workload, &declaration.cgroup]
            .iter()
            .all(|pattern| pattern.is_none())
        {
            return Err(de::Error::custom(format_args!(
                "`{name}` is about nobody: give process, workload or cgroup (\"*\" for all)"
            )));
        }
        bounded("destinations", declaration.destinations.len(), MOST_IN_EACH)?;
    }
    Ok(declared)
}

fn bounded<E: de::Error>(what: &str, number: usize, most: usize) -> Result<(), E> {
    if number > most {
        return Err(E::custom(format_args!("{number} {what}, at most {most}")));
    }
    Ok(())
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || matches!(character, '-' | '_')
}

pub(super) fn groups_to_yaml(groups: &Configured) -> String {
    if groups.is_empty() {
        return "{}".to_owned();
    }
    let mut text = String::new();
    for (name, patterns) in groups {
        write!(text, "\n  {}: {}", quoted(name), list(patterns)).expect("writing to memory");
    }
    text
}

pub(super) fn declared_to_yaml(declared: &[Declaration]) -> String {
    if declared.is_empty() {
        return "[]".to_owned();
    }
    let mut text = String::new();
    for declaration in declared {
        write!(text, "\n  - name: {}", quoted(&declaration.name)).expect("writing to memory");
        for (key, pattern) in [
            ("process", &declaration.process),
            ("workload", &declaration.workload),
            ("cgroup", &declaration.cgroup),
        ] {
            if let Some(pattern) = pattern {
                write!(text, "\n    {key}: {}", quoted(pattern)).expect("writing to memory");
            }
        }
        write!(text, "\n    destinations: {}", list(&declaration.destinations)).expect("writing to memory");
    }
    text
}

/// Values in brackets; what is no number stands in quotes.
pub(super) fn list<T: fmt::Display>(values: &[T]) -> String {
    let value = |value: &T| {
        let text = value.to_string();
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text
        } else {
            quoted(&text)
        }
    };
    format!("[{}]", values.iter().map(value).collect::<Vec<_>>().join(", "))
}

/// A text as a JSON string, which is a YAML scalar whatever it holds.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
