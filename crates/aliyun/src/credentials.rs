//! Temporary credentials: asking for a session or a bearer token, and the fields of what is issued.
//!
//! The vendor issues sessions by another product's actions; ours are own actions of the products that are served, whose
//! reply has the fields of that product's (`Credentials`), so that clients read it as they know it.
//!
//! # Not here
//!
//! What a token is made of, and whom it stands for: the control plane knows.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::read::{Params, Request, timestamp};
use crate::refusal::Refusal;

/// How long credentials may be good for, in seconds, and how long they are where nobody says: the vendor's for sessions.
const DURATION_SECONDS: std::ops::RangeInclusive<u64> = 900..=43_200;
const DURATION_SECONDS_USUAL: u64 = 3_600;

/// Longest policy, in bytes (the vendor's bound for sessions).
const POLICY_BYTES_MAX: usize = 2_048;

/// A session that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSession {
    /// How long it is to be good for.
    pub duration: Duration,
    /// What it may do of what the key may that asks, as JSON; all of it when absent.
    pub policy: Option<String>,
}

/// A bearer token that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateBearer {
    /// How long it is to be good for.
    pub duration: Duration,
    /// As in [`CreateSession`].
    pub policy: Option<String>,
}

/// A session that was issued. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The id of its access key.
    pub id: String,
    /// The secret of its access key.
    pub secret: String,
    /// What goes along with every request.
    pub token: String,
    /// When it ends.
    pub expires_at: SystemTime,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// A bearer token that was issued. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// What is shown with every request.
    pub token: String,
    /// When it ends.
    pub expires_at: SystemTime,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

pub(crate) fn session(request: &Request) -> Result<CreateSession, Refusal> {
    Ok(CreateSession { duration: duration(&request.params)?, policy: policy(&request.params)? })
}

pub(crate) fn bearer(request: &Request) -> Result<CreateBearer, Refusal> {
    Ok(CreateBearer { duration: duration(&request.params)?, policy: policy(&request.params)? })
}

fn duration(params: &Params) -> Result<Duration, Refusal> {
    let seconds = params.get("DurationSeconds").map_or(Ok(DURATION_SECONDS_USUAL), str::parse);
    match seconds {
        Ok(seconds) if DURATION_SECONDS.contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => {
            let expected = format!("{} to {} is expected", DURATION_SECONDS.start(), DURATION_SECONDS.end());
            Err(Refusal::invalid("DurationSeconds", &expected))
        }
    }
}

fn policy(params: &Params) -> Result<Option<String>, Refusal> {
    match params.get("Policy") {
        Some(policy) if policy.len() > POLICY_BYTES_MAX => {
            Err(Refusal::invalid("Policy", &format!("at most {POLICY_BYTES_MAX} bytes are expected")))
        }
        policy => Ok(policy.map(str::to_owned)),
    }
}

pub(crate) fn session_fields(request_id: &str, session: &Session) -> Value {
    json!({
        "RequestId": request_id,
        "Credentials": {
            "AccessKeyId": session.id,
            "AccessKeySecret": session.secret,
            "SecurityToken": session.token,
            "Expiration": timestamp(session.expires_at),
        },
    })
}

pub(crate) fn bearer_fields(request_id: &str, bearer: &Bearer) -> Value {
    json!({ "RequestId": request_id, "BearerToken": bearer.token, "Expiration": timestamp(bearer.expires_at) })
}
