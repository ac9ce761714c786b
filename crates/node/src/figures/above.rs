//! Answers of origins, counted as they are read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use model::UrlKey;

use super::{Ended, Figures, Slot};
use crate::limiter;
use crate::room;

/// The body of an answer from above.
pub(crate) struct FromAbove {
    body: Incoming,
    /// There if an origin sent it.
    meter: Option<Meter>,
    /// Its place at the origin, until it is dropped or given up.
    permit: Option<limiter::Permit>,
    /// Its place among the requests that go past the store, if it is one.
    _passing: Option<room::Place>,
}

/// Counts one answer of an origin when dropped, with the bytes of its body that were read until then.
pub(crate) struct Meter {
    pub(crate) figures: Arc<Figures>,
    pub(crate) slot: Slot,
    pub(crate) url: UrlKey,
    /// When the origin was asked, by the wall clock.
    pub(crate) at: SystemTime,
    /// By TLS.
    pub(crate) secure: bool,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.figures.count(&Ended {
            slot: self.slot,
            url: &self.url,
            at: self.at,
            origin: true,
            secure: self.secure,
            status: self.status,
            bytes: self.bytes,
            hit: false,
        });
    }
}

impl FromAbove {
    /// The body of a parent's answer.
    pub(crate) fn parent(body: Incoming) -> FromAbove {
        FromAbove { body, meter: None, permit: None, _passing: None }
    }

    /// The body of an origin's answer.
    pub(crate) fn origin(body: Incoming, meter: Option<Meter>, permit: limiter::Permit) -> FromAbove {
        FromAbove { body, meter, permit: Some(permit), _passing: None }
    }

    /// Waits until more of it may be read: bodies of prefetches come no faster than their domain's owner allows.
    pub(crate) async fn readable(&self) {
        if let Some(permit) = &self.permit {
            permit.readable().await;
        }
    }

    /// Makes it count as one that goes past the store, until it is dropped.
    pub(crate) fn passes(self, place: room::Place) -> FromAbove {
        FromAbove { _passing: Some(place), ..self }
    }

    /// Gives up its place at the origin: whoever has one must not wait for another.
    pub(crate) fn leave(&mut self) {
        self.permit = None;
    }
}

impl Body for FromAbove {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            if let Some(meter) = &mut self.meter {
                meter.bytes += bytes.len() as u64;
            }
            if let Some(permit) = &self.permit {
                permit.read(bytes.len());
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
