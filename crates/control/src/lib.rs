//! The control plane: takes tasks from clients of the public API, keeps them, and says what every node must know and fetch.
//!
//! `api` is the door, `app` the verbs behind it, `state` everything durable. `link` speaks with nodes, `scheduler` hands out
//! prefetch jobs, `completion` decides when a refresh is complete. [`Control::start`] wires them; [`Operator`] is the
//! other way in, for whoever can write the database.

mod app;
mod completion;
pub mod config;
mod known;
mod limits;
mod link;
mod operator;
pub mod policy;
mod scheduler;
mod seal;
pub mod state;

pub use config::{ConfigError, ControlConfig, StateUrl};
pub use operator::{NodeView, Operator, OperatorError, ShownKey};
