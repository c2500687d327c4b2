//! A resolver that answers by a table: each name with its addresses, its alias and its delay; and tricks of others that
//! would like a client to believe them. Knows UDP alone, and asks nobody.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use serde::{Deserialize, Serialize};

use super::message::{A, AAAA, Question};

/// Answers that wait for their time, at once.
const THREADS: usize = 16;
/// Asked for whatever has no line of its own in the table: `*.` and its parent.
const ANY: &str = "*.";
const NXDOMAIN: u8 = 3;

/// Where lies point: nobody in the lab resolves to these.
pub(crate) const FALSE: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 6);
/// The same of an answer that nobody asked for.
pub(crate) const GHOST: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 7);
/// Name in answers to questions that nobody asked.
const OTHER: &str = "ghost.lab.test";

/// Arguments of `lab internal resolver`.
#[derive(Debug, clap::Args)]
pub(crate) struct ResolverArguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Names with their [`Entry`], as JSON.
    #[arg(long)]
    table: PathBuf,
    /// Another address that answers only what was asked of the first, with a lie.
    #[arg(long)]
    liar: Option<SocketAddr>,
    /// An address that takes queries and never answers.
    #[arg(long)]
    silent: Option<SocketAddr>,
}

/// What a name has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) addresses: Vec<IpAddr>,
    /// It is an alias of this, which has the addresses.
    pub(crate) alias: Option<String>,
    pub(crate) delay_us: u64,
    pub(crate) trick: Option<Trick>,
}

/// What happens beside the answer, or instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trick {
    /// Four answers with lies come first: nobody asked, wrong id, another question, another server.
    Spoofed,
    /// Each name has an address of its own.
    Spread,
    /// The answer's name has no end.
    Circle,
}

/// Names with what they have.
pub(crate) type Table = BTreeMap<String, Entry>;

/// Listens, says `ready`, and answers until stdin closes.
pub(crate) fn run(arguments: &ResolverArguments) -> Result<()> {
    let bind = |address| UdpSocket::bind(address).with_context(|| format!("listening on {address}"));
    let table: Table = serde_json::from_slice(&fs::read(&arguments.table)?).context("the table")?;
    let resolver = Arc::new(Resolver {
        socket: bind(arguments.listen)?,
        liar: arguments.liar.map(bind).transpose()?,
        table,
    });
    // Clients ask the kernel when answers arrived: it only begins to write that down a moment after the first who asks.
    setsockopt(&resolver.socket, ReceiveTimestampns, &true)?;
    for _ in 0..THREADS {
        let resolver = Arc::clone(&resolver);
        thread::spawn(move || resolver.serve());
    }
    if let Some(silent) = arguments.silent.map(bind).transpose()? {
        thread::spawn(move || while silent.recv(&mut [0; 512]).is_ok() {});
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Resolver {
    socket: UdpSocket,
    liar: Option<UdpSocket>,
    table: Table,
}

impl Resolver {
    fn serve(&self) {
        let mut buffer = [0; 4096];
        // A client that is gone is no reason to stop, nor is what is no query.
        loop {
            let Ok((length, client)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            if let Some(question) = Question::read(&buffer[..length]) {
                self.answer(&question, client);
            }
        }
    }

    fn answer(&self, question: &Question, client: SocketAddr) {
        let Some(entry) = self.find(&question.name) else {
            self.say(&question.answered(NXDOMAIN, None, &[], 0), client);
            return;
        };
        let family = |address: &IpAddr| match question.kind {
            A => address.is_ipv4(),
            AAAA => address.is_ipv6(),
            _ => false,
        };
        let mut addresses: Vec<IpAddr> = entry.addresses.iter().copied().filter(family).collect();
        match entry.trick {
            Some(Trick::Spoofed) => self.lie(question, client),
            Some(Trick::Spread) => addresses = vec![own_address(&question.name)],
            Some(Trick::Circle) => return self.say(&question.answered_in_circles(), client),
            None => {}
        }
        // Not before: the delay is the least that a client may see.
        thread::sleep(Duration::from_micros(entry.delay_us));
        self.say(&question.answered(0, entry.alias.as_deref(), &addresses, 300), client);
    }

    /// Capitals make no difference, and come back in the question as they were sent.
    fn find(&self, name: &str) -> Option<&Entry> {
        let name = &*name.to_ascii_lowercase();
        let parent = || name.split_once('.').map(|(_, parent)| format!("{ANY}{parent}"));
        self.table.get(name).or_else(|| self.table.get(&parent()?))
    }

    fn lie(&self, question: &Question, client: SocketAddr) {
        let about = |id: u16, name: &str, address: Ipv4Addr| {
            let question = Question {
                id,
                name: name.to_owned(),
                kind: A,
            };
            question.answered(0, None, &[address.into()], 300)
        };
        let Question { id, name, .. } = question;
        self.say(&about(id.wrapping_add(7), OTHER, GHOST), client);
        self.say(&about(id.wrapping_add(1), name, FALSE), client);
        self.say(&about(*id, OTHER, FALSE), client);
        if let Some(liar) = &self.liar {
            // Connected sockets do not get it, which is no error here.
            drop(liar.send_to(&about(*id, name, FALSE), client));
        }
    }

    fn say(&self, message: &[u8], client: SocketAddr) {
        // A client may have gone.
        drop(self.socket.send_to(message, client));
    }
}

/// The address of a name with [`Trick::Spread`], which few other names have.
pub(crate) fn own_address(name: &str) -> IpAddr {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let [a, b, c, _] = hash.to_be_bytes();
    IpAddr::from([127, 64 | (a & 63), b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_line_have_their_parents() {
        let entry = |delay_us| Entry {
            delay_us,
            ..Entry::default()
        };
        let resolver = Resolver {
            socket: UdpSocket::bind("127.0.0.1:0").expect("a socket"),
            liar: None,
            table: [("a.lab.test", entry(1)), ("*.lab.test", entry(2))]
                .map(|(name, entry)| (name.to_owned(), entry))
                .into(),
        };
        let delay = |name| resolver.find(name).map(|entry| entry.delay_us);
        assert_eq!(delay("A.lab.Test"), Some(1));
        assert_eq!(delay("b.lab.test"), Some(2));
        assert_eq!(delay("lab.test"), None);
    }
}
