//! `lab internal mutual`: a client of mutual TLS by rustls, which sends its certificate, the proof and Finished in one
//! record: `openssl` and Go send three.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, KeyLogFile, RootCertStore, StreamOwned};

/// Arguments of `lab internal mutual`; keys go where `SSLKEYLOGFILE` says.
#[derive(Debug, clap::Args)]
pub(crate) struct MutualArguments {
    /// The server.
    #[arg(long)]
    to: SocketAddr,
    /// Its name.
    #[arg(long)]
    name: String,
    /// Whom to trust.
    #[arg(long)]
    ca: PathBuf,
    /// The client's certificate.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
}

/// One request; prints the answer.
pub(crate) fn run(arguments: &MutualArguments) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&arguments.ca).context("reading the root")? {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_file_iter(&arguments.certificate)
        .context("reading the certificate")?
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&arguments.key).context("reading the key")?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.key_log = Arc::new(KeyLogFile::new());
    let name = ServerName::try_from(arguments.name.clone())?;
    let stream = TcpStream::connect(arguments.to)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream);
    // The handshake first: with the request in the same flight nobody could tell the two apart.
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    write!(tls, "GET / HTTP/1.0\r\nHost: {}\r\n\r\n", arguments.name)?;
    let mut answer = Vec::new();
    // A server that ends without close_notify has answered all the same.
    let _ended = tls.read_to_end(&mut answer);
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}
