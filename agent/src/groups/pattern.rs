//! One pattern for destinations, as people write it: a name, `*.` and an end of names, an address or a network, each
//! with a port if they like. Pure.
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de};

use crate::protocol::host_name::HostName;

/// What a destination must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    pub(super) target: Target,
    /// Only this port; `None` for any.
    pub(super) port: Option<u16>,
}

/// A pattern without its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// Exactly this name.
    Name(HostName),
    /// Any name that ends in a dot and this, of however many labels.
    Below(HostName),
    /// An address in this network; a single address is one as well.
    Network(Network),
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Network {
    address: IpAddr,
    /// How many bits, of those of the address' own family.
    length: u8,
}

impl Network {
    /// The bits that count, and how many, in IPv6: IPv4 stands there v4-mapped.
    pub(super) fn bits(self) -> (u128, u8) {
        match self.address {
            IpAddr::V4(_) => (address_bits(self.address), self.length + 96),
            IpAddr::V6(_) => (address_bits(self.address), self.length),
        }
    }
}

/// An address as IPv6 has it.
pub(super) fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The first `length` bits.
pub(super) fn prefix(bits: u128, length: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl Pattern {
    /// Whether a name decides, not an address.
    pub fn is_name(&self) -> bool {
        !matches!(self.target, Target::Network(_))
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no destination: write a name, *.example.com, an address or a network such as 10.0.0.0/8, \
                 with :port behind it if only one is meant"
            )
        };
        let (host, port) = split_port(text).ok_or_else(wrong)?;
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
            None => None,
        };
        let target = if let Some(end) = host.strip_prefix("*.") {
            Target::Below(HostName::parse(end.as_bytes()).ok_or_else(wrong)?)
        } else if let Some(network) = network(host)? {
            Target::Network(network)
        } else {
            Target::Name(HostName::parse(host.as_bytes()).ok_or_else(wrong)?)
        };
        Ok(Self { target, port })
    }
}

/// Host and port. Without brackets more than one colon is IPv6, which then has no port.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

/// `None` for what does not begin with an address.
fn network(text: &str) -> Result<Option<Network>, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Ok(None);
    };
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let length = match length.map(u8::from_str) {
        None => whole,
        Some(Ok(length)) if length <= whole => length,
        Some(_) => return Err(format!("`{text}` is no network: its length is from 0 to {whole}")),
    };
    let network = Network { address, length };
    let (bits, of_bits) = network.bits();
    let first = prefix(bits, of_bits);
    if first != bits {
        let first: IpAddr = if address.is_ipv4() {
            Ipv4Addr::from_bits(first as u32).into()
        } else {
            IpAddr::V6(first.into())
        };
        return Err(format!("`{text}` is no network: write {first}/{length}"));
    }
    // A v4-mapped address is the IPv4 address, as everywhere.
    Ok(Some(match address.to_canonical() {
        IpAddr::V4(_) if address.is_ipv6() && length >= 96 => Network {
            address: address.to_canonical(),
            length: length - 96,
        },
        _ => network,
    }))
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Name(name) => write!(f, "{name}")?,
            Target::Below(end) => write!(f, "*.{end}")?,
            Target::Network(Network { address, length }) => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                let brackets = address.is_ipv6() && self.port.is_some();
                let (open, close) = if brackets { ("[", "]") } else { ("", "") };
                if *length == whole {
                    write!(f, "{open}{address}{close}")?;
                } else {
                    write!(f, "{open}{address}/{length}{close}")?;
                }
            }
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let pattern = text.parse::<Pattern>();
            match (&pattern, expected) {
                (Ok(pattern), Ok(expected)) => {
                    assert_eq!(pattern.to_string(), expected, "{text}");
                    assert_eq!(expected.parse().as_ref(), Ok(pattern), "{text} reads back");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                _ => panic!("{text}: {pattern:?}"),
            }
        };
        check("proxy.golang.org", Ok("proxy.golang.org"));
        check("Proxy.Golang.ORG.", Ok("proxy.golang.org"));
        check("proxy.golang.org:8443", Ok("proxy.golang.org:8443"));
        check("*.Corp.example", Ok("*.corp.example"));
        check("*.corp.example:443", Ok("*.corp.example:443"));
        check("localhost", Ok("localhost"));
        check("10.1.2.3", Ok("10.1.2.3"));
        check("10.1.2.3:53", Ok("10.1.2.3:53"));
        check("10.1.2.0/24", Ok("10.1.2.0/24"));
        check("10.1.2.0/24:443", Ok("10.1.2.0/24:443"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check("fd00::1", Ok("fd00::1"));
        check("[fd00::1]:443", Ok("[fd00::1]:443"));
        check("[fd00::1]", Ok("fd00::1"));
        check("fd00::/8", Ok("fd00::/8"));
        check("[fd00::/8]:443", Ok("[fd00::/8]:443"));
        check("::ffff:10.1.2.3", Ok("10.1.2.3"));
        check("::ffff:10.0.0.0/104", Ok("10.0.0.0/8"));
        check("::/0", Ok("::/0"));
        check("10.1.2.3/24", Err("write 10.1.2.0/24"));
        check("fd00::1/64", Err("write fd00::/64"));
        check("10.0.0.0/33", Err("from 0 to 32"));
        check("fd00::/x", Err("from 0 to 128"));
        check("10.0.0.0.0", Err("is no destination"));
        for bad in [
            "",
            "*",
            "*.",
            "a*.example",
            "a.*.example",
            "a b",
            "a:0",
            "a:65536",
            "a:",
            "[fd00::1",
            "[fd00::1]443",
            "http://a",
            "a/24",
        ] {
            check(bad, Err("is no destination"));
        }
    }
}
