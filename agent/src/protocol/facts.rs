//! What is known of a conversation's first bytes: facts only, the bytes are gone.

use super::certificate::Chain;
use super::http1::{HostClaim, Method};
use super::malformed::MalformedCounts;
use super::tls::client_hello::ClientHello;
use super::tls::server_hello::ServerHello;
use super::tls::{TLS13, cipher};

/// Everything that was read of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// What TLS said, when a byte of it was seen.
    pub tls: Option<TlsFacts>,
    /// What HTTP/1 in clear said, when a byte of it was seen; before `tls` when there are both.
    pub http: Option<HttpFacts>,
    /// What could not be read.
    pub malformed: MalformedCounts,
}

impl Facts {
    /// Nothing more comes: what only served to read the rest is forgotten, so that equal conversations have equal facts.
    pub fn settle(&mut self) {
        if let Some(http) = &mut self.http {
            http.request = None;
        }
        let Some(tls) = &mut self.tls else { return };
        if tls.version().is_some_and(|version| version < TLS13) {
            tls.abbreviated |= tls.resumed() == Some(true);
        }
        if let (Some(chain), name) = (&mut tls.chain, tls.client_hello.as_ref().and_then(ClientHello::name)) {
            chain.keep_names_of(name);
        }
        if let Some(client) = &mut tls.client_hello {
            client.session_id = Box::default();
        }
        if let Some(server) = &mut tls.server_hello {
            server.session_id = Box::default();
        }
    }
}

/// What TLS said in clear, but for alerts: those the kernel reads into the connection's timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsFacts {
    /// The last `ClientHello`: after a `HelloRetryRequest` that is the second.
    pub client_hello: Option<ClientHello>,
    /// The `ServerHello`; a `HelloRetryRequest` until that comes.
    pub server_hello: Option<ServerHello>,
    /// A `HelloRetryRequest` was seen.
    pub retried: bool,
    /// The server's certificates, where they are in clear (TLS 1.2).
    pub chain: Option<Chain>,
    /// TLS 1.2: whether the client sent a certificate when the server asked for one; `None` when it was not asked.
    pub client_certificate: Option<bool>,
    /// TLS 1.2: the session is resumed, as the server's `ChangeCipherSpec` came without a `ServerHelloDone` before, or its
    /// identifier is the client's ([`Facts::settle`]).
    pub abbreviated: bool,
}

impl TlsFacts {
    /// The agreed version.
    pub fn version(&self) -> Option<u16> {
        self.server_hello.as_ref().map(|hello| hello.version)
    }

    /// The agreed cipher suite.
    pub fn cipher(&self) -> Option<u16> {
        self.server_hello.as_ref().map(|hello| hello.cipher)
    }

    /// The cipher suite's name in IANA's registry, or its number in hexadecimal.
    pub fn cipher_name(&self) -> Option<String> {
        self.cipher().map(cipher::cipher_name)
    }

    /// The name that the client asked for; `None` also when it was no host name.
    pub fn server_name(&self) -> Option<&str> {
        self.client_hello.as_ref()?.name()
    }

    /// The protocol agreed by ALPN, where it stands in clear (TLS 1.2).
    pub fn alpn_chosen(&self) -> Option<&str> {
        self.server_hello.as_ref()?.alpn.as_deref()
    }

    /// Whether an earlier session is resumed; `None` as long as that cannot be told.
    pub fn resumed(&self) -> Option<bool> {
        let server = self.server_hello.as_ref().filter(|hello| !hello.is_retry)?;
        if server.version >= TLS13 || self.abbreviated {
            return Some(self.abbreviated || server.pre_shared_key);
        }
        let client = self.client_hello.as_ref()?;
        Some(server.resumes(&client.session_id))
    }
}

/// What the heads of HTTP/1 said. Paths and other headers are never kept, but for a hash for as long as links of chains need it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpFacts {
    /// Method of the first request.
    pub method: Option<Method>,
    /// Whom the first request is for: CONNECT's target, else the authority in the request line, else Host.
    pub host: HostClaim,
    /// [`super::http1::RequestHead::line_hash`] of the first request, until [`Facts::settle`].
    pub request: Option<u64>,
    /// Status of the first answer that is not interim (1xx, but for 101).
    pub status: Option<u16>,
}

impl HttpFacts {
    /// Host and port that CONNECT asks a proxy for.
    pub fn connect_target(&self) -> Option<&super::http1::Authority> {
        match (&self.method, &self.host) {
            (Some(Method::Connect), HostClaim::Authority(authority)) => Some(authority),
            _ => None,
        }
    }
}
