//! The messages of the link between a node and the control plane, as generated from `proto/link.proto`, and
//! their way to and from the product's own values.
//!
//! The services around them are generated where they are used: the server in `control`, the client in `node`.

#![allow(missing_docs, reason = "generated; the proto file documents each message")]

use std::fmt;

use crate::prefetch;
use crate::revision::Revision;

pub use wire::*;

/// Generated messages.
mod wire {
    include!(concat!(env!("OUT_DIR"), "/warmfront.link.v1.rs"));
}

/// Largest message either side sends, in bytes; batches of entries and jobs are cut to fit.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Entries in one message of what was swept.
pub const SWEPT_ENTRIES_MAX: usize = 4096;

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("name", &self.name).field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome").field("head", &self.head).field("joins", &self.joins).finish_non_exhaustive()
    }
}

/// Why a message does not make sense.
#[derive(Debug, thiserror::Error)]
#[error("message of the link has a field that does not make sense: {field}")]
pub struct BadMessage {
    /// The field.
    pub field: &'static str,
}

impl From<prefetch::Job> for Job {
    fn from(job: prefetch::Job) -> Job {
        Job {
            chunk: job.chunk,
            index: job.index,
            url: job.url,
            headers: job.headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
            begin_after: job.begin_after.0,
        }
    }
}

impl From<Job> for prefetch::Job {
    fn from(job: Job) -> prefetch::Job {
        prefetch::Job {
            chunk: job.chunk,
            index: job.index,
            url: job.url,
            headers: job.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            begin_after: Revision(job.begin_after),
        }
    }
}

impl From<&prefetch::Report> for Report {
    fn from(report: &prefetch::Report) -> Report {
        let outcome =
            serde_json::to_vec(&report.outcome).expect("our own types have string keys and no failing serialiser");
        Report { chunk: report.chunk, index: report.index, outcome }
    }
}

impl TryFrom<Report> for prefetch::Report {
    type Error = BadMessage;

    fn try_from(report: Report) -> Result<Self, Self::Error> {
        let outcome = serde_json::from_slice(&report.outcome).map_err(|_| BadMessage { field: "outcome" })?;
        Ok(prefetch::Report { chunk: report.chunk, index: report.index, outcome })
    }
}
