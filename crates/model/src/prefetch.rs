//! A prefetch job, as it is handed to a node, and what the node reports of it.
//!
//! Jobs are work, not knowledge: they travel beside the log. A job carries the head of the log at its submission
//! and a node begins it only once that is applied, or it would warm what a refresh before it has already taken.

use serde::{Deserialize, Serialize};

use crate::revision::Revision;

/// Jobs that one node may hold unreported at any time; control leases no more, a node refuses more.
pub const JOBS_PER_NODE_MAX: usize = 1024;

/// Jobs in one message of how far they are.
pub const UNDER_WAY_MAX: usize = 256;

/// One object to be made resident on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The stored batch it belongs to; with `index` it names the job to the control plane.
    pub chunk: u64,
    /// Which URL and variant of the batch.
    pub index: u32,
    /// `http://HOST/PATH`, host lower case.
    pub url: String,
    /// Request headers of the variant, such as `Accept-Encoding: gzip`.
    pub headers: Vec<(String, String)>,
    /// The log's head at submission: begin only once this is applied.
    pub begin_after: Revision,
    /// Whether it is kept under the URL as it stands, though users' requests for it may have another key.
    #[serde(default)]
    pub verbatim: bool,
    /// Whether a copy will not do that was fetched for no refetch, or for one of an earlier chunk: chunks are numbered in the order
    /// of their submission.
    #[serde(default)]
    pub refetch: bool,
    /// That it is to stay in the store, and until when.
    #[serde(default)]
    pub pin: Option<Pin>,
    /// Whether the node reported the object resident before. It says whether that is still so: *resident*, or [`Cause::Evicted`]. It
    /// fetches nothing.
    #[serde(default)]
    pub look: bool,
}

impl Job {
    /// What is told of it after so many milliseconds.
    pub fn report(&self, took_ms: u64, outcome: Outcome) -> Report {
        Report { chunk: self.chunk, index: self.index, begin_after: self.begin_after, took_ms, outcome }
    }
}

/// A wish that an object stays in the stores where it is made resident, whatever else comes there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Until when, in seconds since 1970.
    pub until: u64,
    /// What stands for the account whose wish it is.
    pub owner: u64,
    /// Bytes of bodies that the account may have pinned on one node at a time.
    pub bytes_max: u64,
}

impl Pin {
    /// What stands for an account. Nodes write it down, so its making is stable.
    pub fn owner_of(account: &str) -> u64 {
        xxhash_rust::xxh3::xxh3_64(account.as_bytes())
    }
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// As in the job.
    pub chunk: u64,
    /// As in the job.
    pub index: u32,
    /// As in the job: one that is given out once more, because what is kept is kept otherwise by now, has another. Zero: by a node of an
    /// earlier version, which does not say.
    #[serde(default)]
    pub begin_after: Revision,
    /// How long it was under way on the node, in milliseconds.
    pub took_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// How far the fetch of a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// As in the job.
    pub chunk: u64,
    /// As in the job.
    pub index: u32,
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that were announced.
    pub length: u64,
}

/// What became of a job.
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
        /// Whether the node had to ask its parent or the origin; false when a good copy was there.
        fetched: bool,
    },
    /// It will not become resident by this job.
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
    /// The origin has enough to do, or said when to come back; it was not asked.
    #[error("origin is to be asked again in {seconds} seconds")]
    OriginBusy {
        /// After how long, in seconds.
        seconds: u64,
    },
    /// The answer may not be stored, in words for a person.
    #[error("answer may not be stored: {0}")]
    NotStorable(String),
    /// The body ended before its length.
    #[error("body ended after {got} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// No store of the node can hold it.
    #[error("larger than the store of the node")]
    TooLarge,
    /// The store failed, in words for a person.
    #[error("store of the node failed: {0}")]
    Store(String),
    /// It is resident, but was to be pinned and cannot be, in words for a person.
    #[error("resident, but not pinned: {0}")]
    NotPinned(String),
    /// It was gone or stale again before it could be checked, or before the prefetch ended.
    #[error("evicted, refreshed or stale again before the prefetch ended")]
    Evicted,
    /// The node does not serve the domain (any more).
    #[error("domain is not served")]
    UnknownDomain,
    /// No live node took the job before the deadline.
    #[error("no live node took it in time")]
    NoTarget,
    /// The deadline of the task passed while it was under way.
    #[error("not done before the deadline of the task")]
    Deadline,
    /// The account cancelled the task before it was done.
    #[error("cancelled before it was done")]
    Cancelled,
    /// What was kept of an ended task is damaged, or a later version's. Nobody keeps this: it is found at each look.
    #[error("what came of it cannot be read any more")]
    Unreadable,
}

impl Cause {
    /// Whether the same job may end otherwise a little later.
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
