//! The real control plane and real nodes in a simulated world: one thread, paused time, everything drawn from a seed.
//!
//! A run sets up a few nodes in one to three tiers, an origin whose objects have versions, users who read all the time, and a
//! customer who refreshes through the signed API; then things go wrong: processes are killed, disks lost or torn, links cut, stalled
//! and slowed, databases fail before, after and instead of commits, nodes are removed and invited anew, the log is compacted, clocks
//! drift. [`history`] checks what everybody was sent. At the end all is healed, and every task must complete.
//!
//! What runs is the product: `control` and `node` as they are, speaking HTTP and gRPC over [`net`], on `store`'s faulty disks
//! and the state store in memory. Only sockets, threads and TLS are missing.
//!
//! # What always holds
//!
//! - A run is a function of its seed (and the mistake that is made, if any): two runs have the same history.
//!
//! # Not here
//!
//! Processes that are stopped between a judgement and its header, and kernels: `e2e` has real ones. Every interleaving: the model
//! checker has all of them, in worlds much smaller than these.

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
