//! What the kernel programs say, in debug builds only: `aya-log` records on their way to `tracing`.

use std::{sync::Arc, thread, time::Duration};

use aya::Ebpf;
use aya_log::EbpfLogger;

/// How often the programs' words are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Writes the programs' words to the log until the returned token is dropped.
pub(super) fn forward(ebpf: &mut Ebpf) -> Arc<()> {
    let token = Arc::new(());
    let alive = Arc::downgrade(&token);
    match EbpfLogger::init(ebpf) {
        Ok(mut logger) => {
            thread::spawn(move || {
                while alive.strong_count() > 0 {
                    logger.flush();
                    thread::sleep(LOOK_EVERY);
                }
            });
        }
        Err(error) => tracing::debug!(%error, "the kernel programs stay silent"),
    }
    token
}
