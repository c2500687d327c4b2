//! A name server that does as its names say (`script`), over UDP and TCP, and writes down each query that it got: the truth
//! of the scenario `dns`. `astray` asks it for what no resolver would.

pub(crate) mod astray;
pub(crate) mod message;
pub(crate) mod script;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use message::{Answer, NOERROR, Query};
use script::{Deed, Mischief, rcode_name, type_name};

/// Arguments of `lab internal dns`.
#[derive(Debug, clap::Args)]
pub(crate) struct DnsArguments {
    /// Addresses to answer on.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Where answers of another server come from.
    #[arg(long)]
    other: Option<SocketAddr>,
    /// A line of JSON for each query.
    #[arg(long)]
    log: PathBuf,
    /// Which queries are lost.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Logged {
    /// Wall clock.
    pub(crate) time_ns: u64,
    /// `udp` or `tcp`.
    pub(crate) transport: String,
    pub(crate) source: SocketAddr,
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) qtype: String,
    /// The answer's rcode; `DROP` where there was none.
    pub(crate) rcode: String,
    pub(crate) truncated: bool,
}

struct Server {
    log: Mutex<Log>,
    other: Option<UdpSocket>,
    seed: u64,
}

struct Log {
    file: File,
    repeats: HashMap<(String, u16), u32>,
}

/// Answers until stdin closes.
pub(crate) fn run(arguments: &DnsArguments) -> Result<()> {
    let server = Arc::new(Server {
        log: Mutex::new(Log {
            file: File::create(&arguments.log)?,
            repeats: HashMap::new(),
        }),
        other: arguments.other.map(UdpSocket::bind).transpose()?,
        seed: arguments.seed,
    });
    for address in &arguments.listen {
        let socket = UdpSocket::bind(address).with_context(|| format!("binding {address}"))?;
        let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        let (datagrams, streams) = (Arc::clone(&server), Arc::clone(&server));
        thread::spawn(move || datagrams.datagrams(&Arc::new(socket)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&streams);
                // A client that is gone tells what it saw itself.
                thread::spawn(move || drop(server.stream(stream)));
            }
        });
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What the server wrote so far.
pub(crate) fn read_log(path: &Path) -> Result<Vec<Logged>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

impl Server {
    fn datagrams(&self, socket: &Arc<UdpSocket>) {
        let mut buffer = [0; 4096];
        while let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let answer = |bytes: &[u8]| drop(socket.send_to(bytes, source));
            let Some(query) = Query::read(&buffer[..length]) else {
                // Noise is answered with the same noise, back to front.
                buffer[..length].reverse();
                answer(&buffer[..length]);
                continue;
            };
            match self.decide(&query, source, true) {
                Deed::Drop => {}
                Deed::Answer { after, answer: said } if after.is_zero() => answer(&said.encode(&query)),
                Deed::Answer { after, answer } => {
                    let socket = Arc::clone(socket);
                    thread::spawn(move || {
                        thread::sleep(after);
                        drop(socket.send_to(&answer.encode(&query), source));
                    });
                }
                Deed::Mischief(mischief) => self.mischief(mischief, socket, &query, source),
            }
        }
    }

    /// Each message behind its length (RFC 7766), one after the other.
    fn stream(&self, mut stream: TcpStream) -> Result<()> {
        let source = stream.peer_addr()?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes)?;
            let query = Query::read(&bytes).context("no query")?;
            if let Deed::Answer { answer, .. } = self.decide(&query, source, false) {
                let bytes = answer.encode(&query);
                stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat())?;
            }
        }
    }

    /// Decides and writes it down.
    fn decide(&self, query: &Query, source: SocketAddr, is_udp: bool) -> Deed {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut log = self.log.lock().expect("no thread panics with the log");
        let asked = log.repeats.entry((query.name.clone(), query.kind)).or_default();
        let deed = script::deed(query, is_udp, *asked, self.seed);
        *asked += 1;
        let (rcode, truncated) = match &deed {
            Deed::Drop => ("DROP", false),
            Deed::Answer { answer, .. } => (rcode_name(answer.rcode), answer.truncated),
            Deed::Mischief(_) => (rcode_name(NOERROR), false),
        };
        let line = Logged {
            time_ns: time.map_or(0, |time| time.as_nanos() as u64),
            transport: if is_udp { "udp" } else { "tcp" }.to_owned(),
            source,
            id: query.id,
            name: query.name.clone(),
            qtype: type_name(query.kind).to_owned(),
            rcode: rcode.to_owned(),
            truncated,
        };
        let text = serde_json::to_string(&line).expect("a line of plain values");
        // In one piece: who reads it sees whole lines.
        log.file
            .write_all((text + "\n").as_bytes())
            .expect("the lab's directory is writable");
        deed
    }

    fn mischief(&self, mischief: Mischief, socket: &UdpSocket, query: &Query, source: SocketAddr) {
        let token = query.name.split('.').next().unwrap_or_default();
        let right = Answer {
            addresses: script::addresses(token, query.kind),
            ..Answer::default()
        };
        let wrong = Answer {
            addresses: script::addresses("wrong", query.kind),
            ..Answer::default()
        };
        let (from, bytes) = match mischief {
            Mischief::Twice => (Some(socket), right.encode(query)),
            Mischief::Unasked => {
                let mut unasked = query.clone();
                unasked.id = !query.id;
                (Some(socket), wrong.encode(&unasked))
            }
            Mischief::OtherQuestion => (Some(socket), wrong.encode(&query.about("other.lab.test"))),
            Mischief::OtherServer => (self.other.as_ref(), wrong.encode(query)),
        };
        if let Some(from) = from {
            drop(from.send_to(&bytes, source));
        }
        // The order of datagrams from two sockets is nobody's promise.
        thread::sleep(Duration::from_millis(20));
        drop(socket.send_to(&right.encode(query), source));
    }
}
