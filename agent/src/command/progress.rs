//! A bar on stderr while somebody waits at a terminal.
use std::io::{self, IsTerminal as _, Write as _};

const WIDTH: u64 = 40;

/// The bar; dropping it wipes it away.
#[derive(Debug)]
pub(super) struct Progress {
    total: u64,
    done: u64,
    is_shown: bool,
}

impl Progress {
    /// An empty bar, when there is a terminal to show it.
    pub(super) fn start(total: u64) -> Self {
        let progress = Self {
            total,
            done: 0,
            is_shown: io::stderr().is_terminal(),
        };
        progress.show();
        progress
    }

    /// One more is done.
    pub(super) fn step(&mut self) {
        self.done += 1;
        self.show();
    }

    fn show(&self) {
        if self.is_shown {
            write(&format!("\r{}", bar(self.done, self.total)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            // To the start of the line, and what is behind it goes (ECMA-48 section 8.3.41).
            write("\r\x1b[K");
        }
    }
}

/// A terminal that has gone needs no bar.
fn write(text: &str) {
    let mut terminal = io::stderr().lock();
    drop(terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush()));
}

fn bar(done: u64, total: u64) -> String {
    let filled = (done * WIDTH).checked_div(total).unwrap_or(WIDTH).min(WIDTH) as usize;
    let empty = WIDTH as usize - filled;
    format!("[{}{}] {done}/{total}", "=".repeat(filled), " ".repeat(empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        let check = |done, total, filled: usize| {
            let bar = bar(done, total);
            assert_eq!(bar.matches('=').count(), filled, "{bar}");
            assert!(
                bar.ends_with(&format!("] {done}/{total}")) && bar.find(']') == Some(41),
                "{bar}"
            );
        };
        check(0, 7, 0);
        check(3, 6, 20);
        check(6, 6, 40);
        check(9, 6, 40);
        check(0, 0, 40);
    }
}
