//! How a kernel may be made to let go of the processor; not every kernel has every mode.

use std::fmt::{self, Display, Formatter};

/// The kernel's `preempt=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Preempt {
    /// Anywhere.
    Full,
    /// Anywhere for real-time tasks, at the next tick for others (from 6.13).
    Lazy,
    /// Where the kernel asks whether it should (before 7.0).
    Voluntary,
    /// On the way back to the program (before 7.0).
    None,
}

impl Display for Preempt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Lazy => "lazy",
            Self::Voluntary => "voluntary",
            Self::None => "none",
        })
    }
}
