//! Warmfront's own words: the values both planes speak in.
//!
//! The control plane decides what is known and what is to be fetched; cache nodes know and fetch. Everything
//! they say to each other, and every rule they must agree on to the letter, lives here as plain values and
//! pure functions, so that the model checker, the simulation and the real processes all run the same code.
//!
//! # What always holds
//!
//! - Nothing here does I/O, is async, reads a clock or keeps a global.
//! - [`fence`] is the only place that decides whether a stored or arriving body may be sent.
//! - [`Knowledge::apply`](log::Knowledge::apply) is the only way a log entry becomes knowledge, on either plane.
//!
//! # Not here
//!
//! Words of the public API (crate `aliyun`), of HTTP caching (`httpcache`), of SQL and of disks.

pub mod certificate;
pub mod clock;
pub mod domain;
pub mod fence;
pub mod figures;
pub mod functions;
pub mod invalidation;
pub mod key;
pub mod link;
pub mod log;
pub mod mistake;
pub mod pattern;
pub mod prefetch;
pub mod receipt;
pub mod revision;
pub mod share;
pub mod tags;
pub mod topology;

pub use certificate::{Certificate, CertificateSecret, SealedKey};
pub use clock::{Clock, ManualClock, Moment};
pub use domain::{Domain, DomainName, Scheme, Source, SourceKind};
pub use functions::{Function, Functions};
pub use invalidation::{Invalidation, Mode, Scope};
pub use key::{PATH_BYTES_MAX, UrlKey};
pub use log::{Entry, Knowledge, Settings, Snapshot};
pub use mistake::Mistake;
pub use pattern::Pattern;
pub use prefetch::{Cause, Job, Outcome, Pin, Report, UnderWay, account_number};
pub use revision::{LogId, Revision};
pub use tags::{Tag, Tags};
pub use topology::{Coverage, Isolation, Member, NodeName, Parent, Pop, PopName, Region, Tier, Topology};
