//! The two places traffic runs in: a client and a server namespace with a router between, or one namespace alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use serde_json::Value;

use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;
use crate::router::{self, DEVICE, Hop, RouterSettings};

/// What kind of socket and address a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
    /// An IPv6 socket that talks IPv4.
    Mapped,
    /// An MPTCP socket over IPv4.
    Mptcp,
}

impl Family {
    pub(crate) const ALL: [Self; 4] = [Self::Ipv4, Self::Ipv6, Self::Mapped, Self::Mptcp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Mapped => "v4-mapped",
            Self::Mptcp => "mptcp",
        }
    }

    /// `family` of the record: what is on the wire.
    pub(crate) fn recorded(self) -> &'static str {
        if self == Self::Ipv6 { "ipv6" } else { "ipv4" }
    }

    /// `address` as a socket of this kind is given it.
    pub(crate) fn as_given(self, address: SocketAddr) -> SocketAddr {
        match (self, address.ip()) {
            (Self::Mapped, IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            _ => address,
        }
    }

    /// The server's address in the two-namespace layout, as on the wire.
    pub(crate) fn server(self, port: u16) -> SocketAddr {
        SocketAddr::new(
            if self == Self::Ipv6 {
                SERVER6.into()
            } else {
                SERVER4.into()
            },
            port,
        )
    }
}

pub(crate) const SERVER4: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd99, 2, 0, 0, 0, 0, 0, 2);

/// Client and server namespace with a router between.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Ends first: the devices go with it.
    router: Process,
    pub(crate) client: NetNs,
    pub(crate) server: NetNs,
}

impl Pair {
    pub(crate) fn new(lab: &Lab, settings: &RouterSettings) -> Result<Self> {
        let client = NetNs::new()?;
        let server = NetNs::new()?;
        for netns in [&client, &server] {
            // Neighbour discovery and router solicitations have no place on the path.
            netns.sysctl("net.ipv6.conf.default.accept_ra", "0")?;
            // Old kernels have no extra linear retransmissions: the lab asks for the same on all.
            netns.sysctl_if_there("net.ipv4.tcp_syn_linear_timeouts", "0")?;
        }
        let router = router::start(lab, &client, &server, settings)?;
        for (netns, side) in [(&client, 1), (&server, 2)] {
            netns.ip(&format!("link set {DEVICE} mtu 1500 txqueuelen 10000 up"))?;
            netns.ip(&format!("addr add 10.99.{side}.2/24 dev {DEVICE}"))?;
            netns.ip(&format!("route add 10.99.0.0/16 dev {DEVICE}"))?;
            netns.ip(&format!("addr add fd99:{side}::2/64 dev {DEVICE} nodad"))?;
            netns.ip(&format!("route add fd99::/16 dev {DEVICE}"))?;
        }
        Ok(Self { router, client, server })
    }

    /// From now on this address is so much further away, each way.
    pub(crate) fn move_away(&mut self, address: IpAddr, us: u64) -> Result<()> {
        self.router.say(&format!("{address} {us}\n"))
    }

    /// From now on the ways are these.
    pub(crate) fn reroute(&mut self, routes: &[Vec<Hop>]) -> Result<()> {
        self.router.say(&format!("routes {}\n", serde_json::to_string(routes)?))
    }
}

/// One namespace with room for many connections per second over its loopback.
pub(crate) fn busy_loopback() -> Result<NetNs> {
    let netns = NetNs::new()?;
    netns.sysctl("net.ipv4.ip_local_port_range", "1024 65000")?;
    netns.sysctl("net.core.somaxconn", "65535")?;
    netns.sysctl("net.ipv4.tcp_max_syn_backlog", "65535")?;
    netns.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
    Ok(netns)
}

/// One of the kernel's own counters of a namespace, as `nstat` names it.
pub(crate) fn kernel_counter(netns: &NetNs, name: &str) -> Result<u64> {
    let output = netns.run(|| {
        Ok(std::process::Command::new("nstat")
            .args(["-a", "-s", "-z", "-j"])
            .output()?)
    })?;
    let counters: Value = serde_json::from_slice(&output.stdout)?;
    counters["kernel"][name]
        .as_u64()
        .ok_or_else(|| anyhow::anyhow!("nstat does not know {name}"))
}
