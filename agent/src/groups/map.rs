//! Many patterns, each with a value: finds the most exact one that fits, in a time that does not grow with their number.
use std::{collections::HashMap, net::IpAddr};

use super::pattern::{Pattern, Target, address_bits, prefix};

/// Values by port; `None` for any other port.
type Ports<T> = Vec<(Option<u16>, T)>;

/// Patterns and their values.
#[derive(Clone, Debug)]
pub struct PatternMap<T> {
    names: HashMap<Box<str>, Ports<T>>,
    /// By the end that names must have.
    ends: HashMap<Box<str>, Ports<T>>,
    /// Networks by length, the longest first; of each the bits that count.
    networks: Vec<(u8, HashMap<u128, Ports<T>>)>,
}

impl<T> Default for PatternMap<T> {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            ends: HashMap::new(),
            networks: Vec::new(),
        }
    }
}

impl<T> PatternMap<T> {
    /// Adds a pattern; one that is there keeps its value.
    pub fn insert(&mut self, pattern: &Pattern, value: T) {
        let ports = match &pattern.target {
            Target::Name(name) => self.names.entry(name.as_str().into()).or_default(),
            Target::Below(end) => self.ends.entry(end.as_str().into()).or_default(),
            Target::Network(network) => {
                let (bits, length) = network.bits();
                let place = match self.networks.binary_search_by(|(other, _)| length.cmp(other)) {
                    Ok(place) => place,
                    Err(place) => {
                        self.networks.insert(place, (length, HashMap::new()));
                        place
                    }
                };
                self.networks[place].1.entry(bits).or_default()
            }
        };
        if ports.iter().all(|(port, _)| *port != pattern.port) {
            ports.push((pattern.port, value));
        }
    }

    /// The value for a name in lower case: of the name itself, else of its longest end.
    pub fn name(&self, name: &str, port: u16) -> Option<&T> {
        let whole = self.names.get(name).and_then(|ports| of_port(ports, port));
        whole.or_else(|| {
            let mut ends = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
            ends.find_map(|end| of_port(self.ends.get(end)?, port))
        })
    }

    /// The value for an address: of its longest network.
    pub fn address(&self, address: IpAddr, port: u16) -> Option<&T> {
        let bits = address_bits(address);
        self.networks
            .iter()
            .find_map(|(length, networks)| of_port(networks.get(&prefix(bits, *length))?, port))
    }
}

fn of_port<T>(ports: &Ports<T>, port: u16) -> Option<&T> {
    let of = |wanted: Option<u16>| ports.iter().find(|(port, _)| *port == wanted);
    of(Some(port)).or_else(|| of(None)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_one_fits() {
        let mut map = PatternMap::default();
        for pattern in [
            "a.example",
            "*.example",
            "*.b.example",
            "*.b.example:81",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.3:80",
            "fd00::/8",
            "0.0.0.0/0:9",
        ] {
            map.insert(&pattern.parse().expect("a pattern"), pattern);
        }
        map.insert(&"a.example".parse().expect("a pattern"), "later");
        let name = |name: &str, port, expected: Option<&str>| assert_eq!(map.name(name, port).copied(), expected);
        name("a.example", 1, Some("a.example"));
        name("x.a.example", 1, Some("*.example"));
        name("b.example", 1, Some("*.example"));
        name("x.y.b.example", 1, Some("*.b.example"));
        name("x.b.example", 81, Some("*.b.example:81"));
        name("example", 1, None);
        name("", 1, None);
        name("a.example.", 1, None);
        name("10.0.0.1", 1, None);
        let address = |address: &str, port, expected: Option<&str>| {
            let found = map.address(address.parse().expect("an address"), port);
            assert_eq!(found.copied(), expected, "{address}");
        };
        address("10.1.2.3", 80, Some("10.1.2.3:80"));
        address("10.1.2.3", 81, Some("10.1.0.0/16"));
        address("10.2.0.1", 80, Some("10.0.0.0/8"));
        address("11.0.0.1", 80, None);
        address("11.0.0.1", 9, Some("0.0.0.0/0:9"));
        address("fd12::1", 80, Some("fd00::/8"));
        address("fe80::1", 9, None);
        address("::", 9, None);
    }
}
