//! What a node runs on, where that is not the operating system's: for simulations.

use std::sync::Arc;

use model::Clock;
use store::disk::Disk;

use crate::network::Network;
use crate::slices::SliceSizes;

/// A machine for [`crate::Node::start_on`].
pub struct Machine<J> {
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
    /// Its way to others.
    pub network: Arc<dyn Network>,
    /// One for each `[[disk]]` of the configuration, whose paths then only name them.
    pub disks: Vec<Arc<dyn Disk>>,
    /// Where the journal lies, a [`redb::StorageBackend`]. Calls do not wait: they happen on the thread that serves.
    pub journal: J,
    /// Small ones make a small world meet all that a large one does.
    pub bounds: Bounds,
}

/// Sizes that a node goes by.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Index entries and kept log entries beyond which the oldest are retired behind the floor (fence rule 9).
    pub retire_above: usize,
    /// How large bodies are cut.
    pub slices: SliceSizes,
}
