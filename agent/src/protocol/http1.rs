//! Heads of HTTP/1 in clear (RFC 9112): for whom the first request is, and the status of the first answer.
//!
//! Reads the first bytes of each direction, at most [`HTTP_LIMIT`]; a head that is cut off gives what its whole lines
//! say. Bodies, paths and other headers leave no trace.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_ebpf::hello::HTTP_LIMIT;

use super::host_name::HostName;

/// Bytes of the longest method that is believed; `UPDATEREDIRECTREF` is the longest that is registered.
const METHOD_LIMIT: usize = 20;

/// The method of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `CONNECT`: what follows a 2xx answer is another protocol.
    Connect,
    /// Any other.
    Other(Box<str>),
}

impl Method {
    /// As it stands in the request line.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Connect => "CONNECT",
            Self::Other(name) => name,
        }
    }
}

/// A host, by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(HostName),
    /// An address.
    Address(IpAddr),
}

/// Host and, where it is told, port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, when it is written.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `name`, `name:port`, `192.0.2.1:80` or `[2001:db8::1]:80`.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if let Some(inside) = bytes.strip_prefix(b"[") {
            let end = inside.iter().position(|byte| *byte == b']')?;
            let address: Ipv6Addr = std::str::from_utf8(&inside[..end]).ok()?.parse().ok()?;
            let port = optional_port(&inside[end + 1..]).ok()?;
            return Some(Self {
                host: Host::Address(address.into()),
                port,
            });
        }
        let end = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
        let (host, port) = bytes.split_at(end);
        let host = match std::str::from_utf8(host).ok()?.parse::<Ipv4Addr>() {
            Ok(address) => Host::Address(address.into()),
            Err(_) => Host::Name(HostName::parse(host)?),
        };
        Some(Self {
            host,
            port: optional_port(port).ok()?,
        })
    }
}

/// What follows a host: nothing, a lone colon (RFC 3986 allows it) or a colon and a number. Fails on anything else.
fn optional_port(bytes: &[u8]) -> Result<Option<u16>, NoPort> {
    match bytes {
        [] | [b':'] => Ok(None),
        [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            number.map(Some).ok_or(NoPort)
        }
        _ => Err(NoPort),
    }
}

/// What should have been a port is none.
struct NoPort;

/// Whom a request claims to be for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostClaim {
    /// It does not say.
    #[default]
    Absent,
    /// This one.
    Authority(Authority),
    /// Neither host name nor address, or two that differ: counted, never learned.
    Invalid,
}

/// The first line and the host of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: Method,
    /// The target as written; not to be kept.
    pub target: &'a [u8],
    /// Whom it is for: CONNECT's target, else the authority in the target, else Host.
    pub host: HostClaim,
    /// The end of the head was seen: no Host can follow.
    pub is_complete: bool,
}

impl RequestHead<'_> {
    /// A number that requests with the same method, path and query share: a proxy may write the host in another place.
    /// `None` for CONNECT.
    pub fn line_hash(&self) -> Option<u64> {
        let Method::Other(method) = &self.method else {
            return None;
        };
        let after_scheme = authority_of(self.target).and_then(|_| self.target.windows(3).position(|at| at == b"://"));
        let path = match after_scheme {
            Some(at) => {
                let rest = &self.target[at + 3..];
                let begin = rest.iter().position(|byte| b"/?#".contains(byte));
                begin.map_or(&b"/"[..], |begin| &rest[begin..])
            }
            None => self.target,
        };
        let mut hasher = DefaultHasher::new();
        (method, path).hash(&mut hasher);
        Some(hasher.finish())
    }
}

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Parsed<T> {
    /// A head.
    Head(T),
    /// The start of one, so far.
    Incomplete,
    /// No HTTP/1.
    Malformed,
}

/// Reads the first bytes of a client.
pub fn request_head(bytes: &[u8]) -> Parsed<RequestHead<'_>> {
    let bytes = &bytes[..bytes.len().min(HTTP_LIMIT)];
    // An empty line before the request is tolerated (RFC 9112 section 2.2).
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if bytes == b"\r" {
        return Parsed::Incomplete;
    }
    let mut lines = Lines { rest: bytes };
    let Some(first) = lines.next() else {
        let is_start = bytes
            .iter()
            .take(METHOD_LIMIT + 1)
            .take_while(|byte| **byte != b' ')
            .all(|byte| is_token(*byte));
        let is_possible = is_start && (bytes.len() <= METHOD_LIMIT || bytes[..=METHOD_LIMIT].contains(&b' '));
        return if is_possible {
            Parsed::Incomplete
        } else {
            Parsed::Malformed
        };
    };
    let Some((method, target)) = request_line(first) else {
        return Parsed::Malformed;
    };
    let mut in_header = HostClaim::Absent;
    let mut is_complete = false;
    for line in &mut lines {
        if line.is_empty() {
            is_complete = true;
            break;
        }
        if let Some(value) = header(line, b"host") {
            in_header = match (in_header, claim(value)) {
                (HostClaim::Absent, claim) => claim,
                (earlier, claim) if earlier == claim => earlier,
                _ => HostClaim::Invalid,
            };
        }
    }
    let host = match (&method, authority_of(target)) {
        (Method::Connect, _) => claim(target),
        (Method::Other(_), Some(authority)) => claim(authority),
        (Method::Other(_), None) => in_header,
    };
    Parsed::Head(RequestHead {
        method,
        target,
        host,
        is_complete,
    })
}

/// Reads the status of the first answer that is not interim: 1xx ones are passed over, but for 101, which ends HTTP.
pub fn status(bytes: &[u8]) -> Parsed<u16> {
    let mut lines = Lines {
        rest: &bytes[..bytes.len().min(HTTP_LIMIT)],
    };
    loop {
        let before = lines.rest;
        let Some(line) = lines.next() else {
            let known = before.len().min(7);
            return if before[..known] == b"HTTP/1."[..known] {
                Parsed::Incomplete
            } else {
                Parsed::Malformed
            };
        };
        match status_line(line) {
            None => return Parsed::Malformed,
            Some(100 | 102..=199) => {}
            Some(status) => return Parsed::Head(status),
        }
        loop {
            match lines.next() {
                None => return Parsed::Incomplete,
                Some([]) => break,
                Some(_) => {}
            }
        }
    }
}

fn request_line(line: &[u8]) -> Option<(Method, &[u8])> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_method = (1..=METHOD_LIMIT).contains(&method.len()) && method.iter().all(|byte| is_token(*byte));
    let is_target = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    if !is_method || !is_target || !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") || words.next().is_some() {
        return None;
    }
    let method = match method {
        b"CONNECT" => Method::Connect,
        other => Method::Other(std::str::from_utf8(other).ok()?.into()),
    };
    Some((method, target))
}

fn status_line(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    match *rest {
        [
            b'0' | b'1',
            b' ',
            a @ b'1'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            ref reason @ ..,
        ] if reason.first().is_none_or(|byte| *byte == b' ') => {
            let digit = |byte: u8| u16::from(byte - b'0');
            Some(digit(a) * 100 + digit(b) * 10 + digit(c))
        }
        _ => None,
    }
}

/// A character of a method or of a header's name (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The value, without white space around it, when the line is that header.
fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    line[..colon]
        .eq_ignore_ascii_case(name)
        .then(|| line[colon + 1..].trim_ascii())
}

/// The authority of a target in absolute form, without user information.
fn authority_of(target: &[u8]) -> Option<&[u8]> {
    let at = target.windows(3).position(|window| window == b"://")?;
    if at == 0 || !target[..at].iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    let rest = &target[at + 3..];
    let authority = rest.split(|byte| b"/?#".contains(byte)).next()?;
    authority.rsplit(|byte| *byte == b'@').next()
}

fn claim(authority: &[u8]) -> HostClaim {
    match Authority::parse(authority) {
        Some(authority) => HostClaim::Authority(authority),
        // An empty Host is how a client says that the target has no authority.
        None if authority.is_empty() => HostClaim::Absent,
        None => HostClaim::Invalid,
    }
}

/// Whole lines, without their ends.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests;
