//! Processors that do not sleep, for scenarios that wait most of the time and hold hopline to milliseconds.
//!
//! The host of a virtual machine gives a sleeping processor to others, and is late to give it back (*measured*: 60 to 80 % of
//! the little time wanted while `path` ran, 3 % with this). Loops of the idle class run only where nobody else wants to.

use std::fs;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::{Lab, Tolerance};

/// Until it is dropped.
#[derive(Debug)]
pub(crate) struct Awake {
    ends: Arc<AtomicBool>,
    loops: Vec<JoinHandle<()>>,
}

impl Awake {
    /// Not in a machine that is emulated, where a loop is work.
    pub(crate) fn keep(lab: &Lab) -> Result<Self> {
        Self::start(lab.tolerance == Tolerance::Host)
    }

    /// Nothing on a machine of its own.
    fn start(wanted: bool) -> Result<Self> {
        let is_guest = fs::read_to_string("/proc/cpuinfo")?.contains(" hypervisor");
        let processors = if is_guest && wanted {
            thread::available_parallelism()?.get()
        } else {
            0
        };
        let ends = Arc::new(AtomicBool::new(false));
        let loops = (0..processors).map(|processor| {
            let ends = Arc::clone(&ends);
            thread::spawn(move || {
                if becomes_idle(processor) {
                    while !ends.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            })
        });
        Ok(Self {
            loops: loops.collect(),
            ends,
        })
    }
}

/// `lab internal awake`: for `cargo xtask bench`, which has the same trouble. Until stdin closes.
pub(crate) fn run() -> Result<()> {
    let _awake = Awake::start(true)?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for ended in self.loops.drain(..) {
            let _cannot_panic = ended.join();
        }
    }
}

/// Puts this thread on one processor, behind everybody else; false where that is refused: then it must not run.
fn becomes_idle(processor: usize) -> bool {
    let mut set = CpuSet::new();
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live through the call, which is about this thread.
    let is_idle = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } == 0;
    is_idle && set.set(processor).is_ok() && sched_setaffinity(Pid::from_raw(0), &set).is_ok()
}
