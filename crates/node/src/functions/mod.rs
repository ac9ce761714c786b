//! The functions of a domain, as a node applies them: pure functions of the configuration, a request and an answer.
//!
//! The pipeline and the fills call them at a few places: who may ask ([`access`]), how origins are asked ([`fetch`]),
//! how long answers are kept ([`keep`]), what users are sent ([`reply`]). The key is `model`'s
//! ([`model::Functions::key`]), because invalidations are expressed in keys too.
//!
//! # What always holds
//!
//! - Rules about users apply to users alone: children and prefetches ask for what users will be sent.
//! - A field that a function leaves in a stored head begins with `warmfront-`, which neither origins nor users can send
//!   or see.
//!
//! # Not here
//!
//! Parsing arguments, and refusing wrong ones: `model::functions`.

pub(crate) mod access;
pub(crate) mod fetch;
pub(crate) mod keep;
pub(crate) mod reply;
