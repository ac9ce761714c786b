//! The real control plane and real nodes in a simulated world: one thread, paused time, all randomness from one seed.
//!
//! A run sets up a few nodes in one to three tiers, an origin with versioned objects, users who read all the time, and
//! a customer who refreshes through the signed API. Then faults are injected: processes are killed, disks lost or torn,
//! links cut, stalled and slowed, databases fail before, after and instead of commits, nodes are removed and invited
//! again, the log is compacted, clocks drift. [`history`] checks all responses. At the end everything is repaired, and
//! every task must complete.
//!
//! The code is the product's: `control` and `node` unchanged, speaking HTTP and gRPC over [`net`], on `store`'s faulty
//! disks and the in-memory state store. Only sockets, threads and TLS are missing.
//!
//! # What always holds
//!
//! - A run is a function of its seed (and the mistake made, if any): two runs have the same history.
//!
//! # Not here
//!
//! Processes that are stopped between judging a header and sending it, and kernels: `e2e` has real ones. Every
//! interleaving: the model checker explores all of them, in much smaller worlds.

pub mod clock;
pub mod history;
mod http1;
pub mod journal;
mod nemesis;
pub mod net;
pub mod origin;
mod people;
pub mod random;
pub mod world;

pub use world::{Outcome, Plan, run};
