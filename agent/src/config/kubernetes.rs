//! The part of the configuration that is about pods and workloads. Used by `config` alone.
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de};

/// Where names of pods and workloads are from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesConfig {
    /// Whether the API server is asked.
    pub api: Use,
    /// How to reach it and as whom; none: as the service account of hopline's own pod.
    #[serde(deserialize_with = "kubeconfig")]
    pub kubeconfig: Option<PathBuf>,
    /// The container runtime, asked while the API server does not answer.
    pub cri_socket: CriSocket,
    /// Name of this node in Kubernetes; none: `NODE_NAME` of the environment, else the host's name.
    #[serde(deserialize_with = "node_name")]
    pub node_name: Option<String>,
    /// Annotations of pods that records carry, by their keys.
    #[serde(deserialize_with = "keys")]
    pub annotations: BTreeSet<String>,
}

impl KubernetesConfig {
    /// Its part of the printed file.
    pub(super) fn to_yaml(&self) -> String {
        format!(
            "\
# Names of pods and workloads.
kubernetes:
  # auto: ask the API server when hopline runs in a pod with a service account, or has a kubeconfig; off: never.
  api: {api}
  # How to reach the API server and as whom; null: as hopline's own pod.
  kubeconfig: {kubeconfig}
  # The container runtime, asked while the API server does not answer: auto (the first usual socket that is there), off, or
  # the path of its CRI socket.
  cri_socket: {cri_socket}
  # Name of this node in Kubernetes; null: NODE_NAME of the environment, else the host's name.
  node_name: {node_name}
  # Annotations of pods that records carry, by their keys.
  annotations: {annotations}
",
            api = self.api,
            kubeconfig = super::or_null(self.kubeconfig.as_deref()),
            cri_socket = self.cri_socket,
            node_name = super::or_null(self.node_name.as_deref().map(Path::new)),
            annotations = super::quoted_list(&self.annotations),
        )
    }
}

/// Whether something is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Where it is there.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Which container runtime is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CriSocket {
    /// The first usual one that is there.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one.
    At(PathBuf),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for CriSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::At(path) => f.write_str(&super::quoted(path)),
        }
    }
}

impl<'de> Deserialize<'de> for CriSocket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path => absolute(path).map(Self::At),
        }
    }
}

fn kubeconfig<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|path| absolute(&path))
        .transpose()
}

fn absolute<E: de::Error>(path: &str) -> Result<PathBuf, E> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(E::custom(format_args!("`{}` is no absolute path", path.display())))
    }
}

/// A name of a Kubernetes object, which goes into a selector as it is.
fn node_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    let fits = |name: &String| {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        !name.is_empty() && name.len() <= 253 && name.bytes().all(is_allowed)
    };
    match name {
        Some(name) if !fits(&name) => Err(de::Error::custom(format_args!("`{name}` is no name of a node"))),
        name => Ok(name),
    }
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    const MOST: usize = 32;
    let keys = BTreeSet::<String>::deserialize(deserializer)?;
    if keys.len() > MOST {
        return Err(de::Error::custom(format_args!("{} keys, at most {MOST}", keys.len())));
    }
    Ok(keys)
}
