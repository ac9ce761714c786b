//! A prefetch job as handed to a node, and what the node reports about it.
//!
//! Jobs are work, not knowledge: they travel beside the log. A job carries the head of the log at its submission, and a
//! node begins it only once that revision is applied; otherwise it would warm objects that an earlier refresh has
//! already covered.

use serde::{Deserialize, Serialize};

use crate::revision::Revision;

/// Jobs that one node may hold unreported at any time; the control plane leases no more, and a node refuses more.
pub const JOBS_PER_NODE_MAX: usize = 1024;

/// Maximum number of jobs in one progress message.
pub const UNDER_WAY_MAX: usize = 256;

/// One object to be made resident on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The chunk it belongs to; with `index` it identifies the job to the control plane.
    pub chunk: u64,
    /// Index of the URL and variant in the chunk.
    pub index: u32,
    /// `http://HOST/PATH`, host lower case.
    pub url: String,
    /// Request headers of the variant, such as `Accept-Encoding: gzip`.
    pub headers: Vec<(String, String)>,
    /// The log's head at submission: begin only once this is applied.
    pub begin_after: Revision,
    /// Whether the object is stored under the URL as written, even if users' requests for it map to another key.
    #[serde(default)]
    pub verbatim: bool,
    /// Whether to ignore stored copies unless they were fetched for a refetch of this or a later chunk. Chunks are
    /// numbered in the order of their submission.
    #[serde(default)]
    pub refetch: bool,
    /// Whether the object is to be pinned in the store, and until when.
    #[serde(default)]
    pub pin: Option<Pin>,
    /// Whether an earlier try failed, so that a request to the origin for it is a retry.
    #[serde(default)]
    pub again: bool,
    /// Whether the node reported the object resident before. It says whether that is still so: *resident*, or [`Cause::Evicted`]. It
    /// fetches nothing.
    #[serde(default)]
    pub look: bool,
    /// Stands for the account that asked for it, see [`account_number`]: a node's jobs take turns by account. Zero if
    /// leased by a control plane of an earlier version, which does not send it.
    #[serde(default)]
    pub account: u64,
}

/// The number that stands for an account in jobs and pins. Nodes persist it with pins, so its derivation must not change.
pub fn account_number(account: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(account.as_bytes())
}

impl Job {
    /// The report for it, after `took_ms` milliseconds.
    pub fn report(&self, took_ms: u64, outcome: Outcome) -> Report {
        Report { chunk: self.chunk, index: self.index, begin_after: self.begin_after, took_ms, outcome }
    }
}

/// A wish that an object stays in the stores where it is made resident, even under eviction pressure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Until when, in seconds since 1970.
    pub until: u64,
    /// Stands for the account that pins it; see [`account_number`].
    pub owner: u64,
    /// Bytes of bodies that the account may have pinned on one node at a time.
    pub bytes_max: u64,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// As in the job.
    pub chunk: u64,
    /// As in the job.
    pub index: u32,
    /// As in the job; a job issued again because the way its object is stored has changed has a new value. Zero if
    /// reported by a node of an earlier version, which does not send it.
    #[serde(default)]
    pub begin_after: Revision,
    /// How long the job ran on the node, in milliseconds.
    pub took_ms: u64,
    /// The outcome.
    pub outcome: Outcome,
}

/// Progress of a job's fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// As in the job.
    pub chunk: u64,
    /// As in the job.
    pub index: u32,
    /// Bytes received.
    pub bytes: u64,
    /// Bytes announced.
    pub length: u64,
}

/// The outcome of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The node's store holds the whole object, re-read and checked.
    Resident {
        /// Length of the body.
        bytes: u64,
        /// CRC-32C or CRC-32 of the whole body as it was re-read.
        checksum: u32,
        /// ETag or Last-Modified of the stored response.
        validator: Option<String>,
        /// Whether the node had to ask its parent or the origin; false if a good copy was already stored.
        fetched: bool,
    },
    /// The object will not become resident by this job.
    Failed(Cause),
}

/// Why an object is not resident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The origin answered with a status that is not stored as the object.
    #[error("origin answered {0}")]
    OriginStatus(u16),
    /// The origin did not answer in time.
    #[error("origin did not answer in time")]
    OriginTimeout,
    /// No connection to the origin, or it broke.
    #[error("origin could not be reached: {0}")]
    OriginUnreachable(String),
    /// The origin is at its limit, or said when to come back; it was not asked.
    #[error("origin is to be asked again in {seconds} seconds")]
    OriginBusy {
        /// After how long, in seconds.
        seconds: u64,
    },
    /// The answer may not be stored; the reason is for humans.
    #[error("answer may not be stored: {0}")]
    NotStorable(String),
    /// The body ended short of its announced length.
    #[error("body ended after {got} of {expected} bytes")]
    Truncated {
        /// Bytes received.
        got: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// No store of the node can hold it.
    #[error("larger than the store of the node")]
    TooLarge,
    /// The store failed; the description is for humans.
    #[error("store of the node failed: {0}")]
    Store(String),
    /// It is resident, but could not be pinned as requested; the reason is for humans.
    #[error("resident, but not pinned: {0}")]
    NotPinned(String),
    /// It was evicted, or became stale, before it could be checked or before the prefetch ended.
    #[error("evicted, refreshed or stale again before the prefetch ended")]
    Evicted,
    /// The node does not serve the domain (any longer).
    #[error("domain is not served")]
    UnknownDomain,
    /// No live node took the job before the deadline.
    #[error("no live node took it in time")]
    NoTarget,
    /// The deadline of the task passed while the job was running.
    #[error("not done before the deadline of the task")]
    Deadline,
    /// The account cancelled the task before it was done.
    #[error("cancelled before it was done")]
    Cancelled,
    /// The stored results of an ended task are damaged, or written by a later version. Never stored: found each time
    /// they are read.
    #[error("its outcome cannot be read any more")]
    Unreadable,
}

impl Cause {
    /// Whether the same job may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Cause::OriginStatus(status) => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            Cause::OriginBusy { .. }
            | Cause::OriginTimeout
            | Cause::OriginUnreachable(_)
            | Cause::Truncated { .. }
            | Cause::Evicted => true,
            Cause::Store(_) => true,
            Cause::NotStorable(_) | Cause::NotPinned(_) | Cause::TooLarge => false,
            Cause::UnknownDomain | Cause::NoTarget | Cause::Deadline => false,
            Cause::Cancelled | Cause::Unreadable => false,
        }
    }
}
