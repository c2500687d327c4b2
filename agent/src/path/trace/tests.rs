//! Traces over a network that is made up.
