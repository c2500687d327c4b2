//! How full each table of the pipeline is: one list for the metrics, in the order of the flow.
use super::{MAX_LISTENERS, Pipeline};
use crate::capacity::TableUse;

impl Pipeline {
    /// Listeners that are shown at most.
    pub(super) fn max_listeners(&self) -> usize {
        self.settings.tables.of(MAX_LISTENERS)
    }

    /// Every table whose entries come from what strangers do.
    pub(super) fn tables(&self) -> Vec<TableUse> {
        let alone = [
            self.connections.usage(),
            TableUse::new("listeners", self.listeners.len(), self.max_listeners()),
            self.unplaced_rtt.usage(),
            self.facts.usage(),
            self.tickets.usage(),
            self.libraries.usage(),
            self.held.usage(),
            self.subflows.usage(),
            self.events.usage(),
        ];
        alone
            .into_iter()
            .chain(self.attribution.uses())
            .chain(self.hellos.uses())
            .chain(self.resolution.uses())
            .chain(self.workloads.uses())
            .chain(self.series.uses())
            .chain(self.staying.uses())
            .chain(self.paths.uses())
            .chain(self.linking.uses())
            .collect()
    }
}
