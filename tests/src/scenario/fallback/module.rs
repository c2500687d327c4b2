//! A module proxy as files: one module of the lab's own, in the layout that `GOPROXY` asks for.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// What `go mod download` fetches.
pub(super) const MODULE: &str = "example.test/greeting";
pub(super) const VERSION: &str = "v1.0.0";
const GO_MOD: &str = "module example.test/greeting\n\ngo 1.21\n";
const SOURCE: &str = "package greeting\n\nconst Text = \"hello\"\n";

/// Writes the module below `root`.
pub(super) fn publish(root: &Path) -> Result<()> {
    let versions = root.join(MODULE).join("@v");
    fs::create_dir_all(&versions)?;
    describe(&versions)?;
    let inside = |name: &str| format!("{MODULE}@{VERSION}/{name}");
    let files = [(inside("go.mod"), GO_MOD), (inside("greeting.go"), SOURCE)];
    fs::write(versions.join(format!("{VERSION}.zip")), zip(&files))?;
    Ok(())
}

/// Writes what a module cache below `cache` has once the module's own zip alone is still to be fetched.
pub(super) fn know_all_but_the_zip(cache: &Path) -> Result<()> {
    let versions = cache.join("cache/download").join(MODULE).join("@v");
    fs::create_dir_all(&versions)?;
    describe(&versions)
}

fn describe(versions: &Path) -> Result<()> {
    let information = format!("{{\"Version\":\"{VERSION}\",\"Time\":\"2026-01-01T00:00:00Z\"}}");
    fs::write(versions.join(format!("{VERSION}.info")), information)?;
    fs::write(versions.join(format!("{VERSION}.mod")), GO_MOD)?;
    Ok(())
}

/// An archive whose files are stored as they are.
fn zip(files: &[(String, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    for (name, content) in files {
        let offset = archive.len() as u32;
        let length = content.len() as u32;
        // Version 2.0, no flags, stored, midnight of the first day that the format knows.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(checksum(content.as_bytes()).to_le_bytes());
        common.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(content.as_bytes());
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        // No comment, first disk, no attributes.
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (archive.len() as u32, files.len() as u16);
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

/// CRC-32 as zip has it.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_that_of_its_check_value() {
        assert_eq!(super::checksum(b"123456789"), 0xcbf4_3926);
    }
}
