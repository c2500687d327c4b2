//! What can be wrong with bytes of others, as a closed set that is counted.

/// One kind of malformed input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// A TLS record header with an unknown type or version, or a length that no record may have.
    Record,
    /// A handshake message longer than what is kept, or in a place where none may be.
    Handshake,
    /// A `ClientHello` whose inner lengths lie.
    ClientHello,
    /// A `ServerHello` whose inner lengths lie.
    ServerHello,
    /// A list of certificates, or a certificate in it, that cannot be read.
    Certificate,
    /// An alert of another length than two bytes, or of an unknown level.
    Alert,
    /// A server name that is no host name.
    ServerName,
    /// A head of HTTP/1 that is none.
    Http,
    /// A Host or CONNECT target that is neither host name nor address.
    HttpHost,
    /// A chunk outside of what is sent at most, or of no known direction or protocol.
    Chunk,
    /// Bytes never came, so a message was not read to its end.
    Incomplete,
    /// Shorter than a header of DNS.
    DnsHeader,
    /// A DNS message with another number of questions than one.
    DnsQuestions,
    /// A name in a DNS message that is too long, or whose labels or pointers lie.
    DnsName,
    /// A name in a question that is no host name.
    DnsQuestionName,
    /// A DNS record that is not there, or longer than its message.
    DnsRecord,
    /// A DNS message over TCP that is longer than what is kept.
    DnsLength,
}

impl Malformed {
    /// Every kind, in the order of `self as usize`.
    pub const ALL: [Self; 17] = [
        Self::Record,
        Self::Handshake,
        Self::ClientHello,
        Self::ServerHello,
        Self::Certificate,
        Self::Alert,
        Self::ServerName,
        Self::Http,
        Self::HttpHost,
        Self::Chunk,
        Self::Incomplete,
        Self::DnsHeader,
        Self::DnsQuestions,
        Self::DnsName,
        Self::DnsQuestionName,
        Self::DnsRecord,
        Self::DnsLength,
    ];

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "tls_record",
            Self::Handshake => "tls_handshake",
            Self::ClientHello => "client_hello",
            Self::ServerHello => "server_hello",
            Self::Certificate => "certificate",
            Self::Alert => "alert",
            Self::ServerName => "server_name",
            Self::Http => "http",
            Self::HttpHost => "http_host",
            Self::Chunk => "chunk",
            Self::Incomplete => "incomplete",
            Self::DnsHeader => "dns_header",
            Self::DnsQuestions => "dns_questions",
            Self::DnsName => "dns_name",
            Self::DnsQuestionName => "dns_question_name",
            Self::DnsRecord => "dns_record",
            Self::DnsLength => "dns_length",
        }
    }
}

/// How often each kind was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MalformedCounts([u32; Malformed::ALL.len()]);

impl MalformedCounts {
    /// One more of this kind.
    pub fn count(&mut self, kind: Malformed) {
        let count = &mut self.0[kind as usize];
        *count = count.saturating_add(1);
    }

    /// How many of this kind.
    pub fn get(&self, kind: Malformed) -> u32 {
        self.0[kind as usize]
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        for (own, others) in self.0.iter_mut().zip(other.0) {
            *own = own.saturating_add(others);
        }
    }

    /// What came on top of an earlier state of the same counts.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = *self;
        for (own, earlier) in counts.0.iter_mut().zip(earlier.0) {
            *own = own.saturating_sub(earlier);
        }
        counts
    }

    /// Kinds that were met, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Malformed, u32)> + '_ {
        let all = Malformed::ALL.into_iter().zip(self.0);
        all.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_count() {
        let mut counts = MalformedCounts::default();
        for kind in Malformed::ALL {
            counts.count(kind);
        }
        counts.count(Malformed::Http);
        let mut twice = counts;
        twice.add(&counts);
        assert_eq!(twice.iter().count(), Malformed::ALL.len());
        assert_eq!((twice.get(Malformed::Http), twice.get(Malformed::Record)), (4, 2));
    }
}
