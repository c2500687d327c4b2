//! The first file system of the guest: busybox and the modules that reach this machine's root by 9p, then it switches over.
//!
//! The guest sees this machine's files read-only below a layer in memory: every tool and library is there and nothing
//! that it does lasts.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::kernel::Kernel;
use super::tool;
use crate::process;

/// Modules that reach the host's files; some are built in on some kernels.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Ends the name of a compressed module: new kernels have those.
const PACKED: &str = ".xz";

/// Runs before the host's root is there: busybox alone. `results` is the only place that the guest can write to for good.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read module; do insmod /modules/$module || echo \"vm: module $module is refused\"; done < /modules/list
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /host || echo 'vm: no root'
mount -t tmpfs -o size=1g tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /newroot || echo 'vm: no overlay'
mkdir -p /newroot/vm-results
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none results /newroot/vm-results || echo 'vm: no results'
umount /proc
mount --move /dev /newroot/dev
exec switch_root /newroot /bin/bash /vm-results/guest.sh
";

/// Writes the compressed archive into `directory`.
pub(super) fn pack(kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let tree = tempfile::tempdir()?;
    for name in ["bin", "proc", "dev", "host", "layer", "newroot", "modules"] {
        fs::create_dir(tree.path().join(name))?;
    }
    fs::copy(tool("busybox")?, tree.path().join("bin/busybox"))?;
    let mut list = String::new();
    for module in modules(kernel)? {
        let name = module
            .file_name()
            .context("a module's file")?
            .to_string_lossy()
            .into_owned();
        let plain = name.trim_end_matches(PACKED);
        let to = tree.path().join("modules").join(plain);
        if plain == name {
            fs::copy(&module, to)?;
        } else {
            unpack(&module, &to)?;
        }
        list.push_str(plain);
        list.push('\n');
    }
    fs::write(tree.path().join("modules/list"), list)?;
    let init = tree.path().join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    archive(tree.path(), &directory.join("initramfs.cpio"))
}

/// busybox loads plain modules only.
fn unpack(module: &Path, to: &Path) -> Result<()> {
    let mut xz = Command::new(tool("xz")?);
    process::run(
        xz.args(["--decompress", "--stdout"])
            .arg(module)
            .stdout(fs::File::create(to)?),
    )
}

/// Files of the modules with what they need, in the order of loading.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let mut command = Command::new(tool("modprobe")?);
        command
            .arg("-d")
            .arg(&kernel.directory)
            .args(["-S", &kernel.release, "--show-depends", module]);
        for line in process::output(&mut command)?.lines() {
            // `builtin NAME` needs no loading.
            let Some(file) = line.strip_prefix("insmod ") else {
                continue;
            };
            let file = PathBuf::from(file.trim());
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// Makes the archive, uncompressed: it is read once, from memory.
fn archive(tree: &Path, file: &Path) -> Result<PathBuf> {
    let mut names = Vec::new();
    list(tree, Path::new("."), &mut names)?;
    let mut cpio = Command::new(tool("cpio")?);
    cpio.current_dir(tree).args(["--create", "--format=newc", "--quiet"]);
    cpio.stdin(Stdio::piped()).stdout(fs::File::create(file)?);
    let mut child = cpio.spawn().context("starting cpio")?;
    // Dropped at the end of the statement, which tells cpio that there are no more.
    child
        .stdin
        .take()
        .context("stdin is piped")?
        .write_all(names.join("\n").as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "cpio ended with {status}");
    Ok(file.to_owned())
}

fn list(tree: &Path, below: &Path, names: &mut Vec<String>) -> Result<()> {
    names.push(below.to_string_lossy().into_owned());
    for entry in fs::read_dir(tree.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(tree, &path, names)?;
        } else {
            names.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
