//! Generators and servers: processes of this binary (`lab internal …`) that a scenario starts in a namespace and cgroup.
//!
//! Each prints its own truth as JSON lines on stdout, ends by itself when its work is done or its stdin closes, and
//! knows nothing of hopline.

pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod fill;
pub(crate) mod flood;
pub(crate) mod hosts;
pub(crate) mod many;
pub(crate) mod mutual;
pub(crate) mod names;
pub(crate) mod once;
pub(crate) mod pulse;
pub(crate) mod race;
pub(crate) mod raw;
pub(crate) mod refuse;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod starve;
pub(crate) mod stay;
pub(crate) mod storm;
pub(crate) mod talk;
