//! Sends given bytes on one connection and waits for its end: hellos that no library would send.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Arguments of `lab internal raw`.
#[derive(Debug, clap::Args)]
pub(crate) struct RawArguments {
    #[arg(long)]
    to: SocketAddr,
    /// What to send, in hexadecimal digits.
    #[arg(long)]
    send: String,
}

/// Sends, and prints what came back as hexadecimal digits.
pub(crate) fn run(arguments: &RawArguments) -> Result<()> {
    let mut stream = TcpStream::connect(arguments.to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&from_digits(&arguments.send)?)?;
    let mut answer = Vec::new();
    // A reset behind the answer is an end like any other.
    let ended = stream.read_to_end(&mut answer);
    println!("{}", to_digits(&answer));
    if let Err(error) = ended {
        println!("{error}");
    }
    Ok(())
}

/// Two hexadecimal digits a byte.
pub(crate) fn to_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_digits(digits: &str) -> Result<Vec<u8>> {
    let pairs = (0..digits.len()).step_by(2);
    pairs
        .map(|at| {
            let pair = digits.get(at..at + 2).context("an odd number of digits")?;
            Ok(u8::from_str_radix(pair, 16)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_go_both_ways() {
        assert_eq!(from_digits(&to_digits(&[0, 22, 255])).expect("digits"), [0, 22, 255]);
        assert!(from_digits("1").is_err());
    }
}
