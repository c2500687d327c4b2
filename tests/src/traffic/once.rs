//! The shortest life with a connection in it: started, connected, closed, gone. Parses nothing that it does not need.

use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

/// First argument of such a process.
pub(super) const WORD: &str = "connect-once";

/// What such a process writes to its stdout: its number and its local port (0: the connect failed), little-endian.
pub(super) const REPORT_BYTES: usize = 6;

/// Called before anything else: `connect-once ADDRESS NUMBER` connects and ends; other command lines go on.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != WORD {
        return None;
    }
    let address: SocketAddr = arguments.next()?.to_str()?.parse().ok()?;
    let number: u32 = arguments.next()?.to_str()?.parse().ok()?;
    let stream = TcpStream::connect(address);
    let port = stream
        .as_ref()
        .ok()
        .and_then(|stream| stream.local_addr().ok())
        .map_or(0, |address| address.port());
    let mut report = [0; REPORT_BYTES];
    report[..4].copy_from_slice(&number.to_le_bytes());
    report[4..].copy_from_slice(&port.to_le_bytes());
    // One write below PIPE_BUF, past the line buffer of `stdout`: reports of many processes do not mix.
    let written = nix::unistd::write(std::io::stdout(), &report);
    Some(if written.is_ok_and(|bytes| bytes == REPORT_BYTES) && port != 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
