//! Disks that are left out at one start and are back at the next: what was removed in between must not come back with them.
//!
//! Nothing can be written to a disk that is left out, so the others are marked. Where one that they name is there again, what it holds
//! is made void before it is read.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::format::{VOID_NAME, left_out_name};

/// A disk that could be opened, and the hash of its path.
pub(crate) type Present = (u64, Arc<dyn Disk>);

/// Makes void what lies on a disk that the others say was left out. An error says that this could not be done, so it has to be again.
pub(crate) async fn make_void_if_it_was_left_out(seed: u64, path: &Path, present: &[Present]) -> io::Result<()> {
    let mark = left_out_name(seed);
    let Some((_, disk)) = present.iter().find(|(its, _)| *its == seed) else { return Ok(()) };
    let mut marked = Vec::new();
    for (_, other) in present {
        // One that cannot be read is left out itself, and keeps its mark.
        if other.list().await.is_ok_and(|names| names.contains(&mark)) {
            marked.push(other);
        }
    }
    if marked.is_empty() {
        return Ok(());
    }
    tracing::warn!(disk = %path.display(), "the disk was left out before; nothing on it counts");
    create(&**disk, VOID_NAME).await?;
    for other in marked {
        if let Err(error) = other.remove(&mark).await {
            tracing::warn!(disk = %path.display(), %error, "what the disk holds will be void at the next start, too");
        }
    }
    Ok(())
}

/// Marks the disks that are there; false if none of them could be.
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

/// Creates a file that may be there already.
async fn create(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.create(name, 1).await {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
