//! The four mirrors of the demo, their names and what is wrong with each.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;

use crate::certificates::Certificates;
use crate::lab::Lab;
use crate::nginx;
use crate::process::Process;
use crate::router::{DEVICE, Direction, Fault, Hop, PayloadEvent, PortFault, RouterSettings};
use crate::topology::Pair;

/// One package mirror.
pub(crate) struct Mirror {
    pub(crate) name: &'static str,
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    about: &'static str,
}

pub(crate) const FAST: Mirror = Mirror {
    name: "fast.mirror.lab.test",
    address: Ipv4Addr::new(10, 99, 2, 11),
    port: 443,
    about: "10 ms away, does all right",
};
pub(crate) const UNNAMED: Mirror = Mirror {
    name: "slow-dns.mirror.lab.test",
    address: Ipv4Addr::new(10, 99, 2, 12),
    port: 443,
    about: "the same, but its name is known to a slow resolver alone",
};
pub(crate) const HEAVY: Mirror = Mirror {
    name: "slow-tls.mirror.lab.test",
    address: Ipv4Addr::new(10, 99, 2, 13),
    port: 8443,
    about: "slow to shake hands, TLS 1.2, and lacks its intermediate certificate",
};
pub(crate) const SILENT: Mirror = Mirror {
    name: "silent.mirror.lab.test",
    address: Ipv4Addr::new(10, 99, 2, 14),
    port: 444,
    about: "accepts connections and never says a word",
};
pub(crate) const ALL: [&Mirror; 4] = [&FAST, &UNNAMED, &HEAVY, &SILENT];

/// Whom the build asks for names, and who alone knows [`UNNAMED`].
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 53);
pub(super) const SLOW_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 54);

/// What the link before each router adds to a round trip to any of them: the third is slow.
const ROUTERS_US: [u64; 4] = [1_000, 1_000, 7_000, 1_000];
/// Each way.
const SLOW_RESOLVER_US: u64 = 60_000;
const HELLO_US: u64 = 90_000;
/// Each way: what the key adds before [`FAST`].
pub(super) const ADDED_US: u64 = 100_000;

impl Mirror {
    pub(crate) fn at(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port))
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}:{}/package", self.name, self.port)
    }

    /// What it is, for the user.
    pub(super) fn legend(&self) -> String {
        format!("  {:<29}  {}", format!("{}:{}", self.name, self.port), self.about)
    }
}

/// The path that makes them so.
pub(super) fn path() -> RouterSettings {
    RouterSettings {
        routes: vec![routers()],
        further: vec![(SLOW_RESOLVER.into(), SLOW_RESOLVER_US)],
        faults: vec![PortFault {
            port: HEAVY.port,
            fault: Fault::AtPayload {
                direction: Direction::ToServer,
                number: 1,
                event: PayloadEvent::Delay { us: HELLO_US },
            },
        }],
        ..RouterSettings::default()
    }
}

fn routers() -> Vec<Hop> {
    let hop = |(number, delay_us)| Hop {
        number,
        delay_us,
        ..Hop::default()
    };
    (1..).zip(ROUTERS_US).map(hop).collect()
}

/// The routers' addresses, and the round trip to each, microseconds.
pub(super) fn distances() -> impl Iterator<Item = (Ipv4Addr, u64)> {
    let mut sum_us = 0;
    routers().into_iter().map(move |hop| {
        sum_us += hop.delay_us;
        (Ipv4Addr::new(10, 99, 0, hop.number), sum_us)
    })
}

/// Gives the server's side all addresses, and starts who answers there.
pub(super) fn serve(lab: &Lab, pair: &Pair, certificates: &Certificates) -> Result<Vec<Process>> {
    for address in ALL.map(|mirror| mirror.address).into_iter().chain([SLOW_RESOLVER]) {
        pair.server.ip(&format!("addr add {address}/24 dev {DEVICE}"))?;
    }
    let server = |mirror: &Mirror, chain: &str, versions: &str| {
        let [chain, key] = [chain, "leaf.key"].map(|name| certificates.file(name));
        format!(
            "server {{ listen {} ssl; ssl_protocols {versions}; ssl_certificate {}; ssl_certificate_key {}; \
             location / {{ return 200 \"package\\n\"; }} }}\n",
            mirror.at(),
            chain.display(),
            key.display()
        )
    };
    let servers = [
        server(&FAST, "good-chain.pem", "TLSv1.3"),
        server(&UNNAMED, "good-chain.pem", "TLSv1.3"),
        server(&HEAVY, "good.pem", "TLSv1.2"),
    ];
    let probe = [FAST.at()];
    let nginx = nginx::start_servers(lab, "mirrors", &pair.server, &lab.tools, &servers.concat(), &probe)?;
    let silent = format!("{}/hold", SILENT.at());
    let mut holder = lab.helper(&["serve", &silent], &pair.server, &lab.tools)?;
    holder.wait_for("ready")?;
    Ok(vec![nginx, holder])
}
