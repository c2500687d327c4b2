//! Which group a destination belongs to: package mirrors by kind, resolvers, and what the configuration says.
//!
//! Pure. Names come from others and are looked up in hash tables: by the whole name, then by each of its ends. Nothing
//! here knows connections; `config` reads the patterns, `pipeline` asks.
mod builtin;
mod map;
mod pattern;
pub mod wildcard;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

pub use map::PatternMap;
pub use pattern::Pattern;

/// The group of resolvers.
pub const DNS: &str = "dns";

static MIRRORS: LazyLock<PatternMap<Arc<str>>> = LazyLock::new(builtin::patterns);
static RESOLVERS: LazyLock<Arc<str>> = LazyLock::new(|| DNS.into());
static NONE: LazyLock<Group> = LazyLock::new(Group::default);

/// The groups of the configuration, by name.
pub type Configured = BTreeMap<String, Vec<Pattern>>;

/// A destination's group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name; empty for none.
    pub name: Arc<str>,
    /// The name that was asked for decided, not the address or the port: no more sure than that name.
    pub by_name: bool,
}

/// All groups.
#[derive(Clone, Debug)]
pub struct Groups {
    configured: PatternMap<Arc<str>>,
    builtin: bool,
    dns_ports: Vec<u16>,
}

impl Default for Groups {
    /// The built-in ones.
    fn default() -> Self {
        Self::new(&Configured::new(), true, &[53])
    }
}

impl Groups {
    /// The groups of the configuration, with the built-in mirrors or without; whom one asks at `dns_ports` is in `dns`.
    /// Of two configured groups with the same pattern the first by name has it.
    pub fn new(configured: &Configured, builtin: bool, dns_ports: &[u16]) -> Self {
        let mut map = PatternMap::default();
        for (name, patterns) in configured {
            let name: Arc<str> = name.as_str().into();
            for pattern in patterns {
                map.insert(pattern, Arc::clone(&name));
            }
        }
        Self {
            configured: map,
            builtin,
            dns_ports: dns_ports.to_vec(),
        }
    }

    /// Whether a group is built in.
    pub fn is_builtin(name: &str) -> bool {
        name == DNS || builtin::names().any(|builtin| builtin == name)
    }

    /// The group of a host, in lower case, as far as it has a name, at an address and port. The configuration comes
    /// first, the name before the address.
    pub fn of(&self, host: Option<&str>, address: IpAddr, port: u16) -> Group {
        let group = |name: &Arc<str>, by_name| Group {
            name: Arc::clone(name),
            by_name,
        };
        let by_name = |map: &PatternMap<Arc<str>>| Some(group(map.name(host?, port)?, true));
        by_name(&self.configured)
            .or_else(|| Some(group(self.configured.address(address, port)?, false)))
            .or_else(|| by_name(&MIRRORS).filter(|_| self.builtin))
            .or_else(|| self.dns_ports.contains(&port).then(|| group(&RESOLVERS, false)))
            // One empty name for all, not one each.
            .unwrap_or_else(|| NONE.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(configured: &[(&str, &[&str])]) -> Groups {
        let parse = |text: &&str| text.parse().expect("a pattern");
        let configured = configured
            .iter()
            .map(|(name, patterns)| ((*name).to_owned(), patterns.iter().map(parse).collect()))
            .collect();
        Groups::new(&configured, true, &[53, 5353])
    }

    fn check(groups: &Groups, host: &str, address: &str, port: u16, expected: &str) {
        let host = (!host.is_empty()).then_some(host);
        let group = groups.of(host, address.parse().expect("an address"), port);
        assert_eq!(&*group.name, expected, "{host:?} {address} {port}");
    }

    #[test]
    fn mirrors_are_built_in() {
        let groups = Groups::default();
        for (host, expected) in [
            ("proxy.golang.org", "go"),
            ("sum.golang.org", "go"),
            ("goproxy.io", "go"),
            ("index.crates.io", "crates"),
            ("registry.npmjs.org", "npm"),
            ("registry.yarnpkg.com", "npm"),
            ("pypi.org", "pypi"),
            ("files.pythonhosted.org", "pypi"),
            ("repo.maven.apache.org", "maven"),
            ("repo1.maven.org", "maven"),
            ("deb.debian.org", "debian"),
            ("ftp.de.debian.org", "debian"),
            ("de.archive.ubuntu.com", "ubuntu"),
            ("archive.ubuntu.com", "ubuntu"),
            ("eu-west-1.ec2.archive.ubuntu.com", "ubuntu"),
            ("dl-cdn.alpinelinux.org", "alpine"),
            ("registry-1.docker.io", "containers"),
            ("ghcr.io", "containers"),
            ("eu.gcr.io", "containers"),
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "containers"),
            // Shared: they carry much that is no package, or packages of many kinds.
            ("github.com", ""),
            ("objects.githubusercontent.com", ""),
            ("dl.google.com", ""),
            ("storage.googleapis.com", ""),
            ("bucket.s3.amazonaws.com", ""),
            ("www.debian.org", ""),
            ("golang.org", ""),
            // Names that only look alike.
            ("proxy.golang.org.example", ""),
            ("xproxy.golang.org", ""),
            ("notgcr.io", ""),
        ] {
            check(&groups, host, "192.0.2.1", 443, expected);
        }
        check(&groups, "", "192.0.2.1", 53, "dns");
        check(&groups, "", "2001:db8::1", 53, "dns");
        check(&groups, "", "192.0.2.1", 5353, "");
    }

    #[test]
    fn the_configuration_comes_first() {
        let groups = groups(&[
            ("corp", &["*.mirror.corp.example", "10.1.2.0/24"]),
            ("go", &["go.mirror.corp.example", "proxy.golang.org:8443"]),
            ("mine", &["proxy.golang.org", "10.1.2.7", "10.9.0.1:53"]),
        ]);
        check(&groups, "a.mirror.corp.example", "192.0.2.1", 443, "corp");
        check(&groups, "go.mirror.corp.example", "192.0.2.1", 443, "go");
        check(&groups, "mirror.corp.example", "192.0.2.1", 443, "");
        check(&groups, "proxy.golang.org", "192.0.2.1", 443, "mine");
        check(&groups, "proxy.golang.org", "192.0.2.1", 8443, "go");
        check(&groups, "", "10.1.2.3", 443, "corp");
        check(&groups, "", "10.1.2.7", 443, "mine");
        check(&groups, "", "10.9.0.1", 53, "mine");
        check(&groups, "", "10.9.0.1", 5353, "dns");
        // Its own name is unknown, its address is not; a built-in name stands behind it.
        check(&groups, "a.example", "10.1.2.3", 443, "corp");
        check(&groups, "pypi.org", "10.1.2.3", 443, "corp");
        let named = groups.of(Some("a.mirror.corp.example"), [10, 1, 2, 3].into(), 443);
        assert!(named.by_name);
        assert!(!groups.of(None, [10, 1, 2, 3].into(), 443).by_name);
    }

    #[test]
    fn built_in_groups_can_be_off() {
        let groups = Groups::new(&Configured::new(), false, &[]);
        check(&groups, "proxy.golang.org", "192.0.2.1", 443, "");
        check(&groups, "", "192.0.2.1", 53, "");
        assert!(Groups::is_builtin("go") && Groups::is_builtin("dns") && !Groups::is_builtin("corp"));
    }
}
