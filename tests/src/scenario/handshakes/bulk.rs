//! BIG TCP: megabytes behind the handshake in packets of more than 64 KiB (IPv6 with a jumbo payload header, or without
//! where the kernel leaves it out). What passes later must not change what the handshake said.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};

use super::word;
use crate::capture::Capture;
use crate::certificates::Certificates;
use crate::dissect::{DecodeAs, dissect};
use crate::hopline::{Record, Trace};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::verdict::Verdict;
use crate::{nginx, openssl};

const PORT: u16 = 9_443;
const BYTES: usize = 16 << 20;
const CONNECTIONS: usize = 3;

pub(super) fn run(lab: &Lab, verdict: &mut Verdict, certificates: &Certificates) -> Result<()> {
    let netns = NetNs::new()?;
    // Packets longer than 64 KiB are put together of smaller segments, and only where windows are larger still.
    netns.ip("link set lo mtu 9000")?;
    for buffer in ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"] {
        netns.sysctl(buffer, "4096 4194304 16777216")?;
    }
    // Older tools or kernels know neither: packets then end at 64 KiB, which the row below tells.
    for size in ["gso_max_size", "gro_max_size"] {
        if let Err(error) = netns.ip(&format!("link set lo {size} 400000")) {
            verdict.skip(format!("BIG TCP, {size}"), format!("{error:#}"));
        }
    }
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT));
    let (chain, key) = (certificates.file("good-chain.pem"), certificates.file("leaf.key"));
    let servers = format!(
        "server {{ listen {address} ssl; ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; }}",
        word(&chain),
        word(&key)
    );
    let _nginx = nginx::start_servers(lab, "bulk", &netns, &lab.traffic, &servers, &[address])?;
    fs::write(lab.file("bulk").join("bulk"), vec![b'x'; BYTES])?;
    let trace = Trace::start(lab, "bulk", lab.traffic.path())?;
    let capture = Capture::start_long(lab, "bulk", &netns, "lo")?;
    let keys = lab.file("bulk-keys");
    for connection in 0..CONNECTIONS {
        let url = format!("https://c{connection}-bulk.lab.test:{PORT}/bulk");
        let resolve = format!("c{connection}-bulk.lab.test:{PORT}:[::1]");
        let options = ["--cacert", "root.pem", "--http1.1", "--resolve", &resolve, &url].map(str::to_owned);
        let log = format!("bulk-{connection}");
        let said = openssl::curl(lab, &netns, certificates, Some(&keys), &options, &log)?;
        ensure!(said.text.starts_with("200 "), "bulk: {}", said.text);
    }
    trace.wait_for(2 * CONNECTIONS)?;
    let records = trace.finish()?;
    let file = capture.end()?;
    let decode = DecodeAs {
        port: PORT,
        protocol: "tls",
    };
    let capture = dissect(&file, Some(&keys), &[decode])?;
    ensure!(
        capture.handshakes.len() == CONNECTIONS,
        "bulk: {} handshakes captured",
        capture.handshakes.len()
    );
    let longest = capture.longest_packet as f64;
    if longest > 65_535.0 {
        verdict.note("BIG TCP: longest packet", longest, "B");
    } else {
        verdict.skip("BIG TCP", format!("this kernel's longest packet was {longest} B"));
    }
    let handshakes: Vec<_> = capture.handshakes.iter().collect();
    for role in ["client", "server"] {
        // Few as they are, their own row is all that is judged.
        super::compare(
            verdict,
            &format!("BIG TCP, {role}"),
            role,
            (lab.tolerance, lab.tolerance_us(0)),
            &handshakes,
            &records,
        );
    }
    let carried = |record: &&Record| record.is_client() && record.tcp.bytes_received >= Some(BYTES as u64);
    verdict.count(
        "BIG TCP, client: records with all bytes",
        records.iter().filter(carried).count() as u64,
        CONNECTIONS as u64,
    );
    Ok(())
}
