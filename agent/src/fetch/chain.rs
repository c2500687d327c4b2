//! The certificates that a server sent: whether the way to a trusted root is all there. Pure; no signature is looked at.
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, x509::X509Name};

use crate::protocol::certificate::{End, Roots, path};

const DAY_S: i64 = 86_400;

/// What a chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Common name of the server's certificate, else its whole name.
    pub subject: String,
    /// Name of the first certificate on the way to a root that was not sent and is no trusted root.
    pub missing: Option<String>,
    /// Until the server's certificate expires, seconds; negative when it has.
    pub expires_s: i64,
}

impl Chain {
    /// Reads the certificates as they were sent, the server's own first; `None` when that cannot be read.
    ///
    /// Nothing is missing when any certificate on the way was issued by a trusted root (a cross-signed one may follow,
    /// whose own issuer nobody knows), or when the way ends at a root that was sent: whether to trust that root is
    /// another question.
    pub fn read(certificates: &[&[u8]], roots: &Roots, now_unix_s: i64) -> Option<Self> {
        let (own, others) = certificates.split_first()?;
        let own = X509Certificate::from_der(own).ok()?.1;
        let others: Vec<_> = others
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, certificate)| certificate)
            .collect();
        let (path, end) = path(&own, &others);
        let is_anchored = path
            .iter()
            .any(|certificate| roots.contains(certificate.issuer().as_raw()));
        let missing = match end {
            End::IssuerNotSent if !is_anchored => path.last().map(|last| name(last.issuer())),
            _ => None,
        };
        Some(Self {
            subject: name(own.subject()),
            missing,
            expires_s: own.validity().not_after.timestamp() - now_unix_s,
        })
    }

    /// Whole days until the server's certificate expires; negative when it has.
    pub fn expires_days(&self) -> i64 {
        self.expires_s.div_euclid(DAY_S)
    }
}

/// The common name, else all of the name.
fn name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|common| common.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By "Lab Intermediate" by "Lab Root"; expires with the year 2027. Its common name differs from its other names.
    const LEAF: &[u8] = include_bytes!("../protocol/certificate/fixtures/leaf.der");
    const INTERMEDIATE: &[u8] = include_bytes!("../protocol/certificate/fixtures/inter.der");
    const ROOT: &[u8] = include_bytes!("../protocol/certificate/fixtures/root.der");
    const ROOT_LEAF: &[u8] = include_bytes!("../protocol/certificate/fixtures/rootleaf.der");
    const SELF_SIGNED: &[u8] = include_bytes!("../protocol/certificate/fixtures/self.der");
    const END_OF_2027: i64 = 1_830_211_200;

    fn read(certificates: &[&[u8]], trusted: &[&[u8]], now_unix_s: i64) -> Option<Chain> {
        let mut roots = Roots::default();
        assert!(trusted.iter().all(|der| roots.insert(der)));
        Chain::read(certificates, &roots, now_unix_s)
    }

    #[test]
    fn the_missing_link_is_named() {
        let check = |certificates: &[&[u8]], trusted: &[&[u8]], expected: Option<&str>| {
            let chain = read(certificates, trusted, END_OF_2027).expect("it can be read");
            assert_eq!(chain.missing.as_deref(), expected);
        };
        check(&[LEAF, INTERMEDIATE], &[ROOT], None);
        check(&[LEAF], &[ROOT], Some("Lab Intermediate"));
        check(&[LEAF, SELF_SIGNED], &[ROOT], Some("Lab Intermediate"));
        check(&[LEAF, b"rubbish", INTERMEDIATE], &[ROOT], None);
        check(&[LEAF, INTERMEDIATE], &[], Some("Lab Root"));
        check(&[LEAF, INTERMEDIATE, ROOT], &[], None);
        check(&[ROOT_LEAF], &[ROOT], None);
        check(&[ROOT_LEAF], &[SELF_SIGNED], Some("Lab Root"));
        check(&[SELF_SIGNED], &[], None);
        // Trusted itself: who issued it does not matter.
        check(&[LEAF, INTERMEDIATE], &[INTERMEDIATE], None);
    }

    #[test]
    fn days_are_whole_and_may_be_over() {
        let check = |now_unix_s, expected| {
            let chain = read(&[LEAF], &[], now_unix_s).expect("it can be read");
            assert_eq!(
                (chain.expires_days(), chain.subject.as_str()),
                (expected, "ignored.example")
            );
        };
        check(END_OF_2027 - 15 * DAY_S, 15);
        check(END_OF_2027 - 15 * DAY_S + 1, 14);
        check(END_OF_2027, 0);
        check(END_OF_2027 + 1, -1);
    }

    #[test]
    fn what_cannot_be_read_is_none() {
        assert_eq!(read(&[], &[ROOT], 0), None);
        assert_eq!(read(&[b"rubbish", INTERMEDIATE], &[ROOT], 0), None);
    }
}
