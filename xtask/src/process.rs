//! Calling other programs: errors that name the command, limits on time, searching PATH. No shell in between.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);

/// Runs to the end with this terminal; failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", show(command)))?;
    ensure!(status.success(), "{} ended with {status}", show(command));
    Ok(())
}

/// Runs to the end and gives what it printed; failure is an error with what it complained of.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", show(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", show(command), output.status, complaint.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", show(command)))
}

/// Runs with this terminal for at most `limit`.
pub(crate) fn run_for(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let shown = show(command);
    let child = command.spawn().with_context(|| format!("starting {shown}"))?;
    let mut running = Running { child, name: shown };
    match running.wait_for(limit)? {
        Some(status) => Ok(status),
        None => bail!("{} did not end within {} s", running.name, limit.as_secs()),
    }
}

/// A started program that ends with this value: asked by SIGTERM, then killed.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    name: String,
}

impl Running {
    /// Starts `command`.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = show(command);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { child, name })
    }

    /// Its status once it has ended, or nothing after `limit`.
    pub(crate) fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .with_context(|| format!("waiting for {}", self.name))?
            {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end and waits; kills it when it does not.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)
            .with_context(|| format!("ending {}", self.name))?;
        if let Some(status) = self.wait_for(GRACE)? {
            return Ok(status);
        }
        eprintln!("xtask: {} ignored SIGTERM for {} s: killed", self.name, GRACE.as_secs());
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// Where `tool` is: PATH, then the directories of system programs, which a user's PATH may lack.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join(tool))
        .find(|file| file.is_file())
}

/// Characters of a command that are shown.
const LONGEST: usize = 160;

/// The command as one would type it.
fn show(command: &Command) -> String {
    let mut line = Path::new(command.get_program())
        .file_name()
        .map_or_else(String::new, lossy);
    for argument in command.get_args() {
        // Writing to a String cannot fail.
        let _ = write!(line, " {}", lossy(argument));
    }
    match line.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("`{} …`", &line[..cut]),
        None => format!("`{line}`"),
    }
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_complaint() {
        let error = output(Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no such luck") && error.contains("sh -c") && error.contains('3'),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let begin = Instant::now();
        let error = run_for(Command::new("sleep").arg("30"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
