//! The table of cases: how each handshake is made, and what it is named after.

use crate::router::{Direction, Fault, PayloadEvent};
use crate::traffic::relay::Preamble;

/// Who serves a case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Server {
    /// `openssl s_server` with these options.
    OpenSsl(&'static [&'static str]),
    /// The same, behind a front in which TLS begins late.
    Late(Preamble),
    /// nginx with these words behind `listen ADDRESS ssl`.
    Nginx(&'static str),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client {
    /// `openssl s_client` with these options.
    OpenSsl(&'static [&'static str]),
    /// The same; every one after the first resumes the session of the one before.
    Resuming(&'static [&'static str]),
    /// curl with these options.
    Curl(&'static [&'static str]),
    /// curl through the case's address as a proxy.
    Proxied,
    /// rustls with a certificate: that, its proof and Finished are in one record.
    Packed,
    /// A program in Go: its `ClientHello` has a post-quantum key share.
    Go,
}

/// One way to shake hands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) server: Server,
    pub(super) client: Client,
    pub(super) fault: Option<Fault>,
    pub(super) ipv6: bool,
    /// As the record must have it.
    pub(super) version: &'static str,
    pub(super) cipher: &'static str,
    /// `ClientHello`s of each connection.
    pub(super) hellos: u32,
    /// The hello comes in two segments.
    pub(super) two_segments: bool,
    /// The hello is in the SYN of every connection after the first, which learns the cookie.
    pub(super) in_syn: bool,
}

pub(super) const SUITE13: &str = "TLS_AES_256_GCM_SHA384";
pub(super) const SUITE12: &str = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";

const fn tls13(name: &'static str) -> Case {
    Case {
        name,
        server: Server::OpenSsl(&["-tls1_3"]),
        client: Client::OpenSsl(&[]),
        fault: None,
        ipv6: false,
        version: "1.3",
        cipher: SUITE13,
        hellos: 1,
        two_segments: false,
        in_syn: false,
    }
}

const fn tls12(name: &'static str) -> Case {
    Case {
        server: Server::OpenSsl(&["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"]),
        version: "1.2",
        cipher: SUITE12,
        ..tls13(name)
    }
}

const fn fault(direction: Direction, number: u32, event: PayloadEvent) -> Fault {
    Fault::AtPayload {
        direction,
        number,
        event,
    }
}

/// Long enough for a second segment, as a post-quantum key share is.
const LONG_HELLO: &[&str] = &["-alpn", LONG_ALPN];
const LONG_ALPN: &str = "\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-00,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-01,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-02,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-03,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-04,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-05,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-06,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-07,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-08,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-09,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-10,\
lab-protocol-of-a-long-name-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-11";

const MUTUAL: Client = Client::OpenSsl(&["-cert", "client.pem", "-key", "client.key"]);

/// Beyond every window, ahead and behind.
const AHEAD: PayloadEvent = PayloadEvent::Forge { offset: 1 << 28 };
const BEHIND: PayloadEvent = PayloadEvent::Forge { offset: -100_000 };

use Direction::{ToClient, ToServer};

pub(super) const CASES: &[Case] = &[
    tls13("1.3 full"),
    Case {
        ipv6: true,
        ..tls13("1.3 full, IPv6")
    },
    Case {
        server: Server::OpenSsl(&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"]),
        cipher: "TLS_CHACHA20_POLY1305_SHA256",
        ..tls13("1.3 ChaCha20, Finished of SHA-256")
    },
    tls12("1.2 full"),
    Case {
        ipv6: true,
        ..tls12("1.2 full, IPv6")
    },
    Case {
        client: Client::Resuming(&[]),
        ..tls13("1.3 resumed by PSK")
    },
    Case {
        client: Client::Resuming(&[]),
        ..tls12("1.2 resumed by ticket")
    },
    Case {
        server: Server::OpenSsl(&["-tls1_2", "-no_ticket", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"]),
        client: Client::Resuming(&["-no_ticket"]),
        ..tls12("1.2 resumed by session id")
    },
    Case {
        server: Server::OpenSsl(&["-tls1_3", "-groups", "P-384"]),
        hellos: 2,
        ..tls13("1.3 HelloRetryRequest")
    },
    Case {
        server: Server::OpenSsl(&["-tls1_3", "-Verify", "1", "-CAfile", "root.pem"]),
        client: MUTUAL,
        ..tls13("1.3 mTLS")
    },
    Case {
        server: Server::OpenSsl(&["-tls1_3", "-Verify", "1", "-CAfile", "root.pem"]),
        client: Client::Packed,
        ..tls13("1.3 mTLS, client's flight in one record")
    },
    Case {
        server: Server::OpenSsl(&[
            "-tls1_2",
            "-cipher",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "-Verify",
            "1",
            "-CAfile",
            "root.pem",
        ]),
        client: MUTUAL,
        ..tls12("1.2 mTLS")
    },
    Case {
        server: Server::Late(Preamble::Connect),
        client: Client::Proxied,
        ..tls13("HTTP CONNECT")
    },
    Case {
        server: Server::Late(Preamble::Smtp),
        client: Client::OpenSsl(&["-starttls", "smtp"]),
        ..tls13("STARTTLS")
    },
    Case {
        server: Server::Late(Preamble::Postgres),
        client: Client::OpenSsl(&["-starttls", "postgres"]),
        ..tls13("PostgreSQL SSLRequest")
    },
    Case {
        client: Client::OpenSsl(LONG_HELLO),
        two_segments: true,
        ..tls13("hello in two segments")
    },
    Case {
        client: Client::Go,
        cipher: "TLS_AES_128_GCM_SHA256",
        two_segments: true,
        ..tls13("hello with a post-quantum key share")
    },
    Case {
        fault: Some(fault(ToServer, 1, PayloadEvent::Drop)),
        ..tls13("ClientHello lost")
    },
    Case {
        client: Client::OpenSsl(LONG_HELLO),
        two_segments: true,
        fault: Some(fault(ToServer, 1, PayloadEvent::Drop)),
        ..tls13("first half of the ClientHello lost")
    },
    Case {
        fault: Some(fault(ToClient, 1, PayloadEvent::Drop)),
        ..tls13("ServerHello lost")
    },
    Case {
        fault: Some(fault(ToServer, 2, PayloadEvent::Drop)),
        ..tls13("client's Finished lost")
    },
    Case {
        fault: Some(fault(ToClient, 2, PayloadEvent::Drop)),
        ..tls12("second server segment lost")
    },
    Case {
        client: Client::OpenSsl(LONG_HELLO),
        two_segments: true,
        fault: Some(fault(ToServer, 1, PayloadEvent::Swap)),
        ..tls13("halves of the ClientHello reordered")
    },
    Case {
        fault: Some(fault(ToClient, 1, PayloadEvent::Swap)),
        ..tls12("server's segments reordered")
    },
    Case {
        fault: Some(fault(ToServer, 2, PayloadEvent::Swap)),
        ..tls13("Finished behind the request")
    },
    Case {
        fault: Some(fault(ToServer, 1, PayloadEvent::Duplicate)),
        ..tls13("ClientHello twice")
    },
    Case {
        fault: Some(fault(ToClient, 1, PayloadEvent::Duplicate)),
        ..tls12("ServerHello twice")
    },
    Case {
        fault: Some(fault(ToServer, 1, AHEAD)),
        ..tls13("forged ClientHello ahead of the window")
    },
    Case {
        fault: Some(fault(ToServer, 1, BEHIND)),
        ..tls12("forged ClientHello behind the window")
    },
    Case {
        fault: Some(fault(ToClient, 1, AHEAD)),
        ..tls12("forged alert ahead of the window")
    },
    Case {
        fault: Some(Fault::SwallowFinalAck),
        ..tls13("final ACK lost")
    },
    Case {
        server: Server::Nginx("deferred"),
        ..tls13("TCP_DEFER_ACCEPT")
    },
    Case {
        server: Server::Nginx("fastopen=16"),
        client: Client::Curl(&["--tcp-fastopen"]),
        in_syn: true,
        ..tls13("TCP Fast Open")
    },
];
