//! A certificate authority of the lab's own, and certificates in every state that a client may object to. Made anew by
//! `openssl` in each run: nothing of it is in the repository, and no trust store is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::tools;

/// Sections that `openssl ca` reads: the database, and what each kind of certificate says. As of public authorities, those
/// of servers name the place of their issuer, but for `direct`, which is as private ones often are.
const CONFIGURATION: &str = "\
[ca]\ndefault_ca = lab\n\
[lab]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\nunique_subject = no\npolicy = any\ndefault_md = sha256\n\
[any]\ncommonName = supplied\n\
[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = lab\n\
[authority]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n\
[named]\nbasicConstraints = CA:FALSE\nsubjectAltName = DNS:*.lab.test, DNS:lab.test, IP:10.99.2.2, \
 DNS:*.mirror.lab.test\nauthorityInfoAccess = caIssuers;URI:http://ca.lab.test/intermediate.der\n\
[misnamed]\nbasicConstraints = CA:FALSE\nsubjectAltName = DNS:elsewhere.example\n\
[direct]\nbasicConstraints = CA:FALSE\nsubjectAltName = DNS:*.lab.test\n";

/// Validity of a certificate, as `openssl ca` takes it.
const NOW: [&str; 2] = ["-days", "30"];
const PAST: [&str; 4] = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"];
const FUTURE: [&str; 4] = ["-startdate", "20480101000000Z", "-enddate", "20490101000000Z"];

/// Their directory. Every certificate of a server has `leaf.key` as its key.
#[derive(Debug)]
pub(crate) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes all of them in the lab's directory.
    pub(crate) fn make(lab: &Lab) -> Result<Self> {
        let directory = lab.file("certificates");
        fs::create_dir(&directory)?;
        fs::write(directory.join("openssl.cnf"), CONFIGURATION)?;
        fs::write(directory.join("index"), "")?;
        let made = Self { directory };
        made.authority("root")?;
        made.authority("stranger")?;
        for name in ["intermediate", "leaf", "client"] {
            made.openssl(
                &["req", "-newkey", "rsa:2048", "-nodes", "-config", "openssl.cnf"],
                &[
                    "-subj",
                    &format!("/CN={name}.lab.test"),
                    "-keyout",
                    &format!("{name}.key"),
                    "-out",
                    &format!("{name}.csr"),
                ],
            )?;
        }
        made.sign("intermediate", "intermediate", "root", "authority", &NOW)?;
        made.sign("client", "client", "root", "named", &NOW)?;
        made.sign("expired-client", "client", "root", "named", &PAST)?;
        made.sign("outsider", "client", "stranger", "named", &NOW)?;
        for (name, kind, validity) in [
            ("good", "named", &NOW[..]),
            ("expired", "named", &PAST),
            ("future", "named", &FUTURE),
            ("misnamed", "misnamed", &NOW),
        ] {
            made.sign(name, "leaf", "intermediate", kind, validity)?;
            made.chain(name)?;
        }
        made.sign("direct", "leaf", "root", "direct", &NOW)?;
        Ok(made)
    }

    /// Where they are. Servers have `good`, `expired`, `future`, `misnamed`, each with its intermediate as
    /// `NAME-chain.pem` and without it as `NAME.pem`, and `direct`, which the root has signed; clients have `client`, `expired-client` and `outsider`.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// One of them.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A self-signed one.
    fn authority(&self, name: &str) -> Result<()> {
        self.openssl(
            &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"],
            &[
                "-config",
                "openssl.cnf",
                "-extensions",
                "authority",
                "-subj",
                &format!("/CN=lab {name}"),
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.pem"),
            ],
        )
    }

    fn sign(&self, name: &str, request: &str, by: &str, kind: &str, validity: &[&str]) -> Result<()> {
        let [request, certificate, key, out] = [
            format!("{request}.csr"),
            format!("{by}.pem"),
            format!("{by}.key"),
            format!("{name}.pem"),
        ];
        let mut words = vec!["-in", &request, "-cert", &certificate, "-keyfile", &key, "-out", &out];
        words.extend(["-extensions", kind]);
        words.extend(validity);
        self.openssl(&["ca", "-batch", "-notext", "-config", "openssl.cnf"], &words)
    }

    fn chain(&self, name: &str) -> Result<()> {
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
        let both = read(&self.file(&format!("{name}.pem")))? + &read(&self.file("intermediate.pem"))?;
        Ok(fs::write(self.file(&format!("{name}-chain.pem")), both)?)
    }

    fn openssl(&self, what: &[&str], words: &[&str]) -> Result<()> {
        tools::output_of(
            Command::new("openssl")
                .current_dir(&self.directory)
                .args(what)
                .args(words),
        )
        .map(drop)
    }
}
