//! The part of the configuration that is about probes in TLS libraries. Used by `config` alone.
use std::time::Duration;

use agent_ebpf::tls_fact::{LIBRARY_BORINGSSL, LIBRARY_GNUTLS, LIBRARY_GO, LIBRARY_OPENSSL};
use serde::Deserialize;

use super::waiting_time;
use crate::cli::units::Seconds;

/// Probes in TLS libraries: all of them, one library's, those in some files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "one switch for each library")]
pub struct TlsConfig {
    /// Any at all.
    pub probes: bool,
    /// OpenSSL, shared or inside a program.
    pub openssl: bool,
    /// BoringSSL where its symbols are.
    pub boringssl: bool,
    /// GnuTLS.
    pub gnutls: bool,
    /// Go's `crypto/tls`.
    pub go: bool,
    /// Files that are left alone, by path, with `*` for any text.
    pub exclude: Vec<String>,
    /// Files that no process has mapped for this long are let go.
    #[serde(deserialize_with = "waiting_time")]
    pub release_after: Duration,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            probes: false,
            openssl: true,
            boringssl: true,
            gnutls: true,
            go: true,
            exclude: Vec::new(),
            release_after: Duration::from_mins(1),
        }
    }
}

impl TlsConfig {
    /// The libraries that are probed, by number.
    pub fn libraries(&self) -> Vec<u8> {
        let all = [
            (self.openssl, LIBRARY_OPENSSL),
            (self.boringssl, LIBRARY_BORINGSSL),
            (self.gnutls, LIBRARY_GNUTLS),
            (self.go, LIBRARY_GO),
        ];
        all.into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, library)| library)
            .collect()
    }

    pub(super) fn to_yaml(&self) -> String {
        let exclude = serde_json::Value::from(self.exclude.clone());
        format!(
            "\
# Probes in TLS libraries (uprobes at the entry of functions that run once per handshake) say exactly why a handshake
# failed, also where TLS 1.3 hides it. Each library is probed once per file, when somebody maps it.
tls:
  # Any at all. Off by default, as probes are breakpoints in other programs; `tcp_rcv_space_adjust` is then traced at each read
  # of every TCP socket, 0.1 us.
  probes: {}
  # By library.
  openssl: {}
  boringssl: {}
  gnutls: {}
  go: {}
  # Files that are left alone, by path as the process sees it, with * for any text: [\"*/node\", \"/opt/bank/*\"]
  exclude: {exclude}
  # Files that no process has mapped for this long are let go.
  release_after: {}
",
            self.probes,
            self.openssl,
            self.boringssl,
            self.gnutls,
            self.go,
            Seconds(self.release_after),
        )
    }
}
