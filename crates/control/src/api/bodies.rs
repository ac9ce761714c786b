//! Reads request bodies within bounds, before the sender is known.
//!
//! Not here: the meaning of a body.

use std::net::IpAddr;
use std::sync::Arc;

use aliyun::{BODY_BYTES_MAX, Refusal};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming as Body;

use super::READ_MAX;
use crate::strangers::Strangers;

/// The most bodies that are read at a time; further senders are told to come back.
pub(crate) const READING_MAX: usize = 512;

/// The most of those from one address.
const READING_OF_ONE_MAX: usize = 128;

/// Bytes of an oversized body that are read and discarded before the answer.
const BODY_DRAINED_MAX: usize = 16 * BODY_BYTES_MAX;

/// The senders of bodies that are being read.
pub(super) fn senders() -> Arc<Strangers> {
    Strangers::new(READING_MAX, READING_OF_ONE_MAX)
}

/// Reads a body; `None` if there is no room for its sender.
pub(super) async fn read(senders: &Arc<Strangers>, body: Body, from: Option<IpAddr>) -> Option<Result<Bytes, Refusal>> {
    let _sender = senders.let_in(from)?;
    Some(match tokio::time::timeout(READ_MAX, read_all(body)).await {
        Ok(read) => read,
        Err(_) => Err(Refusal::invalid("body", "it did not arrive in time")),
    })
}

/// Reads a body within its bound. An oversized body is still read and discarded for a while: a client that is
/// disconnected while it sends never sees the reason.
async fn read_all(mut body: Body) -> Result<Bytes, Refusal> {
    let mut whole = Vec::new();
    let mut came = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::invalid("body", "it ended before its length"))?;
        let Some(data) = frame.data_ref() else { continue };
        came += data.len();
        if came > BODY_DRAINED_MAX {
            break;
        }
        if came <= BODY_BYTES_MAX {
            whole.extend_from_slice(data);
        } else {
            whole = Vec::new();
        }
    }
    if came > BODY_BYTES_MAX { Err(Refusal::too_large(BODY_BYTES_MAX)) } else { Ok(Bytes::from(whole)) }
}
