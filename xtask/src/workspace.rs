//! Where things are: the checkout, its cache, cargo and its target directory. Every subcommand asks here; it makes nothing.

use std::path::PathBuf;
use std::process::Command;

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    // Cargo tells at run time: a checkout may have moved since xtask was built.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// What is expensive to fetch again: kernels, fuzzing corpora. Git ignores it.
pub(crate) fn cache(name: &str) -> PathBuf {
    root().join(".cache").join(name)
}

/// Where tools that are fetched for the checks stay: outside of the checkout, so that all checkouts of a user share them.
pub(crate) fn tools(name: &str) -> PathBuf {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let caches = variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    caches.join("hopline").join(name)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |directory| root().join(directory))
}

/// The cargo that started xtask, in the checkout's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo says of xtask's own package: build scripts that look at it would run again, and half of the dependencies
    // be compiled again, whenever cargo is called by hand in between.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}
