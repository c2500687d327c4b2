//! Names and those who ask for them: a resolver that answers by a table, a client that does what a list of steps says,
//! and a client that misbehaves. Small on purpose: what they say is the truth of scenarios.

pub(crate) mod message;
pub(crate) mod noise;
pub(crate) mod resolver;
pub(crate) mod steps;
