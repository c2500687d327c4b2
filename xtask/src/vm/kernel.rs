//! Debian's kernels: the newest of a series, downloaded and unpacked once, kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::suite::{self, Lists};
use super::tool;
use crate::{process, workspace};

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Its `lib/modules` is here, and its `boot` where it has one.
    pub(super) directory: PathBuf,
}

impl Kernel {
    /// The file to boot: new packages have it beside the modules.
    pub(super) fn image(&self) -> PathBuf {
        let beside = self.modules().join("vmlinuz");
        if beside.is_file() {
            return beside;
        }
        self.directory.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }
}

const PREFIX: &str = "linux-image-";

/// True when a kernel of each series is there already.
pub(crate) fn are_cached(versions: &[&str]) -> bool {
    versions
        .iter()
        .all(|version| cached(version).is_ok_and(|kernel| kernel.is_some()))
}

/// The cached kernel of the series, else the newest that can be downloaded: by the system's own lists, then by those of the
/// suite that has the series.
pub(super) fn fetch(version: &str) -> Result<Kernel> {
    if let Some(kernel) = cached(version)? {
        return Ok(kernel);
    }
    ensure!(
        process::find("apt-get").is_some(),
        "no apt: put {PREFIX}{version}*-amd64 unpacked below .cache/vm/kernels"
    );
    if let Some(kernel) = newest_of(&Lists::System, version)? {
        return Ok(kernel);
    }
    let Some(suite) = suite::of_series(version) else {
        bail!(
            "no kernel of the series {version}: neither in this machine's lists of packages nor in a known suite of Debian"
        );
    };
    match newest_of(&Lists::fetch(suite)?, version)? {
        Some(kernel) => Ok(kernel),
        None => bail!("Debian's {suite} gives no kernel of the series {version}"),
    }
}

/// The newest kernel of the series by these lists, which may name what the mirror no longer has: then the next.
fn newest_of(lists: &Lists, version: &str) -> Result<Option<Kernel>> {
    let names = lists.names(version)?;
    let releases = names.iter().filter_map(|name| name.strip_prefix(PREFIX));
    for release in newest_first(releases, version) {
        println!("vm: downloading Linux {release} ({lists})");
        match download(lists, release, &suite::packages(release, &names)) {
            Ok(kernel) => return Ok(Some(kernel)),
            Err(error) => println!("vm: {error:#}"),
        }
    }
    Ok(None)
}

fn kernels() -> PathBuf {
    workspace::cache("vm").join("kernels")
}

/// The newest kernel of the series in the cache.
fn cached(version: &str) -> Result<Option<Kernel>> {
    let Ok(entries) = fs::read_dir(kernels()) else {
        return Ok(None);
    };
    let mut releases = Vec::new();
    for entry in entries {
        releases.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let newest = newest_first(releases.iter().map(String::as_str), version)
        .first()
        .map(ToString::to_string);
    Ok(newest.map(|release| Kernel {
        directory: kernels().join(&release),
        release,
    }))
}

/// Releases like `6.1.0-50-amd64` and `6.12.117+deb12-amd64`: no cloud (it lacks 9p), no real-time, no unsigned flavour.
fn newest_first<'a>(releases: impl Iterator<Item = &'a str>, version: &str) -> Vec<&'a str> {
    let is_plain = |release: &str| {
        let rest = release.strip_prefix(version).and_then(|rest| rest.strip_prefix('.'));
        let flavour = rest.map(|rest| {
            rest.trim_start_matches(|character: char| character.is_ascii_digit() || ".-+".contains(character))
        });
        flavour.is_some_and(|flavour| {
            let of_debian = flavour
                .strip_prefix("deb")
                .map(|rest| rest.trim_start_matches(|character: char| character.is_ascii_digit()));
            flavour == "amd64" || of_debian == Some("-amd64")
        })
    };
    let mut plain: Vec<&str> = releases.filter(|release| is_plain(release)).collect();
    plain.sort_by_key(|release| std::cmp::Reverse(numbers(release)));
    plain
}

fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Downloads and unpacks into a directory beside, moved to its place when complete.
fn download(lists: &Lists, release: &str, packages: &[String]) -> Result<Kernel> {
    fs::create_dir_all(kernels())?;
    let unpacked = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(workspace::cache("vm"))?;
    for package in packages {
        process::output(
            lists
                .apt("apt-get")
                .current_dir(unpacked.path())
                .args(["-qq", "download", package]),
        )?;
        let archive = only_archive(unpacked.path())?;
        process::output(Command::new("dpkg").arg("-x").arg(&archive).arg(unpacked.path()))?;
        fs::remove_file(archive)?;
    }
    let lib = unpacked.path().join("lib");
    if !lib.exists() {
        // Where packages know of one /lib only, tools for modules still look in the other.
        std::os::unix::fs::symlink("usr/lib", &lib)?;
    }
    process::output(
        Command::new(tool("depmod")?)
            .arg("-b")
            .arg(unpacked.path())
            .arg(release),
    )?;
    let kernel = Kernel {
        release: release.to_owned(),
        directory: kernels().join(release),
    };
    let complete = unpacked.keep();
    if let Err(error) = fs::rename(&complete, &kernel.directory) {
        fs::remove_dir_all(&complete)?;
        // Another run may have put the same kernel there.
        ensure!(kernel.image().is_file(), "{}: {error}", kernel.directory.display());
    }
    Ok(kernel)
}

fn only_archive(directory: &Path) -> Result<PathBuf> {
    let mut archives = fs::read_dir(directory)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    archives
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_of_a_series_is_first() {
        let names = [
            "6.1.0-9-amd64",
            "6.1.0-50-amd64",
            "6.1.0-50-cloud-amd64",
            "6.1.0-50-rt-amd64",
            "6.12.1+deb12-amd64",
        ];
        assert_eq!(
            newest_first(names.into_iter(), "6.1"),
            ["6.1.0-50-amd64", "6.1.0-9-amd64"]
        );
        let names = [
            "6.12.9+deb12-amd64",
            "6.12.117+deb12-amd64",
            "6.12.117+deb12-amd64-unsigned",
            "6.12-amd64",
        ];
        assert_eq!(
            newest_first(names.into_iter(), "6.12"),
            ["6.12.117+deb12-amd64", "6.12.9+deb12-amd64"]
        );
        let names = [
            "7.2.9+deb13-amd64",
            "7.2.12+deb14-amd64",
            "7.2.12+deb13-cloud-amd64",
            "7.2.12+deb13-rt-amd64",
            "7.3.4+deb13-amd64",
            "7.2.12+debug-amd64",
        ];
        assert_eq!(
            newest_first(names.into_iter(), "7.2"),
            ["7.2.12+deb14-amd64", "7.2.9+deb13-amd64"]
        );
        assert_eq!(
            newest_first(
                ["5.10.0-30-amd64", "5.10.0-32-amd64", "5.10.0-32-rt-amd64"].into_iter(),
                "5.10"
            ),
            ["5.10.0-32-amd64", "5.10.0-30-amd64"]
        );
    }
}
