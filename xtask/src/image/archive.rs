//! From a folder to an OCI archive (image-spec 1.1): one layer, a configuration, a manifest, an index. tar and gzip pack.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{NAME, PROGRAM, VERSION, date, revision, sha256};
use crate::process;

/// Labels, whose values are the same in the Dockerfile.
pub(super) const LABELS: [(&str, &str); 5] = [
    ("org.opencontainers.image.title", "hopline"),
    (
        "org.opencontainers.image.description",
        "Which destination is slow or failing, in which phase, for which workload",
    ),
    ("org.opencontainers.image.licenses", "MIT OR Apache-2.0"),
    ("org.opencontainers.image.source", env!("CARGO_PKG_REPOSITORY")),
    ("org.opencontainers.image.version", VERSION),
];

/// Packs `folder`; `work` is for files in between.
pub(super) fn pack(folder: &Path, work: &Path, output: &Path) -> Result<()> {
    let layout = work.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let seconds = date()?;

    let layer = work.join("layer.tar");
    tar(folder, &["."], seconds, &layer)?;
    let unpacked = sha256(&layer)?;
    let packed = work.join("layer.tar.gz");
    process::run(
        Command::new("gzip")
            .args(["--no-name", "--best", "--stdout"])
            .arg(&layer)
            .stdout(File::create(&packed)?),
    )?;
    let layer = blob(&blobs, &packed, "application/vnd.oci.image.layer.v1.tar+gzip")?;

    let created = rfc3339(seconds)?;
    let mut labels: serde_json::Map<String, Value> = LABELS
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    labels.insert("org.opencontainers.image.revision".to_owned(), revision().into());
    labels.insert("org.opencontainers.image.created".to_owned(), created.clone().into());
    let config = json!({
        "created": created,
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "User": "0:0",
            "Entrypoint": [PROGRAM],
            "Cmd": ["agent"],
            "Env": ["PATH=/usr/local/bin"],
            "ExposedPorts": {"9737/tcp": {}},
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{unpacked}")]},
        "history": [{"created": created, "created_by": "cargo xtask image"}],
    });
    let config = json_blob(work, &blobs, &config, "application/vnd.oci.image.config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest = json_blob(work, &blobs, &manifest, "application/vnd.oci.image.manifest.v1+json")?;
    manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
    // The second is what containerd reads the whole name from.
    manifest["annotations"] = json!({
        "org.opencontainers.image.ref.name": VERSION,
        "io.containerd.image.name": format!("{NAME}:{VERSION}"),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar(&layout, &["oci-layout", "index.json", "blobs"], seconds, output)
}

/// Moves a file to its place among the blobs; gives its descriptor.
fn blob(blobs: &Path, file: &Path, media_type: &str) -> Result<Value> {
    let digest = sha256(file)?;
    let size = fs::metadata(file)?.len();
    fs::rename(file, blobs.join(&digest)).with_context(|| format!("moving {}", file.display()))?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size}))
}

fn json_blob(work: &Path, blobs: &Path, value: &Value, media_type: &str) -> Result<Value> {
    let file = work.join("blob.json");
    fs::write(&file, serde_json::to_vec(value)?)?;
    blob(blobs, &file, media_type)
}

/// A tar of which nothing depends on when, where and by whom it is made.
fn tar(folder: &Path, names: &[&str], seconds: u64, output: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--format=gnu",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    tar.args(["--mode=u+rwX,go+rX,go-w", &format!("--mtime=@{seconds}")]);
    tar.arg("--directory").arg(folder).arg("--file").arg(output).args(names);
    process::run(&mut tar)
}

/// Go's name for this machine's kind, as the specification wants.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn rfc3339(seconds: u64) -> Result<String> {
    let printed = process::output(
        Command::new("date")
            .args(["--utc", "+%Y-%m-%dT%H:%M:%SZ", "--date"])
            .arg(format!("@{seconds}")),
    )?;
    Ok(printed.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let text = fs::read_to_string(crate::workspace::root().join("deploy/Dockerfile")).expect("the Dockerfile");
        for (name, value) in LABELS {
            assert!(text.contains(&format!("{name}=\"{value}\"")), "{name}");
        }
        let entry = format!("ENTRYPOINT [\"{PROGRAM}\"]");
        for line in [
            entry.as_str(),
            "CMD [\"agent\"]",
            "USER 0:0",
            "EXPOSE 9737/tcp",
            "ENV PATH=/usr/local/bin",
            "FROM scratch",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}");
        }
    }

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0).expect("date"), "1970-01-01T00:00:00Z");
    }
}
