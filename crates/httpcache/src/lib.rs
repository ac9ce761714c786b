//! HTTP caching's words as pure functions, for a shared cache that stands in front of somebody else's origin.
//!
//! A node asks, in this order: [`decide()`] what to do with a request and what it has stored; [`answer()`] how to
//! send the stored body (whole, in parts, 304, 412, 416); [`storable()`] whether a response that arrived may be kept and
//! for how long, [`kept`] what of its head; [`freshen`] what a 304 makes of the stored head; [`invalidates`] and
//! [`invalidated_too`] what a write makes invalid. The rest ([`end_to_end`], [`upstream`], [`vary_key`], [`CacheStatus`],
//! [`via`]) builds the headers around these.
//!
//! # What always holds
//!
//! - Nothing here does I/O, reads a clock or keeps state. `now` is handed in; equal arguments give equal answers.
//! - Headers are bytes from the network: what cannot be read counts as the RFC says (usually as the cautious
//!   reading), and nothing panics.
//! - A body that the fence refuses ([`Allowed`]) is never served, however fresh or however generous its
//!   `stale-*` directives are.
//!
//! # Not here
//!
//! What may be sent in view of refreshes (the fence, `model::fence`), what an object's key is, and rules that a
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
pub use decide::{Allowed, Bypass, Decision, decide};
pub use directives::is_targeted;
pub use freshness::{Freshness, LIFETIME_MAX};
pub use headers::{OF_CONTENT, WrongBody, end_to_end, freshen, kept, not_modified, upstream, validators};
pub use invalidate::{invalidated_too, invalidates};
pub use range::{ByteRange, Multipart, RANGES_MAX, continues};
pub use storable::{NotStorable, storable};
pub use vary::{VaryStar, accept_encoding, accept_encodings, vary_fields, vary_key};
