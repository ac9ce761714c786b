//! Records under a bare URL other than bodies: the request fields by which its variants differ, and tags that came with
//! later slices.
//!
//! Both are read and changed under the URL's lock, so that concurrent fetches lose none of each other's changes.

use http::{HeaderMap, HeaderName};
use model::{Revision, Tags};
use store::WriteError;
use tokio::sync::MutexGuard;

use super::task::FillTask;
use super::{Fills, MARKERS_BATCH_MAX, VARY_FIELDS_MAX};
use crate::head::{self, Head, ObjectKey, Series, Stored};

impl Fills {
    /// Takes the lock for changing the record under a bare URL.
    pub(super) async fn turn(&self, bare: &ObjectKey) -> MutexGuard<'_, ()> {
        self.marking[(bare.hash().0 % MARKERS_BATCH_MAX as u128) as usize].lock().await
    }
}

impl FillTask<'_> {
    /// Adds the tags of a slice to its head, or a refresh by one of them would miss the body. The head keeps the tags
    /// it had, because other slices came with those.
    pub(super) async fn join_tags(&self, head: &Head, series: &Series, came: &HeaderMap) {
        let name = self.order.domain.tag_header.as_deref();
        if Tags::of(&head.headers, name).has_all(&Tags::of(came, name)) {
            return;
        }
        let (store, bare) = (&self.fills.store, ObjectKey::bare(&self.order.url));
        let _turn = self.fills.turn(&bare).await;
        let Ok(Some(object)) = store.lookup(bare.hash(), bare.bytes()).await else { return };
        let Some((_, Stored::Object(head))) = head::read(&object) else { return };
        let mut headers = head.headers.clone();
        if head.slices != Some(*series) || !Tags::join(&mut headers, came, name) {
            return;
        }
        if let Err(error) = store.update_head(&object, head.with(headers).encode(), object.stamp()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "tags of a slice were not stored");
            // A refresh by such a tag would miss it.
            let _ = store.remove(bare.hash(), bare.bytes(), store::Which::Only(object.generation())).await;
        }
    }

    /// Writes a marker under the bare URL with the fields by which the variants differ, before anybody is told that
    /// there are any. Returns the marker's generation and all its fields: where answers name different fields, variants
    /// are told apart by all of them.
    pub(super) async fn mark_variants(
        &self,
        mut vary: Vec<HeaderName>,
        stamp: Revision,
    ) -> Result<(store::Generation, Vec<HeaderName>), WriteError> {
        let bare = ObjectKey::bare(&self.order.url);
        let _turn = self.fills.turn(&bare).await;
        if let Ok(Some(object)) = self.fills.store.lookup(bare.hash(), bare.bytes()).await
            && let Some((log, Stored::Marker(kept))) = head::read(&object)
            && *log == self.log
        {
            if vary.iter().all(|name| kept.contains(name)) {
                return Ok((object.generation(), kept.clone()));
            }
            let all: Vec<HeaderName> =
                kept.iter().chain(vary.iter().filter(|name| !kept.contains(name))).cloned().collect();
            if all.len() <= VARY_FIELDS_MAX {
                vary = all;
            }
        }
        let overtaken = self.turn_to_store(&bare).await;
        if *overtaken {
            return Err(WriteError::Evicted);
        }
        let fill = self.fills.store.begin_fill(
            bare.hash(),
            bare.bytes(),
            head::encode_marker(self.log, &vary),
            stamp.0,
            Some(0),
        )?;
        fill.finish_visible().await.map(|(marker, _)| (marker.generation(), vary))
    }
}
