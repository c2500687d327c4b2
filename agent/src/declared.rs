//! Declared destinations: whom a process, workload or cgroup may talk to, and whether a connection keeps to that.
//!
//! Pure. A name counts only when something beside the connection's own claim agrees with it; an address counts by
//! itself. `config` reads the declarations, `pipeline` asks once for each client connection.
use std::{collections::HashSet, fmt, net::IpAddr, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, de};

use crate::groups::{Group, Pattern, PatternMap, wildcard};

/// One declaration, as the configuration has it: the patterns of who must all fit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// What events and metrics call it.
    pub name: String,
    /// Name or file name of the program.
    #[serde(default)]
    pub process: Option<String>,
    /// Kubernetes workload.
    #[serde(default)]
    pub workload: Option<String>,
    /// Path of the cgroup below the cgroup2 mount.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// Whom it may talk to.
    pub destinations: Vec<Target>,
}

/// A destination in a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By name, address or network.
    Pattern(Pattern),
    /// All of a group: `group:NAME`.
    Group(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("group:") {
            Some("") => Err("`group:` lacks the name of a group".to_owned()),
            Some(name) => Ok(Self::Group(name.to_owned())),
            None => text.parse().map(Self::Pattern),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => pattern.fmt(f),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

/// Who connects.
#[derive(Clone, Copy, Debug, Default)]
pub struct Who<'a> {
    /// Its name.
    pub comm: &'a str,
    /// Path of its program.
    pub exe: Option<&'a str>,
    /// Its Kubernetes workload.
    pub workload: Option<&'a str>,
    /// Path of its cgroup.
    pub cgroup: Option<&'a str>,
}

/// Whom it connects to.
#[derive(Clone, Copy, Debug)]
pub struct Whom<'a> {
    /// The name, in lower case.
    pub name: Option<&'a str>,
    /// Something beside the connection's own claim agrees with the name.
    pub verified: bool,
    /// No other name will come. An address without a name may still be that of a declared one until then.
    pub is_final: bool,
    /// The address that was asked for.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The group of name, address and port.
    pub group: &'a Group,
}

/// In what way a connection does not keep to its declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Misfit {
    /// Neither its name nor its address is declared.
    Outside,
    /// It claims a declared name, and nothing else agrees: anybody can claim one.
    Unverified,
}

impl Misfit {
    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Unverified => "unverified",
        }
    }
}

/// All declarations.
#[derive(Debug, Default)]
pub struct Declarations(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    name: Arc<str>,
    process: Option<String>,
    workload: Option<String>,
    cgroup: Option<String>,
    patterns: PatternMap<()>,
    groups: HashSet<String>,
    /// A name could satisfy it.
    has_names: bool,
}

/// What a declaration says of a destination.
enum Answer {
    Declared,
    Claimed,
    Undecided,
    Outside,
}

impl Declarations {
    /// Takes the declarations in their order.
    pub fn new(declared: &[Declaration]) -> Self {
        Self(declared.iter().map(Compiled::new).collect())
    }

    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them asks for the cgroup.
    pub fn need_cgroup(&self) -> bool {
        self.0.iter().any(|declaration| declaration.cgroup.is_some())
    }

    /// The declaration that a connection does not keep to, and in what way; `None` when one of those that are about it
    /// declares the destination, when none is about it, and when that cannot be told.
    pub fn misfit(&self, who: &Who<'_>, whom: &Whom<'_>) -> Option<(&Arc<str>, Misfit)> {
        let (mut claimed, mut outside) = (None, None);
        let mut undecided = false;
        for declaration in self.0.iter().filter(|declaration| declaration.is_about(who)) {
            match declaration.answer(whom) {
                Answer::Declared => return None,
                Answer::Undecided => undecided = true,
                Answer::Claimed => claimed = claimed.or(Some((&declaration.name, Misfit::Unverified))),
                Answer::Outside => outside = outside.or(Some((&declaration.name, Misfit::Outside))),
            }
        }
        claimed.or(outside).filter(|_| !undecided)
    }
}

impl Compiled {
    fn new(declaration: &Declaration) -> Self {
        let mut compiled = Self {
            name: declaration.name.as_str().into(),
            process: declaration.process.clone(),
            workload: declaration.workload.clone(),
            cgroup: declaration.cgroup.clone(),
            patterns: PatternMap::default(),
            groups: HashSet::new(),
            has_names: false,
        };
        for target in &declaration.destinations {
            match target {
                Target::Pattern(pattern) => {
                    compiled.has_names |= pattern.is_name();
                    compiled.patterns.insert(pattern, ());
                }
                Target::Group(group) => {
                    compiled.has_names = true;
                    compiled.groups.insert(group.clone());
                }
            }
        }
        compiled
    }

    fn is_about(&self, who: &Who<'_>) -> bool {
        let fits = |pattern: &Option<String>, texts: &[Option<&str>]| {
            pattern.as_ref().is_none_or(|pattern| {
                let mut texts = texts.iter().flatten();
                texts.any(|text| wildcard::matches(pattern, text))
            })
        };
        let file = who.exe.and_then(|exe| exe.rsplit('/').next());
        fits(&self.process, &[Some(who.comm), file])
            && fits(&self.workload, &[who.workload])
            && fits(&self.cgroup, &[who.cgroup])
    }

    fn answer(&self, whom: &Whom<'_>) -> Answer {
        let is_group = self.groups.contains(&*whom.group.name);
        if self.patterns.address(whom.address, whom.port).is_some() || (is_group && !whom.group.by_name) {
            return Answer::Declared;
        }
        let is_name = whom
            .name
            .is_some_and(|name| self.patterns.name(name, whom.port).is_some());
        if is_name || is_group {
            return if whom.verified {
                Answer::Declared
            } else {
                Answer::Claimed
            };
        }
        if self.has_names && !whom.is_final {
            Answer::Undecided
        } else {
            Answer::Outside
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::Groups;

    fn declaration(name: &str, process: &str, destinations: &[&str]) -> Declaration {
        Declaration {
            name: name.to_owned(),
            process: Some(process.to_owned()),
            workload: None,
            cgroup: None,
            destinations: destinations
                .iter()
                .map(|text| text.parse().expect("a destination"))
                .collect(),
        }
    }

    /// What is said of a connection of `comm` to a name at an address; `name!` is verified, `?` is a name that may come.
    fn misfit(declared: &[Declaration], comm: &str, name: &str, address: &str) -> Option<(String, Misfit)> {
        let verified = name.ends_with('!');
        let host = Some(name.trim_end_matches(['!', '?'])).filter(|name| !name.is_empty());
        let address = address.parse().expect("an address");
        let whom = Whom {
            name: host,
            verified,
            is_final: !name.ends_with('?'),
            address,
            port: 443,
            group: &Groups::default().of(host, address, 443),
        };
        let who = Who {
            comm,
            exe: Some("/usr/local/go/bin/go"),
            ..Who::default()
        };
        let declarations = Declarations::new(declared);
        let (name, misfit) = declarations.misfit(&who, &whom)?;
        Some((name.to_string(), misfit))
    }

    #[test]
    fn names_need_a_witness_and_addresses_do_not() {
        let declared = [declaration(
            "builds",
            "go*",
            &["proxy.golang.org", "*.corp.example:443", "10.0.0.0/8", "group:npm"],
        )];
        let check = |name: &str, address: &str, expected: Option<Misfit>| {
            let found = misfit(&declared, "main", name, address);
            assert_eq!(found.map(|(_, misfit)| misfit), expected, "{name} {address}");
        };
        check("proxy.golang.org!", "192.0.2.1", None);
        check("proxy.golang.org", "192.0.2.1", Some(Misfit::Unverified));
        check("a.corp.example!", "192.0.2.1", None);
        check("evil.example!", "192.0.2.1", Some(Misfit::Outside));
        check("evil.example", "192.0.2.1", Some(Misfit::Outside));
        check("evil.example", "10.1.2.3", None);
        check("", "10.1.2.3", None);
        check("", "192.0.2.1", Some(Misfit::Outside));
        check("?", "192.0.2.1", None);
        check("registry.npmjs.org!", "192.0.2.1", None);
        check("registry.npmjs.org", "192.0.2.1", Some(Misfit::Unverified));
        check("pypi.org!", "192.0.2.1", Some(Misfit::Outside));
    }

    #[test]
    fn declarations_about_the_same_process_add_up() {
        let declared = [
            declaration("a", "go", &["10.0.0.0/8"]),
            declaration("b", "main", &["192.0.2.0/24"]),
            declaration("c", "curl", &["*.example"]),
        ];
        let check = |comm: &str, name: &str, address: &str, expected: Option<(&str, Misfit)>| {
            let expected = expected.map(|(name, misfit)| (name.to_owned(), misfit));
            assert_eq!(misfit(&declared, comm, name, address), expected, "{comm} {address}");
        };
        check("main", "", "10.0.0.1", None);
        check("main", "", "192.0.2.1", None);
        check("main", "", "198.51.100.1", Some(("a", Misfit::Outside)));
        // Only addresses are declared: no name that comes later changes that.
        check("main", "?", "198.51.100.1", Some(("a", Misfit::Outside)));
        check("curl", "?", "198.51.100.1", None);
        check("curl", "a.example", "198.51.100.1", Some(("c", Misfit::Unverified)));
        assert_eq!(misfit(&declared[2..], "wget", "", "198.51.100.1"), None);
    }

    #[test]
    fn all_that_is_said_of_who_must_fit() {
        let declared = Declaration {
            cgroup: Some("/kubepods/*".to_owned()),
            ..declaration("a", "go", &[])
        };
        let declarations = Declarations::new(&[declared]);
        let group = Group::default();
        let whom = Whom {
            name: None,
            verified: false,
            is_final: true,
            address: [192, 0, 2, 1].into(),
            port: 1,
            group: &group,
        };
        let mut who = Who {
            comm: "go",
            ..Who::default()
        };
        assert!(declarations.need_cgroup());
        assert_eq!(declarations.misfit(&who, &whom), None);
        who.cgroup = Some("/system.slice");
        assert_eq!(declarations.misfit(&who, &whom), None);
        who.cgroup = Some("/kubepods/pod1");
        assert!(declarations.misfit(&who, &whom).is_some());
    }
}
