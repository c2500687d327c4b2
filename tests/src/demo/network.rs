//! The demo's network: a path, four mirrors behind it, and who knows their names.

use anyhow::Result;

use super::mirrors::{self, ALL, RESOLVER, SLOW_RESOLVER, UNNAMED};
use crate::certificates::Certificates;
use crate::lab::Lab;
use crate::names::Names;
use crate::process::Process;
use crate::topology::Pair;

/// All of it; its servers are not in the watched cgroup, so that each connection is seen once, as its client sees it.
#[derive(Debug)]
pub(crate) struct Network {
    /// What the client's programs resolve with.
    pub(crate) names: Names,
    _upstream: Names,
    _servers: Vec<Process>,
    pub(crate) pair: Pair,
    pub(crate) certificates: Certificates,
}

impl Network {
    pub(crate) fn start(lab: &Lab, certificates: Certificates) -> Result<Self> {
        let pair = Pair::new(lab, &mirrors::path())?;
        let servers = mirrors::serve(lab, &pair, &certificates)?;
        pair.client.ip(&format!("addr add {RESOLVER}/32 dev lo"))?;
        let address = |mirror: &mirrors::Mirror| format!("address=/{}/{}", mirror.name, mirror.address);
        let upstream = Names::start(lab, &pair.server, &lab.tools, SLOW_RESOLVER, &[address(&UNNAMED)])?;
        let known = ALL
            .iter()
            .filter(|mirror| mirror.name != UNNAMED.name)
            .map(|mirror| address(mirror));
        let options: Vec<String> = known
            .chain([format!("server=/{}/{SLOW_RESOLVER}", UNNAMED.name)])
            .collect();
        let names = Names::start(lab, &pair.client, &lab.tools, RESOLVER, &options)?;
        Ok(Self {
            names,
            _upstream: upstream,
            _servers: servers,
            pair,
            certificates,
        })
    }
}
