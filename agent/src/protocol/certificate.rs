//! What a server's visible certificates say about why a client may refuse them. No signature is verified.
//!
//! How the end of a chain is told, walking from the server's own certificate along the issuers' names (and key
//! identifiers, where both sides have one) through what was sent:
//!
//! - *Self-signed*: the server's own certificate is its own issuer.
//! - *Complete*: the last certificate found is its own issuer and was sent (a root), or its issuer is one of the roots
//!   that the caller knows. A server may leave the root out (RFC 5246 section 7.4.2).
//! - *Missing intermediate*: the issuer is neither sent nor a known root, and something shows that it is an intermediate:
//!   certificates of authorities came that are not part of the chain, or the server's own certificate came alone and
//!   names a place to fetch its issuer from (`caIssuers` over HTTP). Public authorities issue from intermediates only
//!   and always name that place.
//! - *Unknown authority*: the chain ends at a root that is not among those known, or at an issuer of which nothing shows
//!   what it is; only judged when the caller knows any roots or the client refused the authority.
//!
//! A certificate that a private root issued directly and one whose private intermediate is missing look alike when they
//! come alone: of both it is true that the client does not know the authority, so both have that name. `caIssuers` over
//! LDAP proves nothing: a directory's authority (AD CS) writes it also when it is a root.

use std::collections::HashSet;

use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// Names of one certificate that are kept; certificates of content networks have hundreds.
const NAMES: usize = 256;
/// The same of a certificate that a library tells of, of which the kernel programs send two kilobytes.
const OWN_NAMES: usize = 32;
/// Bytes of all names that are kept.
const NAME_BYTES: usize = 8 * 1024;

/// What a client would say of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainState {
    /// Nothing wrong is visible.
    Ok,
    /// A certificate's time is over.
    Expired,
    /// A certificate's time has not come.
    NotYetValid,
    /// The server's certificate does not have the name that was asked for.
    NameMismatch,
    /// The server's certificate is its own issuer.
    SelfSigned,
    /// The server did not send the certificate of its issuer.
    MissingIntermediate,
    /// The chain ends at an authority that is not known.
    UnknownAuthority,
}

impl ChainState {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NameMismatch => "name_mismatch",
            Self::SelfSigned => "self_signed",
            Self::MissingIntermediate => "missing_intermediate",
            Self::UnknownAuthority => "unknown_authority",
        }
    }
}

/// Subjects of certificates that clients trust, as DER.
#[derive(Clone, Debug, Default)]
pub struct Roots(HashSet<Box<[u8]>>);

impl Roots {
    /// Adds a root; false when it cannot be read.
    pub fn insert(&mut self, der: &[u8]) -> bool {
        X509Certificate::from_der(der)
            .map(|(_, certificate)| self.0.insert(certificate.subject().as_raw().into()))
            .is_ok()
    }

    /// Whether a root has this subject, as DER.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.0.contains(name)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the verdict depends on besides the chain.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The name in the `ClientHello`.
    pub server_name: Option<&'a str>,
    /// Seconds since 1970.
    pub now_unix_s: i64,
    /// Known roots; none: no verdict on authorities without the client's.
    pub roots: &'a Roots,
    /// The client's alert was `unknown_ca`.
    pub is_authority_refused: bool,
}

/// How the chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The server's own certificate is its own issuer.
    SelfSigned,
    /// A root was sent.
    Root,
    /// The issuer was not sent.
    IssuerNotSent,
}

/// What is kept of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a chain")]
pub struct Chain {
    /// Certificates that were sent.
    pub sent: u8,
    /// Start of the time in which all of the chain is valid, seconds since 1970.
    pub not_before_unix_s: i64,
    /// End of the time in which all of the chain is valid, seconds since 1970.
    pub not_after_unix_s: i64,
    /// The server's names: subject alternative names, else the common name; lower case.
    names: Box<[Box<str>]>,
    /// More names than are kept: a mismatch is not certain.
    has_more_names: bool,
    addresses: Box<[Box<[u8]>]>,
    end: End,
    /// The subject of the root that was sent, or the issuer that was not.
    last_name: Box<[u8]>,
    /// Certificates that belong to the chain.
    linked: u8,
    /// Certificates of authorities were sent that do not belong to the chain.
    has_strays: bool,
    /// The server's certificate says where its issuer can be fetched.
    names_issuer_location: bool,
    /// The first certificate is one of an authority.
    is_authority: bool,
}

impl Chain {
    /// Reads a chain, the server's own certificate first. `None` when there is none or it cannot be read; others that
    /// cannot be read count as not sent.
    pub fn read(certificates: &[&[u8]]) -> Option<Self> {
        let (own, others) = certificates.split_first()?;
        let own = X509Certificate::from_der(own).ok()?.1;
        let others: Vec<_> = others
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, certificate)| certificate)
            .collect();
        let (path, end) = path(&own, &others);
        let last = path.last().copied().unwrap_or(&own);
        let is_linked = |other: &X509Certificate<'_>| path.iter().any(|linked| linked.as_raw() == other.as_raw());
        let has_strays = others.iter().any(|other| other.is_ca() && !is_linked(other));
        let last_name = match end {
            End::IssuerNotSent => last.issuer(),
            End::SelfSigned | End::Root => last.subject(),
        };
        let times = || path.iter().map(|certificate| certificate.validity());
        let (names, has_more_names) = names(&own, NAMES);
        Some(Self {
            sent: certificates.len().min(255) as u8,
            not_before_unix_s: times().map(|validity| validity.not_before.timestamp()).max()?,
            not_after_unix_s: times().map(|validity| validity.not_after.timestamp()).min()?,
            names,
            has_more_names,
            addresses: addresses(&own),
            end,
            last_name: last_name.as_raw().into(),
            linked: path.len() as u8,
            has_strays,
            names_issuer_location: names_issuer_location(&own),
            is_authority: own.is_ca(),
        })
    }

    /// Reads the server's own certificate alone, without its signature, as a library keeps it: what else was sent is not
    /// known, so nothing is said of authorities.
    pub fn of_own(tbs: &[u8]) -> Option<Self> {
        let own = TbsCertificate::from_der(tbs).ok()?.1;
        let (names, has_more_names) = names(&own, OWN_NAMES);
        Some(Self {
            sent: 1,
            not_before_unix_s: own.validity().not_before.timestamp(),
            not_after_unix_s: own.validity().not_after.timestamp(),
            names,
            has_more_names,
            addresses: Box::default(),
            end: End::IssuerNotSent,
            last_name: Box::default(),
            linked: 1,
            has_strays: false,
            names_issuer_location: names_issuer_location(&own),
            is_authority: own.is_ca(),
        })
    }

    /// The first thing that a client would complain about: times, then the name, then the authority.
    pub fn state(&self, circumstances: Circumstances<'_>) -> ChainState {
        if let Some(wrong) = self.times(circumstances.now_unix_s) {
            return wrong;
        }
        if circumstances.server_name.is_some_and(|name| !self.has_name(name)) {
            return ChainState::NameMismatch;
        }
        self.authority(circumstances.roots, circumstances.is_authority_refused)
    }

    fn authority(&self, roots: &Roots, is_refused: bool) -> ChainState {
        let is_known = roots.contains(&self.last_name) && !is_refused;
        let judges = is_refused || !roots.is_empty();
        match self.end {
            _ if is_known => ChainState::Ok,
            End::SelfSigned => ChainState::SelfSigned,
            End::IssuerNotSent if self.lacks_intermediate() => ChainState::MissingIntermediate,
            End::Root | End::IssuerNotSent if judges => ChainState::UnknownAuthority,
            End::Root | End::IssuerNotSent => ChainState::Ok,
        }
    }

    /// The server's certificate was issued by an intermediate that was not sent. Of [`Self::of_own`] this holds where it is
    /// known from elsewhere that the issuer was not sent.
    pub fn lacks_intermediate(&self) -> bool {
        let is_alone = self.linked == 1 && self.names_issuer_location;
        self.end == End::IssuerNotSent && (self.has_strays || is_alone)
    }

    /// The first certificate is one of an authority.
    pub fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// What is wrong with the times.
    pub fn times(&self, now_unix_s: i64) -> Option<ChainState> {
        if now_unix_s > self.not_after_unix_s {
            return Some(ChainState::Expired);
        }
        (now_unix_s < self.not_before_unix_s).then_some(ChainState::NotYetValid)
    }

    /// About what the names and addresses take that are kept.
    pub fn kept_bytes(&self) -> usize {
        /// An allocation of its own for each, and the place that refers to it.
        const EACH: usize = 32;
        let names: usize = self.names.iter().map(|name| name.len() + EACH).sum();
        names + self.addresses.len() * (16 + EACH) + self.last_name.len()
    }

    /// Forgets every name that does not decide whether the certificate is for this one: a server may have put in hundreds,
    /// and the connection may stay open for days. What was asked of addresses and of the last name must have been asked before.
    pub fn keep_names_of(&mut self, server_name: Option<&str>) {
        let decides = |pattern: &str| server_name.is_some_and(|name| matches(pattern, name));
        let kept = self.names.iter().find(|pattern| decides(pattern)).cloned();
        self.names = kept.into_iter().collect();
        self.addresses = Box::default();
        self.last_name = Box::default();
    }

    /// True when the server's certificate is for this name, or for so many that it may be.
    pub fn has_name(&self, name: &str) -> bool {
        self.has_more_names || self.names.iter().any(|pattern| matches(pattern, name))
    }

    /// True when the server's certificate is for this address: 4 or 16 bytes.
    pub fn has_address(&self, octets: &[u8]) -> bool {
        self.addresses.iter().any(|address| **address == *octets)
    }
}

/// A wildcard stands for exactly one label, the first (RFC 6125 section 6.4.3).
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => name
            .split_once('.')
            .is_some_and(|(first, rest)| !first.is_empty() && rest == domain),
        None => pattern == name,
    }
}

/// The certificates from the server's own up to the last whose issuer was sent, and how that ends.
pub fn path<'a, 'der>(
    own: &'a X509Certificate<'der>,
    others: &'a [X509Certificate<'der>],
) -> (Vec<&'a X509Certificate<'der>>, End) {
    let mut path = vec![own];
    let mut unused: Vec<_> = others.iter().collect();
    let mut last = own;
    loop {
        if last.subject().as_raw() == last.issuer().as_raw() {
            let end = if path.len() == 1 { End::SelfSigned } else { End::Root };
            return (path, end);
        }
        // Each certificate is used once, so a circle of issuers ends.
        let Some(at) = unused.iter().position(|candidate| may_have_issued(candidate, last)) else {
            return (path, End::IssuerNotSent);
        };
        last = unused.swap_remove(at);
        path.push(last);
    }
}

fn may_have_issued(issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    if issuer.subject().as_raw() != certificate.issuer().as_raw() {
        return false;
    }
    match (authority_key(certificate), subject_key(issuer)) {
        (Some(wanted), Some(key)) => wanted == key,
        _ => true,
    }
}

fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|key| key.0),
            _ => None,
        })
}

fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
            _ => None,
        })
}

/// `id-ad-caIssuers` of RFC 5280 section 4.2.2.1.
const CA_ISSUERS: &str = "1.3.6.1.5.5.7.48.2";

/// Over HTTP, and not from a directory too: see the module.
fn names_issuer_location(certificate: &TbsCertificate<'_>) -> bool {
    let locations = || {
        certificate
            .extensions()
            .iter()
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityInfoAccess(access) => Some(&access.accessdescs),
                _ => None,
            })
            .flatten()
            .filter(|description| description.access_method.to_id_string() == CA_ISSUERS)
            .filter_map(|description| match &description.access_location {
                GeneralName::URI(uri) => uri.split_once(':').map(|(scheme, _)| scheme),
                _ => None,
            })
    };
    let has = |wanted: &str| locations().any(|scheme| scheme.eq_ignore_ascii_case(wanted));
    (has("http") || has("https")) && !has("ldap") && !has("ldaps")
}

fn alternative_names<'a>(certificate: &'a TbsCertificate<'_>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
}

/// The names of a certificate, and whether it has more than are kept.
fn names(certificate: &TbsCertificate<'_>, most: usize) -> (Box<[Box<str>]>, bool) {
    let mut alternative = alternative_names(certificate)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .peekable();
    let mut names = Vec::new();
    let mut left = NAME_BYTES;
    let mut keep = |name: &str| {
        let fits = names.len() < most && name.len() <= left;
        if fits {
            left -= name.len();
            names.push(
                name.strip_suffix('.')
                    .unwrap_or(name)
                    .to_ascii_lowercase()
                    .into_boxed_str(),
            );
        }
        fits
    };
    // The common name counts only without alternative ones (RFC 6125 section 6.4.4).
    let all_fit = if alternative.peek().is_some() {
        alternative.all(&mut keep)
    } else {
        let mut common = certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok());
        common.all(&mut keep)
    };
    (names.into_boxed_slice(), !all_fit)
}

fn addresses(certificate: &TbsCertificate<'_>) -> Box<[Box<[u8]>]> {
    alternative_names(certificate)
        .filter_map(|name| match name {
            GeneralName::IPAddress(octets) if matches!(octets.len(), 4 | 16) => Some((*octets).into()),
            _ => None,
        })
        .take(NAMES)
        .collect()
}

#[cfg(test)]
mod tests;
