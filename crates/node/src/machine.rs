//! The machine under a node where it is not the operating system's: for simulations.

use std::sync::Arc;

use model::Clock;
use store::disk::Disk;

use crate::network::Network;
use crate::slices::SliceSizes;

/// A machine for [`crate::Node::start_on`].
pub struct Machine<J> {
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
    /// Its network.
    pub network: Arc<dyn Network>,
    /// One for each `[[disk]]` of the configuration, whose paths then only name them.
    pub disks: Vec<Arc<dyn Disk>>,
    /// The storage of the journal, a [`redb::StorageBackend`]. Calls must not block: they run on the thread that
    /// serves.
    pub journal: J,
    /// Small bounds let a small world reach everything that a large one does.
    pub bounds: Bounds,
}

/// Sizes that bound a node's behaviour.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Index entries and kept log entries beyond which the oldest are retired behind the floor (fence rule 9).
    pub retire_above: usize,
    /// The sizes of slices of large bodies.
    pub slices: SliceSizes,
}
