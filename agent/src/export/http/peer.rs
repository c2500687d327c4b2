//! Who connects, as far as it matters for bounds: one host, or one network of somebody's.
use std::net::{IpAddr, Ipv4Addr};

/// Addresses that count as one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// Anything on this machine: its processes can choose among 16 million loopback addresses.
    Loopback,
    /// One IPv4 address.
    V4(Ipv4Addr),
    /// A /64: whoever has one IPv6 address usually has all of its network.
    V6(u64),
}

impl Peer {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback,
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_peer() {
        let check = |one: &str, other: &str, same: bool| {
            let [first, second] = [one, other].map(|address| Peer::of(address.parse().expect("an address")));
            assert_eq!(first == second, same, "{one} {other}");
        };
        check("127.0.0.1", "127.9.9.9", true);
        check("127.0.0.1", "::1", true);
        check("127.0.0.1", "::ffff:127.0.0.1", true);
        check("10.0.0.1", "10.0.0.2", false);
        check("10.0.0.1", "::ffff:10.0.0.1", true);
        check("2001:db8::1", "2001:db8::ffff:2", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
    }
}
