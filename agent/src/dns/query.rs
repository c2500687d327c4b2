//! A query, what was seen of it, and how it ended.
use std::net::SocketAddr;

use crate::{
    connection::Role,
    protocol::dns::{Answers, Message, Question, ResponseCode},
};

/// What a message came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream (RFC 7766).
    Tcp,
}

/// A message that passed a socket.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The socket's cookie.
    pub socket: u64,
    /// Which side the socket is: the one that asks, or the one that answers.
    pub role: Role,
    /// What it came by.
    pub transport: Transport,
    /// It went the way of queries: out of a client, into a server.
    pub is_query_direction: bool,
    /// The other side: for a client the resolver.
    pub peer: SocketAddr,
    /// The process that has the socket; 0 when unknown.
    pub pid: u32,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Its network namespace, by inode number.
    pub netns: u32,
    /// What was said.
    pub message: &'a Message,
}

/// A query that was sent, or came in at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Unlike that of any other query of this agent; grows.
    pub number: u64,
    /// Which side was observed.
    pub role: Role,
    /// What it went by.
    pub transport: Transport,
    /// The socket's cookie.
    pub socket: u64,
    /// The other side: for a client the resolver.
    pub peer: SocketAddr,
    /// The process that has the socket; 0 when unknown.
    pub pid: u32,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Its network namespace, by inode number.
    pub netns: u32,
    /// The message's id.
    pub id: u16,
    /// What is asked.
    pub question: Question,
    /// When it passed, nanoseconds.
    pub sent_ns: u64,
    /// The same was asked before on this socket, of the same server with the same id, and had no answer yet.
    pub is_retry: bool,
}

/// How a query or a lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ending {
    /// With an answer, which has this response code.
    Answered(u16),
    /// With none in time.
    Timeout,
}

impl Ending {
    /// The label value: the response code's name, or `TIMEOUT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered(rcode) => ResponseCode::of(rcode).name(),
            Self::Timeout => "TIMEOUT",
        }
    }

    /// True for NOERROR.
    pub fn is_no_error(self) -> bool {
        self == Self::Answered(0)
    }
}

/// A query that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The query.
    pub query: Query,
    /// How it ended.
    pub ending: Ending,
    /// When: the answer's time, or that of the time-out; nanoseconds.
    pub ended_ns: u64,
    /// The answer did not fit (TC).
    pub truncated: bool,
    /// What the answer says.
    pub answers: Answers,
}

impl Answered {
    /// From the query to its end, nanoseconds.
    pub fn latency_ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.query.sent_ns)
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryEvent {
    /// It is a query, which waits from now on.
    Sent(Query),
    /// It is the answer to one.
    Answered(Answered),
}
