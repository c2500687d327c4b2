//! Fills an observer's tables from outside: connections that stay, listeners, lookups, processes, each with the longest
//! names that there are. Each way prints `ready` and stays; on a line `more` it goes on and prints `done`.

mod connections;
mod lookups;
mod processes;

use std::io::{self, BufRead as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

pub(crate) use lookups::serve;

/// Arguments of `lab internal fill`.
#[derive(Debug, clap::Args)]
pub(crate) struct FillArguments {
    way: Way,
    /// Connections, listeners, lookups or processes.
    #[arg(long)]
    count: u32,
    /// The first number in names: generators that run at once have names of their own.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// An empty directory for the programs' names.
    #[arg(long)]
    links: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Pairs of sockets over loopback, each with a host of its own.
    Connections,
    /// Sockets that listen.
    Listeners,
    /// Lookups over UDP, each of a name of its own; `more` are queries that nobody answers.
    Lookups,
    /// Processes that stay, each with a program of its own.
    Processes,
}

/// Runs until stdin closes.
pub(crate) fn run(arguments: &FillArguments) -> Result<()> {
    let FillArguments {
        way,
        count,
        first,
        links,
    } = arguments;
    match way {
        Way::Connections => connections::run(*first, *count),
        Way::Listeners => listeners(*first, *count),
        Way::Lookups => lookups::run(*first, *count),
        Way::Processes => processes::run(*count, links.as_deref()),
    }
}

/// A host name of 253 bytes with this number in it.
fn long_name(number: u32) -> String {
    let filler = "x".repeat(60);
    format!("{number:060}.{filler}.{filler}.{filler}.lab.test")
}

/// Prints `ready`, then answers each line with one more round.
fn stay(mut round: impl FnMut() -> Result<()>) -> Result<()> {
    println!("ready");
    for line in io::stdin().lock().lines() {
        line?;
        round()?;
        println!("done");
    }
    Ok(())
}

fn listeners(first: u32, count: u32) -> Result<()> {
    /// A ring of the usual size takes so many at once, and is read every 50 ms.
    const AT_ONCE: u32 = 1_000;
    const PORTS: u32 = 20_000;
    let mut held = Vec::new();
    for number in first..first + count {
        let address = format!("127.1.0.{}:{}", 1 + number / PORTS, 20_000 + number % PORTS);
        held.push(TcpListener::bind(address)?);
        if number % AT_ONCE == 0 {
            thread::sleep(Duration::from_millis(100));
        }
    }
    stay(|| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_long_as_names_may_be() {
        assert_eq!(long_name(u32::MAX).len(), 252);
        assert_ne!(long_name(1), long_name(2));
    }
}
