//! Regular expressions in functions, bounded in what they cost.
//!
//! Matching takes time in proportion to the compiled size and to the bytes searched. Owners write expressions, and
//! nodes search what users send, so both are bounded: the compiled size here, the bytes where they are searched.
//!
//! # What always holds
//!
//! - What [`Budget::compile`] has passed, [`compile`] passes too. The converse is not true: earlier versions set larger
//!   expressions, and nodes go on with those that are in the log.

use std::cell::Cell;

use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// Largest compiled expression that a node takes from the log, in bytes.
const OF_LOG_BYTES_MAX: usize = 1 << 18;

/// Largest compiled expression that can be set, in bytes. About ten plain words or classes take 2 KiB; it is counted
/// repetitions that need more.
const COMPILED_BYTES_MAX: usize = 32 << 10;

/// The most that all expressions of a domain may take together when one is set, in bytes.
const OF_DOMAIN_BYTES_MAX: usize = 256 << 10;

/// How exactly sizes are measured, in bytes: the regex crate tells only whether an expression stays within a limit.
const STEP_BYTES: usize = 512;

const SYNTAX: &str = "a regular expression of at most 512 bytes, without look-around";
const TOO_LARGE: &str = "a regular expression that takes at most 32 KiB when compiled: fewer or shorter repetitions";
const USED_UP: &str = "an expression for which there is room: those of a domain take at most 256 KiB when compiled";

/// Compiles an expression of the log; says what was expected if it is none.
pub(super) fn compile(text: &str) -> Result<Regex, &'static str> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(SYNTAX);
    }
    within(text, OF_LOG_BYTES_MAX).ok_or(SYNTAX)
}

fn within(text: &str, bytes: usize) -> Option<Regex> {
    RegexBuilder::new(text).unicode(false).size_limit(bytes).build().ok()
}

/// What the expressions of a domain may still take.
pub(super) struct Budget {
    left: Cell<usize>,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget { left: Cell::new(OF_DOMAIN_BYTES_MAX) }
    }

    /// Compiles an expression that is to be set, and takes its size from the budget; says what was expected if that
    /// does not go.
    pub(super) fn compile(&self, text: &str) -> Result<Regex, &'static str> {
        let compiled = compile(text)?;
        if within(text, COMPILED_BYTES_MAX).is_none() {
            return Err(TOO_LARGE);
        }
        // The smallest limit that it stays within, by halving: it needs more than `low` steps, and at most `high`.
        let (mut low, mut high) = (0, COMPILED_BYTES_MAX / STEP_BYTES);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if within(text, middle * STEP_BYTES).is_some() {
                high = middle;
            } else {
                low = middle;
            }
        }
        let left = self.left.get().checked_sub(high * STEP_BYTES).ok_or(USED_UP)?;
        self.left.set(left);
        Ok(compiled)
    }
}
