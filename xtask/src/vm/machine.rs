//! One emulated machine: QEMU with this machine's root (read-only) and a results directory, its console read line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::guest::DONE;
use super::kernel::Kernel;
use super::tool;
use crate::process::Running;

/// Lines that the guest means for the user begin so.
pub(super) const MARK: &str = "vm: ";
/// The longest that QEMU may take to end after the guest powered off.
const POWER_OFF: Duration = Duration::from_secs(20);

/// Boots and waits for the guest to power off, printing its progress. The whole console is kept in `console.log`.
pub(super) fn run(kernel: &Kernel, initramfs: &Path, directory: &Path, limit: Duration) -> Result<()> {
    let mut qemu = Command::new(tool("qemu-system-x86_64")?);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G"]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 oops=panic"]);
    // Without the RDRAND-like device the guest waits for entropy.
    qemu.args(["-device", "virtio-rng-pci"]);
    share(&mut qemu, "host", Path::new("/"), ",readonly=on,multidevs=remap");
    share(&mut qemu, "results", directory, "");
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());

    let begin = Instant::now();
    let mut machine = Running::start(&mut qemu)?;
    let console = machine.child.stdout.take().context("stdout is piped")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut line = Vec::new();
        // A kernel's console is not always UTF-8.
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender
                .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                .is_err()
            {
                return;
            }
            line.clear();
        }
    });
    let path = directory.join("console.log");
    let mut log = File::create(&path)?;
    let mut done = false;
    loop {
        match lines.recv_timeout(limit.saturating_sub(begin.elapsed())) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                if let Some(progress) = line.strip_prefix(MARK) {
                    println!("vm: {:>4} s  {progress}", begin.elapsed().as_secs());
                    done |= progress == DONE;
                }
                if line.contains("Kernel panic") {
                    println!("vm: {line}");
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!("not done within {} s; console: {}", limit.as_secs(), path.display())
            }
        }
    }
    machine.wait_for(POWER_OFF)?;
    if !done {
        bail!("the machine ended early; console: {}", path.display());
    }
    Ok(())
}

fn share(qemu: &mut Command, tag: &str, path: &Path, options: &str) {
    // A comma in a path is doubled in QEMU's options.
    let path = path.to_string_lossy().replace(',', ",,");
    qemu.arg("-virtfs").arg(format!(
        "local,path={path},mount_tag={tag},security_model=none{options}"
    ));
}
