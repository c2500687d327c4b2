//! Debian's kernels: the newest of a series, downloaded and unpacked once, kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::tool;
use crate::{process, workspace};

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Its `boot` and `lib/modules` are here.
    pub(super) directory: PathBuf,
}

impl Kernel {
    pub(super) fn image(&self) -> PathBuf {
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

/// The cached kernel of the series, else the newest that can be downloaded.
pub(super) fn fetch(version: &str) -> Result<Kernel> {
    if let Some(kernel) = cached(version)? {
        return Ok(kernel);
    }
    ensure!(
        process::find("apt-get").is_some(),
        "no apt: put {PREFIX}{version}*-amd64 unpacked below .cache/vm/kernels"
    );
    let mut packages = packages(version)?;
    if packages.is_empty() {
        process::output(Command::new("apt-get").args(["-qq", "update"]))?;
        packages = self::packages(version)?;
    }
    // An index may list what the mirror no longer has.
    for package in &packages {
        println!("vm: downloading {package}");
        match download(package) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => println!("vm: {error:#}"),
        }
    }
    bail!("Debian's mirror gives no kernel of the series {version} (this release of Debian may not have one)")
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

/// Packages of the series, newest first.
fn packages(version: &str) -> Result<Vec<String>> {
    let names = process::output(Command::new("apt-cache").args(["pkgnames", &format!("{PREFIX}{version}.")]))?;
    let releases = newest_first(names.lines().filter_map(|name| name.strip_prefix(PREFIX)), version);
    Ok(releases
        .into_iter()
        .map(|release| format!("{PREFIX}{release}"))
        .collect())
}

/// Releases like `6.1.0-50-amd64` and `6.12.117+deb12-amd64`: no cloud (it lacks 9p), no real-time, no unsigned flavour.
fn newest_first<'a>(releases: impl Iterator<Item = &'a str>, version: &str) -> Vec<&'a str> {
    let is_plain = |release: &str| {
        let rest = release.strip_prefix(version).and_then(|rest| rest.strip_prefix('.'));
        let flavour = rest.map(|rest| {
            rest.trim_start_matches(|character: char| character.is_ascii_digit() || ".-+".contains(character))
        });
        flavour.is_some_and(|flavour| matches!(flavour, "amd64" | "deb12-amd64" | "deb13-amd64"))
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
fn download(package: &str) -> Result<Kernel> {
    let release = package.strip_prefix(PREFIX).context("a kernel package")?.to_owned();
    fs::create_dir_all(kernels())?;
    let unpacked = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(workspace::cache("vm"))?;
    process::output(
        Command::new("apt-get")
            .current_dir(unpacked.path())
            .args(["-qq", "download", package]),
    )?;
    let archive = only_file(unpacked.path())?;
    process::output(Command::new("dpkg").arg("-x").arg(&archive).arg(unpacked.path()))?;
    fs::remove_file(archive)?;
    process::output(
        Command::new(tool("depmod")?)
            .arg("-b")
            .arg(unpacked.path())
            .arg(&release),
    )?;
    let directory = kernels().join(&release);
    fs::rename(unpacked.keep(), &directory)?;
    Ok(Kernel { release, directory })
}

fn only_file(directory: &Path) -> Result<PathBuf> {
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
    }
}
