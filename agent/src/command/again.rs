//! Becomes this program anew, with the arguments and the capabilities that it was started with. Used where what was decided at
//! the start no longer holds: the end of safe mode.
use std::{
    env, io,
    os::unix::process::CommandExt as _,
    process::{self, Command},
    sync::mpsc::{Sender, channel},
    thread,
};

/// A thread that still has every capability, and waits.
#[derive(Debug)]
pub(super) struct Again {
    go: Sender<()>,
}

impl Again {
    /// Starts it; before capabilities are dropped.
    pub(super) fn prepare() -> io::Result<Self> {
        let (go, told) = channel();
        thread::Builder::new().name("again".to_owned()).spawn(move || {
            // An error: nobody will ask any more.
            if told.recv().is_ok() {
                let mut arguments = env::args_os();
                let name = arguments.next().unwrap_or_else(|| "hopline".into());
                let error = Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
                eprintln!("hopline: cannot start anew: {error}");
                process::exit(1);
            }
        })?;
        Ok(Self { go })
    }

    /// Ends this program; the new one has its process id.
    pub(super) fn begin(self) -> ! {
        // Only a panic could have ended the thread.
        if self.go.send(()).is_err() {
            process::exit(1);
        }
        loop {
            thread::park();
        }
    }
}
