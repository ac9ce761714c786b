//! Store lookups that do not wait for a disk that hangs.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use store::{Object, Store};

use crate::head::ObjectKey;

/// Longest wait for a disk to answer a lookup; after that, an answer from above comes sooner. The disk itself is given
/// more time ([`store::disk::CALL_MAX`]) before it counts as failed.
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(5);

/// The object stored under a key. One that cannot be read, or not in time, is a miss, and fetched.
pub(crate) async fn stored(store: &Store, key: &ObjectKey) -> Option<Object> {
    let mut looking = pin!(store.lookup(key.hash(), key.bytes()));
    let found = match futures_util::poll!(looking.as_mut()) {
        Poll::Ready(found) => found,
        // An object in memory is ready at once and needs no timer.
        Poll::Pending => match Box::pin(tokio::time::timeout(LOOK_MAX, looking)).await {
            Ok(found) => found,
            Err(_) => {
                tracing::warn!("lookup abandoned: the disk has not answered for {} seconds", LOOK_MAX.as_secs());
                return None;
            }
        },
    };
    found.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "lookup");
        None
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::UrlKey;
    use store::disk::{Disk, Failure, FaultyDisk};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_disk_that_hangs_does_not_say_in_time_is_not_there() {
        let disk = FaultyDisk::new(1);
        let disks = vec![store::DiskConfig { path: "disk".into(), capacity_bytes: 1 << 20 }];
        let config = store::Config { memory_bytes: 64 << 10, disks, segment_bytes: 64 << 10 };
        let handles: Vec<Arc<dyn Disk>> = vec![Arc::new(disk.clone())];
        let store = Store::open_on(config, handles).await.unwrap();
        let keys = [0, 1, 2, 3, 4, 5]
            .map(|number| ObjectKey::bare(&UrlKey::new("www.example.test", &format!("/{number}")).expect("a URL")));
        for key in &keys {
            let mut fill = store.begin_fill(key.hash(), key.bytes(), bytes::Bytes::new(), 1, None).unwrap();
            fill.append(vec![1; 15_000].into()).await.unwrap();
            fill.finish().await.unwrap();
        }
        disk.fail_after(0, Some(Failure::Hangs));
        let mut found = 0;
        for key in &keys {
            let begun = Instant::now();
            let in_memory = store.lookup_in_memory(key.hash(), key.bytes()).is_some();
            assert_eq!(stored(&store, key).await.is_some(), in_memory);
            assert_eq!(begun.elapsed().as_secs(), if in_memory { 0 } else { LOOK_MAX.as_secs() });
            found += usize::from(in_memory);
        }
        assert!(0 < found && found < keys.len(), "{found}");
    }
}
