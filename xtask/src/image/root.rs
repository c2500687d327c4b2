//! The files of the image: the program, the libraries that it is linked to, certificates, licences. No shell, no packages.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::PROGRAM;
use crate::{process, workspace};

/// The roots that `hopline compare` trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Licences of the libraries that come along.
const COPYRIGHTS: [&str; 2] = ["libc6", "libgcc-s1"];
/// Small files.
const FILES: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/:/sbin/nologin\n"),
    ("etc/group", "root:x:0:\n"),
    // Names for `hopline compare`: /etc/hosts before DNS.
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];
/// Where volumes are mounted: the root is read-only then.
const FOLDERS: [&str; 4] = ["etc/hopline", "proc", "run/netns", "sys"];

/// Fills `folder`, which must be empty or not there.
pub(super) fn lay_out(folder: &Path, binary: &Path, bom: Option<&str>) -> Result<()> {
    fs::create_dir_all(folder)?;
    let is_empty = fs::read_dir(folder)?.next().is_none();
    ensure!(is_empty, "{} is not empty", folder.display());
    for empty in FOLDERS {
        fs::create_dir_all(folder.join(empty))?;
    }
    for (path, text) in FILES {
        put(folder, path, text.as_bytes())?;
    }
    // Before its symbols go: they are found by the build that it is of.
    for library in libraries(binary)? {
        copy(folder, &library, &library)?;
    }
    let program = copy(folder, binary, Path::new(PROGRAM))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    match process::find("strip") {
        // Names of functions stay, for backtraces.
        Some(strip) => process::run(Command::new(strip).arg("--strip-debug").arg(&program))?,
        None => println!("note: without strip (binutils) the image is larger than it needs to be"),
    }
    if Path::new(CERTIFICATES).is_file() {
        copy(folder, Path::new(CERTIFICATES), Path::new(CERTIFICATES))?;
    } else {
        println!("note: no {CERTIFICATES} here: `hopline compare` in the image will trust nobody");
    }
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let place = Path::new("usr/share/doc/hopline").join(licence);
        copy(folder, &workspace::root().join(licence), &place)?;
    }
    for package in COPYRIGHTS {
        let file = Path::new("/usr/share/doc").join(package).join("copyright");
        if file.is_file() {
            copy(folder, &file, &file)?;
        }
    }
    if let Some(bom) = bom {
        put(folder, "usr/share/doc/hopline/sbom.cdx.json", bom.as_bytes())?;
    }
    Ok(())
}

/// Writes a file below `folder`.
fn put(folder: &Path, path: &str, content: &[u8]) -> Result<()> {
    let file = folder.join(path);
    fs::create_dir_all(file.parent().unwrap_or(folder))?;
    fs::write(&file, content).with_context(|| format!("writing {}", file.display()))
}

/// Copies what `from` is, links followed, to `to` below `folder`.
fn copy(folder: &Path, from: &Path, to: &Path) -> Result<PathBuf> {
    let file = folder.join(to.strip_prefix("/").unwrap_or(to));
    fs::create_dir_all(file.parent().unwrap_or(folder))?;
    fs::copy(from, &file).with_context(|| format!("copying {}", from.display()))?;
    Ok(file)
}

/// The loader and all shared libraries of a program, where the program looks for them.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let printed = process::output(Command::new("ldd").arg(binary))?;
    let libraries = libraries_in(&printed)?;
    ensure!(!libraries.is_empty(), "ldd found no libraries: {printed}");
    Ok(libraries)
}

fn libraries_in(printed: &str) -> Result<Vec<PathBuf>> {
    ensure!(!printed.contains("not found"), "a library is missing: {printed}");
    // `name => /path (address)`, and `/path (address)` for the loader; the kernel's own has no path.
    let paths = printed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_by_path() {
        let printed =
            "\tlinux-vdso.so.1 (0x00007f46)\n\tlibm.so.6 => /lib/x/libm.so.6 (0x00007f46)\n\t/lib64/ld.so.2 (0x1)\n";
        let expected: Vec<PathBuf> = ["/lib/x/libm.so.6", "/lib64/ld.so.2"].map(PathBuf::from).into();
        assert_eq!(libraries_in(printed).expect("all there"), expected);
        assert!(libraries_in("\tliba.so => not found\n").is_err());
    }
}
