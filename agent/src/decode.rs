//! One ring-buffer sample to one [`Event`]. Pure and total: any bytes give an event or a named error, never a panic.
//!
//! Must not read clocks, files or state. The pipeline is the only caller.
use agent_ebpf::{
    dns::DnsHeader,
    event::{
        CGROUP_MKDIR, CONNECTION_CLOSE, CONNECTION_OPEN, CONNECTION_UPDATE, ConnectionEvent, DNS_MESSAGE, EventHeader,
        HELLO_BYTES, LISTENER_OPEN, PROCESS_EXEC, PROCESS_EXIT, PROCESS_FORK, RTT_WINDOW, SYNACK_RETRANSMIT,
        TLS_CERTIFICATE, TLS_FACT, TLS_PROTOCOL, TURNS, TurnsEvent,
    },
    hello::HelloHeader,
    process::{CgroupEvent, ExecEvent, ExitEvent, ForkEvent},
    rtt::RttEvent,
    tls_fact::{TlsCertificate, TlsFact, TlsProtocol},
};

/// What the kernel side said. Decoded, applied and gone: a box would cost an allocation for each connection event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// First bytes of a conversation: the header, and what is behind it.
    Hello(HelloHeader, &'a [u8]),
    /// A DNS message, or a piece of a stream of them: the header, and what is behind it.
    Dns(DnsHeader, &'a [u8]),
    /// `CONNECTION_*`, `LISTENER_OPEN` or `SYNACK_RETRANSMIT`: the header's kind tells.
    Connection(ConnectionEvent),
    /// RTT samples of a connection that has lived for a while.
    Rtt(RttEvent),
    /// Turns of a connection that is known.
    Turns(TurnsEvent),
    /// What a TLS library said.
    TlsFact(TlsFact),
    /// The certificate that it looked at: the header, and what is behind it.
    TlsCertificate(TlsCertificate, &'a [u8]),
    /// The protocol that a handshake agreed on.
    TlsProtocol(TlsProtocol),
    /// A process was forked.
    Fork(ForkEvent),
    /// A process executed a program.
    Exec(Box<ExecEvent>),
    /// A process ended.
    Exit(ExitEvent),
    /// A cgroup was made.
    Cgroup(Box<CgroupEvent>),
}

impl Event<'_> {
    /// What every event starts with.
    pub fn header(&self) -> &EventHeader {
        match self {
            Self::Hello(hello, _) => &hello.header,
            Self::Dns(dns, _) => &dns.header,
            Self::Connection(event) => &event.header,
            Self::Rtt(event) => &event.header,
            Self::Turns(event) => &event.header,
            Self::TlsFact(event) => &event.header,
            Self::TlsCertificate(event, _) => &event.header,
            Self::TlsProtocol(event) => &event.header,
            Self::Fork(event) => &event.header,
            Self::Exec(event) => &event.header,
            Self::Exit(event) => &event.header,
            Self::Cgroup(event) => &event.header,
        }
    }
}

/// Why bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the event needs.
    #[error("an event of {expected} bytes is cut after {actual}")]
    Truncated {
        /// Bytes that the header or its kind asks for.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// A kind that this version does not know.
    #[error("unknown kind of event {0}")]
    UnknownKind(u32),
    /// The size in the header, the kind and the number of bytes do not agree.
    #[error("an event of kind {kind} says {stated} bytes, has {actual}, should have {expected}")]
    WrongSize {
        /// The kind in the header.
        kind: u32,
        /// The size in the header.
        stated: u32,
        /// Bytes that are there.
        actual: usize,
        /// Bytes that the kind has.
        expected: usize,
    },
}

/// Decodes one whole sample.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, DecodeError> {
    let header: EventHeader = read(bytes)?;
    match header.kind {
        CONNECTION_OPEN | CONNECTION_UPDATE | CONNECTION_CLOSE | SYNACK_RETRANSMIT | LISTENER_OPEN => {
            body(bytes, &header).map(Event::Connection)
        }
        HELLO_BYTES => {
            let (header, rest) = with_bytes(bytes, |header: &HelloHeader| (header.header, header.length))?;
            Ok(Event::Hello(header, rest))
        }
        DNS_MESSAGE => {
            let (header, rest) = with_bytes(bytes, |header: &DnsHeader| (header.header, header.length))?;
            Ok(Event::Dns(header, rest))
        }
        RTT_WINDOW => body(bytes, &header).map(Event::Rtt),
        TURNS => body(bytes, &header).map(Event::Turns),
        TLS_FACT => body(bytes, &header).map(Event::TlsFact),
        TLS_CERTIFICATE => {
            let (header, rest) = with_bytes(bytes, |header: &TlsCertificate| (header.header, header.length))?;
            Ok(Event::TlsCertificate(header, rest))
        }
        TLS_PROTOCOL => body(bytes, &header).map(Event::TlsProtocol),
        PROCESS_FORK => body(bytes, &header).map(Event::Fork),
        PROCESS_EXEC => body(bytes, &header).map(|event| Event::Exec(Box::new(event))),
        PROCESS_EXIT => body(bytes, &header).map(Event::Exit),
        CGROUP_MKDIR => body(bytes, &header).map(|event| Event::Cgroup(Box::new(event))),
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}

/// Reads an event with bytes behind it: the size is that of the room it was given, `length` that of what is in it.
fn with_bytes<T: Wire>(bytes: &[u8], said: impl FnOnce(&T) -> (EventHeader, u16)) -> Result<(T, &[u8]), DecodeError> {
    let event: T = read(bytes)?;
    let (header, length) = said(&event);
    let rest = &bytes[size_of::<T>()..];
    if header.size as usize != bytes.len() || usize::from(length) > rest.len() {
        return Err(DecodeError::WrongSize {
            kind: header.kind,
            stated: header.size,
            actual: bytes.len(),
            expected: size_of::<T>() + usize::from(length),
        });
    }
    Ok((event, &rest[..usize::from(length)]))
}

/// Reads an event whose bytes, stated size and type must be of one length.
fn body<T: Wire>(bytes: &[u8], header: &EventHeader) -> Result<T, DecodeError> {
    let event = read(bytes)?;
    if bytes.len() != size_of::<T>() || header.size as usize != size_of::<T>() {
        return Err(DecodeError::WrongSize {
            kind: header.kind,
            stated: header.size,
            actual: bytes.len(),
            expected: size_of::<T>(),
        });
    }
    Ok(event)
}

/// Reads a `T` from the first bytes, whatever their alignment.
fn read<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() < size_of::<T>() {
        return Err(DecodeError::Truncated {
            expected: size_of::<T>(),
            actual: bytes.len(),
        });
    }
    // SAFETY: the slice holds at least `size_of::<T>()` readable bytes (just checked), `read_unaligned` asks for no
    // alignment, and every bit pattern is a `T` (the promise of `Wire`).
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A type of `agent_ebpf` that travels through the rings.
///
/// # Safety
/// `repr(C)`, and every bit pattern is a valid value: integers and arrays of integers only.
unsafe trait Wire: Copy {}

// SAFETY: `repr(C)`, integers only.
unsafe impl Wire for EventHeader {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Wire for HelloHeader {}
// SAFETY: `repr(C)`, integers and byte arrays only.
unsafe impl Wire for DnsHeader {}
// SAFETY: `repr(C)`, integers and byte arrays only, nested structs included.
unsafe impl Wire for ConnectionEvent {}
// SAFETY: `repr(C)`, integers and arrays of them only, nested structs included.
unsafe impl Wire for RttEvent {}
// SAFETY: as above.
unsafe impl Wire for TurnsEvent {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Wire for TlsFact {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Wire for TlsCertificate {}
// SAFETY: `repr(C)`, integers and a byte array only.
unsafe impl Wire for TlsProtocol {}
// SAFETY: `repr(C)`, integers and byte arrays only.
unsafe impl Wire for ForkEvent {}
// SAFETY: `repr(C)`, integers and byte arrays only.
unsafe impl Wire for ExecEvent {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Wire for ExitEvent {}
// SAFETY: `repr(C)`, integers and byte arrays only.
unsafe impl Wire for CgroupEvent {}
