//! A front before a TLS server, for connections in which TLS begins late: an HTTP proxy that knows CONNECT, a mail server
//! with STARTTLS, a PostgreSQL server that is asked for TLS. Behind the cleartext it copies bytes.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

/// Arguments of `lab internal relay`.
#[derive(Debug, clap::Args)]
pub(crate) struct RelayArguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Where everything goes, whatever a client asks for.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    speak: Preamble,
}

/// What is said in the clear before TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preamble {
    /// RFC 9110 section 9.3.6.
    Connect,
    /// RFC 3207.
    Smtp,
    /// `SSLRequest`.
    Postgres,
}

impl Preamble {
    /// Its name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Smtp => "smtp",
            Self::Postgres => "postgres",
        }
    }
}

/// Listens, says `ready`, and serves until stdin closes.
pub(crate) fn run(arguments: &RelayArguments) -> Result<()> {
    let listener = TcpListener::bind(arguments.listen).with_context(|| format!("listening on {}", arguments.listen))?;
    let (to, speak) = (arguments.to, arguments.speak);
    thread::spawn(move || {
        // A client that leaves early is no reason to stop.
        for client in listener.incoming().flatten() {
            thread::spawn(move || serve(client, to, speak));
        }
    });
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Errors end the connection: the client tells what it saw.
fn serve(client: TcpStream, to: SocketAddr, speak: Preamble) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    match speak {
        Preamble::Connect => connect(&mut reader, &client)?,
        Preamble::Smtp => smtp(&mut reader, &client)?,
        Preamble::Postgres => {
            reader.read_exact(&mut [0; 8])?;
            (&client).write_all(b"S")?;
        }
    }
    let server = TcpStream::connect(to)?;
    (&server).write_all(reader.buffer())?;
    thread::scope(|scope| {
        scope.spawn(|| copy(&client, &server));
        copy(&server, &client);
    });
    Ok(())
}

/// Takes the head of the request and answers it.
fn connect(reader: &mut BufReader<TcpStream>, mut client: &TcpStream) -> io::Result<()> {
    while line(reader)? != "" {}
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
}

fn smtp(reader: &mut BufReader<TcpStream>, mut client: &TcpStream) -> io::Result<()> {
    client.write_all(b"220 lab ESMTP\r\n")?;
    loop {
        let command = line(reader)?.to_ascii_uppercase();
        if command == "STARTTLS" {
            return client.write_all(b"220 go ahead\r\n");
        }
        client.write_all(b"250-lab\r\n250 STARTTLS\r\n")?;
    }
}

/// The next line without its end; the end of the connection is an error.
fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// To the end of what `from` sends; either side's end is handed on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    if io::copy(&mut from, &mut to).is_ok() {
        // The other side may be gone already.
        drop(to.shutdown(Shutdown::Write));
    } else {
        drop(to.shutdown(Shutdown::Both));
    }
}
