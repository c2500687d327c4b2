//! Whom the client trusts, and a handshake that watches: what the server sent and what is wrong with it.
//!
//! A fault does not end the handshake, so that a broken chain can be timed like a good one; the caller must not send
//! anything over a connection with a fault unless the user said so. Signatures of the handshake itself are checked.
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, KeyLog, KeyLogFile, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::VerifierBuilderError,
};

use super::chain::Chain;
use crate::protocol::certificate::{self, Roots};

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of a private authority.
    #[error("{}: no certificate in PEM: {why}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// This system has no roots.
    #[error("this system has no certificate authorities; name one with --cacert FILE")]
    Nobody,
    /// The TLS library.
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
    /// The TLS library.
    #[error(transparent)]
    Tls(#[from] Error),
}

/// The roots in every form that is needed.
#[derive(Debug)]
pub struct Trust {
    provider: Arc<CryptoProvider>,
    judge: Arc<WebPkiServerVerifier>,
    roots: Roots,
    /// To the file that `SSLKEYLOGFILE` names, as other programs do, for who decrypts a capture.
    keys: Arc<dyn KeyLog>,
}

impl Trust {
    /// The roots of this system, as its other programs have them, and those of `file`.
    pub fn load(file: Option<&Path>) -> Result<Self, TrustError> {
        let mut certificates = rustls_native_certs::load_native_certs().certs;
        if let Some(path) = file {
            certificates.extend(read(path)?);
        }
        Self::new(certificates)
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let mut roots = Roots::default();
        for certificate in &certificates {
            // One that cannot be read is none for the store either.
            roots.insert(certificate);
        }
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(TrustError::Nobody);
        }
        let provider = Arc::new(ring::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build()?;
        Ok(Self {
            provider,
            judge,
            roots,
            keys: Arc::new(KeyLogFile::new()),
        })
    }

    /// A handshake to come. Sessions are not resumed: each one shows its certificates.
    pub(super) fn handshake(&self) -> Result<(Arc<Onlooker>, Arc<ClientConfig>), TrustError> {
        let onlooker = Arc::new(Onlooker {
            judge: Arc::clone(&self.judge),
            seen: Mutex::default(),
        });
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&onlooker) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        config.key_log = Arc::clone(&self.keys);
        Ok((onlooker, Arc::new(config)))
    }

    /// What was seen of the server's certificates, if any came.
    pub(super) fn presented(&self, onlooker: &Onlooker, now_unix_s: i64) -> Option<Presented> {
        let seen = onlooker.seen.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let sent: Vec<&[u8]> = seen.certificates.iter().map(AsRef::as_ref).collect();
        let chain = Chain::read(&sent, &self.roots, now_unix_s);
        let lacks_intermediate = || {
            let ends_early = chain.as_ref().is_some_and(|chain| chain.missing.is_some());
            ends_early && certificate::Chain::read(&sent).is_some_and(|chain| chain.lacks_intermediate())
        };
        let fault = match seen.fault {
            Some(UNKNOWN_AUTHORITY) if lacks_intermediate() => Some("cert_missing_intermediate"),
            fault => fault,
        };
        Some(Presented {
            chain,
            is_stapled: seen.is_stapled,
            fault,
        })
    }
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let wrong = |why: String| TrustError::File {
        path: path.to_owned(),
        why,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    Ok(certificates)
}

/// What a server showed of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Its certificates; `None` when they cannot be read.
    pub chain: Option<Chain>,
    /// Whether an OCSP response came with them.
    pub is_stapled: bool,
    /// Why a client refuses it, named as `tls.outcome` is.
    pub fault: Option<&'static str>,
}

/// Takes part in one handshake in the place of the verifier.
#[derive(Debug)]
pub(super) struct Onlooker {
    judge: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<Seen>>,
}

/// Kept as it came: whatever is read here is waited for by the handshake, which is being timed.
#[derive(Debug)]
struct Seen {
    certificates: Vec<CertificateDer<'static>>,
    is_stapled: bool,
    fault: Option<&'static str>,
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self
            .judge
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let certificates = std::iter::once(end_entity).chain(intermediates);
        let seen = Seen {
            certificates: certificates.map(|der| der.clone().into_owned()).collect(),
            is_stapled: !ocsp_response.is_empty(),
            fault: verdict.err().as_ref().map(fault),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

const UNKNOWN_AUTHORITY: &str = "cert_unknown_authority";

/// The verdict by the name that connections of other programs have for it.
fn fault(error: &Error) -> &'static str {
    use CertificateError as Fault;
    match error {
        Error::InvalidCertificate(fault) => match fault {
            Fault::Expired | Fault::ExpiredContext { .. } => "cert_expired",
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => "cert_not_yet_valid",
            Fault::NotValidForName | Fault::NotValidForNameContext { .. } => "cert_name_mismatch",
            Fault::UnknownIssuer => UNKNOWN_AUTHORITY,
            _ => "cert_invalid",
        },
        _ => "cert_invalid",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LEAF: &[u8] = include_bytes!("../protocol/certificate/fixtures/leaf.der");
    const INTERMEDIATE: &[u8] = include_bytes!("../protocol/certificate/fixtures/inter.der");
    const LEAF_WITH_LOCATION: &[u8] = include_bytes!("../protocol/certificate/fixtures/leafaia.der");
    const ROOT: &[u8] = include_bytes!("../protocol/certificate/fixtures/root.der");
    const IN_2027: u64 = 1_813_104_000;

    /// A handshake goes on whatever is presented, and what is wrong is known afterwards.
    fn check(certificates: &[&'static [u8]], name: &'static str, now_unix_s: u64, expected: Option<&str>) {
        let trust = Trust::new(vec![CertificateDer::from(ROOT)]).expect("a root");
        let (onlooker, _) = trust.handshake().expect("a configuration");
        assert_eq!(trust.presented(&onlooker, 0), None);
        let certificates: Vec<_> = certificates.iter().map(|der| CertificateDer::from(*der)).collect();
        let name = ServerName::try_from(name).expect("a name");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_unix_s));
        onlooker
            .verify_server_cert(&certificates[0], &certificates[1..], &name, b"staple", now)
            .expect("it goes on");
        let presented = trust.presented(&onlooker, 0).expect("it was seen");
        assert_eq!((presented.fault, presented.is_stapled), (expected, true));
    }

    #[test]
    fn faults() {
        check(&[LEAF, INTERMEDIATE], "a.example", IN_2027, None);
        check(&[LEAF], "a.example", IN_2027, Some("cert_unknown_authority"));
        check(
            &[LEAF_WITH_LOCATION],
            "a.example",
            IN_2027,
            Some("cert_missing_intermediate"),
        );
        check(&[LEAF_WITH_LOCATION, INTERMEDIATE], "a.example", IN_2027, None);
        check(&[LEAF, INTERMEDIATE], "c.example", IN_2027, Some("cert_name_mismatch"));
        check(
            &[LEAF, INTERMEDIATE],
            "a.example",
            IN_2027 + 31_536_000,
            Some("cert_expired"),
        );
        check(
            &[LEAF, INTERMEDIATE],
            "a.example",
            IN_2027 - 31_536_000,
            Some("cert_not_yet_valid"),
        );
        check(&[b"rubbish"], "a.example", IN_2027, Some("cert_invalid"));
    }

    #[test]
    fn a_file_without_certificates_is_told() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("ca.pem");
        let error = |path: &Path| Trust::load(Some(path)).expect_err("no certificate").to_string();
        assert!(
            error(&path).contains("ca.pem: no certificate in PEM"),
            "{}",
            error(&path)
        );
        std::fs::write(&path, "dear diary").expect("write");
        assert!(error(&path).contains("it is empty"), "{}", error(&path));
    }
}
