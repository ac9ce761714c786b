//! What the functions of a domain do here: pure functions over what was configured, a request and an answer.
//!
//! The pipeline and the fills ask at a few places: who may ask ([`access`]), how origins are asked ([`fetch`]), how long what came
//! is kept ([`keep`]), what users are told ([`reply`]). The key is `model`'s ([`model::Functions::key`]), for invalidations are
//! said in its words too.
//!
//! # What always holds
//!
//! - Rules about users apply to users alone: children and prefetches ask for what users will be given.
//! - What a function leaves in a stored head begins with `warmfront-`, which neither origins nor users can say or see.
//!
//! # Not here
//!
//! Reading arguments, and refusing wrong ones: `model::functions`.

pub(crate) mod access;
pub(crate) mod fetch;
pub(crate) mod keep;
pub(crate) mod reply;
