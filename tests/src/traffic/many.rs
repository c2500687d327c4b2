//! Connects to thousands of addresses at an even rate, to the first few again and again. The count is its truth.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// One connection in so many is to one of the busy addresses.
const BUSY_EVERY: u32 = 2;
/// Busy addresses.
pub(crate) const BUSY: u32 = 10;
const LIMIT: Duration = Duration::from_secs(5);

/// Arguments of `lab internal many`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManyArguments {
    #[arg(long)]
    port: u16,
    /// Different addresses.
    #[arg(long)]
    count: u32,
    /// Spread over so long.
    #[arg(long)]
    seconds: u64,
}

/// The address of this number.
pub(crate) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 98, 0, 1).to_bits() + number)
}

/// Connects, and prints how many connections were made.
pub(crate) fn run(arguments: &ManyArguments) {
    let start = Instant::now();
    let all = arguments.count * BUSY_EVERY;
    let every = Duration::from_secs(arguments.seconds) / all;
    let mut made = 0;
    for number in 0..all {
        thread::sleep((start + every * number).saturating_duration_since(Instant::now()));
        let to = if number % BUSY_EVERY == 0 {
            (number / BUSY_EVERY) % BUSY
        } else {
            number / BUSY_EVERY
        };
        let to = SocketAddr::new(address(to).into(), arguments.port);
        made += u32::from(TcpStream::connect_timeout(&to, LIMIT).is_ok());
    }
    println!("{made}");
}
