//! What happened that somebody should know of: the detector of RTT spikes, its records, and the last events of all kinds.
//!
//! Pure: the pipeline tells the detector what the windows are like, and gives the names to what it finds.
mod path;
mod recent;
mod record;
mod spike;

pub use path::{PathEvent, SpikePath};
pub use recent::{Recent, RecentCounts};
pub use record::{SpikeConnection, SpikeDestination, SpikeProcess, SpikeRecord, SpikeWindow};
pub use spike::{Ended, Incident, MOST_CONNECTIONS, Place, SpikeSettings, Spikes, State};
