//! `hopline path` as typed.
use std::time::Duration;

use clap::Args;

use super::units::parse_duration;

const EXAMPLES: &str = "\
Examples:
  hopline path proxy.golang.org
      Every hop on the way to port 443, by ten probes each, once a second.
  hopline path registry.internal:5000 --count 100 --json | jq '.hops[] | [.hop, .address, .rtt_us.p50, .loss]'
      Hops as JSON.
  hopline path 10.1.2.3:5432 --pid 4711
      From the network namespace of a process, such as one of a pod.
  hopline path db.internal:5432 --agent http://127.0.0.1:9737
      What a running agent last found.

Probes are SYNs to the real port, so that filters and policies treat them as the traffic; the server gets a RST for each
SYN-ACK. All probes of a run have the same addresses and ports: routers that share the load keep them on one path.

LOSS is what the path lost up to a hop. A router that answers less than it passes on has a larger UNANSWERED.

Exit codes: 0, 1 when the destination did not answer, 2 wrong usage. Sending probes needs CAP_NET_RAW.";

/// `hopline path`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub struct PathArgs {
    /// Name or address, with the port of the service; an IPv6 address with a port in brackets [default port: 443]
    #[arg(value_name = "HOST[:PORT]")]
    pub target: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Probes to each hop
    #[arg(long, short, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// From one probe to a hop to the next; many routers answer no more than one a second
    #[arg(long, short, value_name = "DURATION", default_value = "1s", value_parser = parse_interval)]
    pub interval: Duration,
    /// Send ICMP echo requests instead
    #[arg(long)]
    pub icmp: bool,
    /// Most hops
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub max_hops: u8,
    /// Use the host's IPv4 address
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Use the host's IPv6 address
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Send from the network namespace of this process
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Ask the agent at this address what it last found instead of sending probes
    #[arg(long, value_name = "URL", conflicts_with_all = ["count", "interval", "icmp", "max_hops", "ipv4", "ipv6", "pid"])]
    pub agent: Option<String>,
}

/// Faster than this is no measurement but load.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(50) || interval > Duration::from_hours(1) {
        return Err(format!("{text} is out of range, 50ms to 1h"));
    }
    Ok(interval)
}
