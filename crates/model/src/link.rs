//! The messages of the link between a node and the control plane, generated from `proto/link.proto`, and their
//! conversion to and from the types of this crate.
//!
//! The services are generated where they are used: the server in `control`, the client in `node`.

#![allow(missing_docs, reason = "generated; the proto file documents each message")]

use std::fmt;

use crate::figures;
use crate::prefetch;
use crate::revision::Revision;
use crate::share;

pub use wire::*;

/// Generated messages.
mod wire {
    include!(concat!(env!("OUT_DIR"), "/warmfront.link.v1.rs"));
}

/// Largest message either side sends, in bytes; batches of entries and jobs are split to fit.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Maximum number of entries in one sweep report.
pub const SWEPT_ENTRIES_MAX: usize = 4096;

/// Maximum number of rows (minutes of domains and lists of URLs) in one report of figures: it is stored in one
/// transaction, which others wait for.
pub const FIGURES_ROWS_MAX: usize = 64;

/// Maximum number of URLs in all lists of one report.
pub const FIGURES_URLS_MAX: usize = 1_024;

/// Maximum number of shared limits in one message of what a node wants: they are stored in one transaction.
pub const SHARES_MAX: usize = 256;

/// Longest name of a shared limit, in bytes.
pub const SHARE_NAME_BYTES_MAX: usize = 600;

/// How long a share may be used, counted from when the node sent its request for it.
pub const SHARE_LEASE: std::time::Duration = std::time::Duration::from_secs(10);

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

/// A message that is invalid.
#[derive(Debug, thiserror::Error)]
#[error("message of the link has an invalid field: {field}")]
pub struct BadMessage {
    /// The invalid field.
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
            verbatim: job.verbatim,
            refetch: job.refetch,
            pin: job.pin.map(|pin| Pin { until: pin.until, owner: pin.owner, bytes_max: pin.bytes_max }),
            again: job.again,
            look: job.look,
            account: job.account,
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
            verbatim: job.verbatim,
            refetch: job.refetch,
            pin: job.pin.map(|pin| prefetch::Pin { until: pin.until, owner: pin.owner, bytes_max: pin.bytes_max }),
            again: job.again,
            look: job.look,
            account: job.account,
        }
    }
}

impl From<&prefetch::Report> for Report {
    fn from(report: &prefetch::Report) -> Report {
        let outcome =
            serde_json::to_vec(&report.outcome).expect("our own types have string keys and no failing serialiser");
        let begin_after = report.begin_after.0;
        Report { chunk: report.chunk, index: report.index, outcome, took_ms: report.took_ms, begin_after }
    }
}

impl TryFrom<Report> for prefetch::Report {
    type Error = BadMessage;

    fn try_from(report: Report) -> Result<Self, Self::Error> {
        let outcome = serde_json::from_slice(&report.outcome).map_err(|_| BadMessage { field: "outcome" })?;
        let begin_after = Revision(report.begin_after);
        Ok(prefetch::Report { chunk: report.chunk, index: report.index, begin_after, took_ms: report.took_ms, outcome })
    }
}

impl From<prefetch::UnderWay> for UnderWay {
    fn from(job: prefetch::UnderWay) -> UnderWay {
        UnderWay { chunk: job.chunk, index: job.index, bytes: job.bytes, length: job.length }
    }
}

impl From<UnderWay> for prefetch::UnderWay {
    fn from(job: UnderWay) -> prefetch::UnderWay {
        prefetch::UnderWay { chunk: job.chunk, index: job.index, bytes: job.bytes, length: job.length }
    }
}

impl From<&Want> for share::Want {
    fn from(want: &Want) -> share::Want {
        share::Want {
            wanted: want.wanted,
            users: want.users,
            used: want.used,
            heard: want.heard,
            granted: want.granted,
            feels: want.feels,
            limit: want.limit,
            failed: want.failed,
            closed_ms: want.closed_ms,
        }
    }
}

impl share::Grant {
    /// The answer to a want.
    pub fn of(self, want: &Want) -> Share {
        let share::Grant { number, granted, feels, taken, limit, failed, closed_ms } = self;
        Share { shared: want.shared, name: want.name.clone(), number, granted, feels, taken, limit, failed, closed_ms }
    }
}

impl From<figures::Tally> for Tally {
    fn from(tally: figures::Tally) -> Tally {
        Tally { requests: tally.requests, bytes: tally.bytes, hits: tally.hits, hit_bytes: tally.hit_bytes }
    }
}

impl From<Tally> for figures::Tally {
    fn from(tally: Tally) -> figures::Tally {
        figures::Tally { requests: tally.requests, bytes: tally.bytes, hits: tally.hits, hit_bytes: tally.hit_bytes }
    }
}

impl From<&figures::Side> for Side {
    fn from(side: &figures::Side) -> Side {
        let code = |(status, count): (&u16, &u64)| Code { status: u32::from(*status), count: *count };
        Side {
            all: Some(side.all.into()),
            secure: Some(side.secure.into()),
            codes: side.codes.iter().map(code).collect(),
        }
    }
}

impl TryFrom<Side> for figures::Side {
    type Error = BadMessage;

    fn try_from(side: Side) -> Result<figures::Side, BadMessage> {
        let code = |code: Code| match u16::try_from(code.status) {
            Ok(status @ 100..=999) => Ok((status, code.count)),
            _ => Err(BadMessage { field: "status" }),
        };
        Ok(figures::Side {
            all: side.all.unwrap_or_default().into(),
            secure: side.secure.unwrap_or_default().into(),
            codes: side.codes.into_iter().map(code).collect::<Result<_, _>>()?,
        })
    }
}

impl MinuteFigures {
    /// The counts.
    pub fn figures(&self) -> Result<figures::Figures, BadMessage> {
        let side = |side: &Option<Side>| side.clone().unwrap_or_default().try_into();
        Ok(figures::Figures { users: side(&self.users)?, origins: side(&self.origins)? })
    }
}

impl HourUrls {
    /// The URLs.
    pub fn sketch(&self) -> Result<figures::Sketch, BadMessage> {
        let mut sketch = figures::Sketch::default();
        for Url { class, url, requests, bytes } in &self.urls {
            let class = figures::Class::of_digit(*class).ok_or(BadMessage { field: "class" })?;
            if url.len() > figures::SKETCH_URL_BYTES_MAX {
                return Err(BadMessage { field: "url" });
            }
            sketch.count(class, figures::Visits { url: url.clone(), requests: *requests, bytes: *bytes });
        }
        Ok(sketch)
    }
}
