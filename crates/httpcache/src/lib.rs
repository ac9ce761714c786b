//! HTTP caching as pure functions, for a shared cache in front of an origin that somebody else runs.
//!
//! A node calls, in this order: [`decide()`], for what to do with a request and the stored response; [`answer()`], for
//! how to send the stored body (whole, in parts, 304, 412, 416); [`storable()`], for whether a received response may be
//! stored and for how long, and [`kept`], for which of its fields; [`freshen`], for the stored head after a 304;
//! [`invalidates`] and [`invalidated_too`], for what a write invalidates. The rest ([`end_to_end`], [`upstream`],
//! [`vary_key`], [`CacheStatus`], [`via`]) builds the headers around these.
//!
//! # What always holds
//!
//! - Nothing here does I/O, reads a clock or keeps state. `now` is an argument; equal arguments give equal results.
//! - Headers are untrusted bytes: unreadable ones are treated as the RFC says (usually the cautious way), and nothing
//!   panics.
//! - A body that the fence refuses ([`Allowed`]) is never served, however fresh or however generous its
//!   `stale-*` directives are.
//!
//! # Not here
//!
//! Whether refreshes allow a body to be sent (the fence, `model::fence`), what an object's key is, and rules that a
//! domain's owner configures. There is no private cache, and no `Warning` header (RFC 9111 made it obsolete).

mod answer;
mod cache_status;
mod date;
mod decide;
mod directives;
mod freshness;
mod headers;
mod invalidate;
mod range;
mod storable;
mod vary;

pub use answer::{Answer, answer};
pub use cache_status::{CacheStatus, Forward, Outcome, via};
pub use date::{delay, retry_after};
pub use decide::{Allowed, Bypass, Decision, decide, lacking};
pub use directives::{Directives, is_targeted};
pub use freshness::{Freshness, LIFETIME_MAX};
pub use headers::{OF_CONTENT, WrongBody, end_to_end, freshen, kept, not_modified, upstream, validators};
pub use invalidate::{invalidated_too, invalidates};
pub use range::{ByteRange, Multipart, RANGES_MAX, continues};
pub use storable::{NotStorable, storable};
pub use vary::{VaryStar, accept_encoding, accept_encodings, vary_fields, vary_key};
