//! One emulated machine: QEMU with this machine's root (read-only) and a results directory, its console read line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::console::Watch;
use super::guest::{DONE, UP};
use super::kernel::Kernel;
use super::tool;
use crate::process::Running;

/// Lines that the guest means for the user begin so.
pub(super) const MARK: &str = "vm: ";
/// The longest that QEMU may take to end after the guest powered off.
const POWER_OFF: Duration = Duration::from_secs(20);
/// The console has warnings and worse (`quiet` would hide warnings and traces), an oops ends the machine.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic";

/// What one boot is made of.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    /// The guest writes here, and the console is kept in it; it lasts from one boot to the next.
    pub(super) directory: &'a Path,
    /// File name for the console.
    pub(super) console: String,
    /// For the kernel, beside the usual.
    pub(super) words: Option<String>,
    pub(super) limit: Duration,
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The guest's last word came.
    Done,
    /// The machine ended, or ended itself, before.
    Early,
    /// It was ended after its limit.
    Late,
}

/// What became of a boot.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) end: End,
    /// The guest's script began.
    pub(super) is_up: bool,
    /// Lines of the console that must not be there.
    pub(super) faults: Vec<String>,
    /// The whole console.
    pub(super) console: PathBuf,
}

/// Boots and waits for the guest to power off, printing its progress and what its kernel says is wrong.
pub(super) fn run(boot: &Boot<'_>) -> Result<Ended> {
    let mut qemu = Command::new(tool("qemu-system-x86_64")?);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G"]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(boot.kernel.image());
    qemu.arg("-initrd").arg(boot.initramfs);
    let words: Vec<&str> = [COMMAND_LINE].into_iter().chain(boot.words.as_deref()).collect();
    qemu.arg("-append").arg(words.join(" "));
    // Without the RDRAND-like device the guest waits for entropy.
    qemu.args(["-device", "virtio-rng-pci"]);
    share(&mut qemu, "host", Path::new("/"), ",readonly=on,multidevs=remap");
    share(&mut qemu, "results", boot.directory, "");
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());

    let begin = Instant::now();
    let mut machine = Running::start(&mut qemu)?;
    let lines = read_lines(machine.child.stdout.take().context("stdout is piped")?);
    let mut ended = Ended {
        end: End::Early,
        is_up: false,
        faults: Vec::new(),
        console: boot.directory.join(&boot.console),
    };
    let mut log = File::create(&ended.console)?;
    let mut watch = Watch::default();
    loop {
        let line = match lines.recv_timeout(boot.limit.saturating_sub(begin.elapsed())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                ended.end = End::Late;
                machine.stop()?;
                break;
            }
        };
        writeln!(log, "{line}")?;
        if let Some(progress) = line.strip_prefix(MARK) {
            println!("vm: {:>4} s  {progress}", begin.elapsed().as_secs());
            ended.is_up |= progress.starts_with(UP);
            if progress == DONE {
                ended.end = End::Done;
            }
        } else if watch.is_fault(&line) {
            println!("vm: {:>4} s  {line}", begin.elapsed().as_secs());
        }
    }
    machine.wait_for(POWER_OFF)?;
    ended.faults = watch.into_faults();
    Ok(ended)
}

/// Lines as they come, until the console is closed.
fn read_lines(console: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut line = Vec::new();
        // A kernel's console is not always UTF-8.
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    lines
}

fn share(qemu: &mut Command, tag: &str, path: &Path, options: &str) {
    // A comma in a path is doubled in QEMU's options.
    let path = path.to_string_lossy().replace(',', ",,");
    qemu.arg("-virtfs").arg(format!(
        "local,path={path},mount_tag={tag},security_model=none{options}"
    ));
}
