//! `lab internal refuse`: one TLS connection by rustls that trusts one authority, as `tests/programs/refuse` does in other
//! languages. Prints how it went.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};

/// Arguments of `lab internal refuse`.
#[derive(Debug, clap::Args)]
pub(crate) struct RefuseArguments {
    address: IpAddr,
    port: u16,
    /// The server's name.
    name: String,
    /// `1.2` or `1.3`.
    version: String,
    /// Whom to trust.
    authority: PathBuf,
}

/// Fails only where the arguments are wrong.
pub(crate) fn run(arguments: &RefuseArguments) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&arguments.authority).context("reading the root")? {
        roots.add(certificate?)?;
    }
    let version = if arguments.version == "1.2" {
        &version::TLS12
    } else {
        &version::TLS13
    };
    let mut config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from(arguments.name.clone())?;
    let client = ClientConnection::new(Arc::new(config), name)?;
    match ask(client, SocketAddr::new(arguments.address, arguments.port)) {
        Ok(bytes) => println!("ok {bytes}"),
        Err(error) => println!("failed: {error}"),
    }
    Ok(())
}

fn ask(client: ClientConnection, to: SocketAddr) -> Result<usize> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_millis(1_500)))?;
    let mut tls = StreamOwned::new(client, stream);
    tls.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    Ok(tls.read(&mut [0; 4096])?)
}
