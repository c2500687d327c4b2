//! Reads an OCI archive as one that came from elsewhere: digests, sizes, what is in the layer, whether its program runs.
//! Then the same by skopeo and umoci, where they are.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{NAME, PROGRAM, VERSION, sha256};
use crate::process;

/// The archive may not be larger.
const MOST_BYTES: u64 = 40 << 20;
/// Names of programs that start others: none belongs in the image.
const SHELLS: [&str; 4] = ["sh", "bash", "dash", "busybox"];

pub(super) fn check(archive: &Path) -> Result<()> {
    let size = fs::metadata(archive)?.len();
    ensure!(size <= MOST_BYTES, "{size} bytes: more than {MOST_BYTES}");
    let directory = tempfile::tempdir()?;
    let layout = directory.path().join("layout");
    unpack(archive, &layout)?;
    ensure!(
        json(&layout.join("oci-layout"))?["imageLayoutVersion"] == "1.0.0",
        "no OCI layout"
    );
    let index = json(&layout.join("index.json"))?;
    let listed = &index["manifests"][0];
    let name = &listed["annotations"]["io.containerd.image.name"];
    ensure!(*name == format!("{NAME}:{VERSION}"), "its name is {name}");
    let manifest = json(&blob(&layout, listed)?)?;
    let config = json(&blob(&layout, &manifest["config"])?)?;
    ensure!(config["config"]["Entrypoint"][0] == PROGRAM, "another entry point");
    let version = &config["config"]["Labels"]["org.opencontainers.image.version"];
    ensure!(*version == VERSION, "labelled as version {version}");
    let layers = manifest["layers"].as_array().context("no layers")?;
    ensure!(layers.len() == 1, "{} layers", layers.len());

    let packed = blob(&layout, &layers[0])?;
    let layer = directory.path().join("layer.tar");
    process::run(
        Command::new("gzip")
            .args(["--decompress", "--stdout"])
            .arg(&packed)
            .stdout(fs::File::create(&layer)?),
    )?;
    let unpacked = format!("sha256:{}", sha256(&layer)?);
    ensure!(
        config["rootfs"]["diff_ids"][0] == unpacked,
        "the layer is not the one of the configuration"
    );
    let names = process::output(Command::new("tar").args(["--list", "--file"]).arg(&layer))?;
    ensure!(
        names.lines().any(|name| name == format!(".{PROGRAM}")),
        "no {PROGRAM} in it"
    );
    let shell = names
        .lines()
        .find(|name| name.rsplit('/').next().is_some_and(|last| SHELLS.contains(&last)));
    ensure!(shell.is_none(), "a shell in it: {}", shell.unwrap_or_default());
    let has_bom = names.lines().any(|name| name.ends_with("sbom.cdx.json"));

    let root = directory.path().join("root");
    unpack(&layer, &root)?;
    runs(&root)?;
    others(archive, &layout)?;
    let files = names.lines().filter(|name| !name.ends_with('/')).count();
    let bom = if has_bom { "with" } else { "without" };
    println!(
        "image: {:.1} MB, {files} files, {bom} a list of components, digests as said",
        size as f64 / 1e6
    );
    Ok(())
}

fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    process::run(
        Command::new("tar")
            .arg("--extract")
            .arg("--directory")
            .arg(folder)
            .arg("--file")
            .arg(archive),
    )
}

fn json(file: &Path) -> Result<Value> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", file.display()))
}

/// The file of a descriptor, once it has the size and digest that are said of it.
fn blob(layout: &Path, descriptor: &Value) -> Result<std::path::PathBuf> {
    let digest = descriptor["digest"]
        .as_str()
        .and_then(|digest| digest.strip_prefix("sha256:"));
    let digest = digest.with_context(|| format!("no digest in {descriptor}"))?;
    let file = layout.join("blobs/sha256").join(digest);
    let size = fs::metadata(&file).with_context(|| format!("no blob {digest}"))?.len();
    ensure!(descriptor["size"] == size, "the size of {digest} is {size}");
    ensure!(sha256(&file)? == digest, "{digest} has other bytes");
    Ok(file)
}

/// Starts the program where nothing but the image is: a library that is missing shows.
fn runs(root: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: the image's program is started in its own root by root alone");
        return Ok(());
    }
    let printed = process::output(Command::new("chroot").arg(root).args([PROGRAM, "--version"]))?;
    ensure!(
        printed.trim() == format!("hopline {VERSION}"),
        "the image's program says {printed}"
    );
    Ok(())
}

fn others(archive: &Path, layout: &Path) -> Result<()> {
    match process::find("skopeo") {
        Some(skopeo) => {
            let image = format!("oci-archive:{}:{VERSION}", archive.display());
            let said: Value = serde_json::from_str(&process::output(Command::new(skopeo).args(["inspect", &image]))?)?;
            let version = &said["Labels"]["org.opencontainers.image.version"];
            ensure!(*version == VERSION, "skopeo reads version {version}");
        }
        None => println!("skipped: skopeo is not there"),
    }
    match process::find("umoci") {
        Some(umoci) => {
            let image = format!("{}:{VERSION}", layout.display());
            let said = process::output(Command::new(umoci).args(["stat", "--json", "--image", &image]))?;
            let said: Value = serde_json::from_str(&said)?;
            ensure!(
                said["history"].as_array().is_some_and(|all| all.len() == 1),
                "umoci reads other layers"
            );
        }
        None => println!("skipped: umoci is not there"),
    }
    Ok(())
}
