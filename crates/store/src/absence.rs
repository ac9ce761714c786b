//! Disks that are missing at one start and back at the next: objects removed in between must not come back with them.
//!
//! Nothing can be written to a missing disk, so the other disks are marked. When a disk that they name is back, its
//! contents are made void before they are read.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::format::{VOID_NAME, left_out_name};
use crate::outage::is_of_disk;

/// A disk that could be opened, and the hash of its path.
pub(crate) type Present = (u64, Arc<dyn Disk>);

/// Makes the contents of a disk void if the other disks say that it was missing. On an error that was not done, and the
/// disk has to be left out again.
pub(crate) async fn make_void_if_it_was_left_out(seed: u64, path: &Path, present: &[Present]) -> io::Result<()> {
    let mark = left_out_name(seed);
    let Some((_, disk)) = present.iter().find(|(its, _)| *its == seed) else { return Ok(()) };
    let mut marked = Vec::new();
    for (_, other) in present {
        match other.list().await {
            Ok(names) if names.contains(&mark) => marked.push(other),
            // The disk works, and may have a mark.
            Err(error) if !is_of_disk(&error) => return Err(error),
            // A disk that cannot be listed is left out itself, and keeps its mark.
            Ok(_) | Err(_) => {}
        }
    }
    if marked.is_empty() {
        return Ok(());
    }
    tracing::warn!(disk = %path.display(), "the disk was missing at an earlier start; its contents are discarded");
    create(&**disk, VOID_NAME).await?;
    for other in marked {
        if let Err(error) = other.remove(&mark).await {
            tracing::warn!(disk = %path.display(), %error, "the contents of the disk will be discarded at the next start, too");
        }
    }
    Ok(())
}

/// Marks the disks that are present; `false` if none could be marked.
pub(crate) async fn mark_left_out(seed: u64, path: &Path, present: &[Present]) -> bool {
    let mut marked = false;
    for (_, other) in present {
        match create(&**other, &left_out_name(seed)).await {
            Ok(()) => marked = true,
            Err(error) => tracing::warn!(disk = %path.display(), %error, "another disk could not be marked"),
        }
    }
    marked
}

/// Creates a file that may already exist.
async fn create(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.create(name, 1).await {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
