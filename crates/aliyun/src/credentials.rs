//! Temporary credentials: requests for a session or a bearer token, and the fields of the reply.
//!
//! The vendor issues sessions through another product's actions; ours are our own actions of the supported products.
//! Their reply has the same fields (`Credentials`), so that clients can read it.
//!
//! # Not here
//!
//! How tokens are made, and whom they identify: see the control plane.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::read::{Params, Request, timestamp};
use crate::refusal::Refusal;

/// Allowed and default lifetimes of credentials, in seconds: the vendor's for sessions.
const DURATION_SECONDS: std::ops::RangeInclusive<u64> = 900..=43_200;
const DURATION_SECONDS_USUAL: u64 = 3_600;

/// Longest policy, in bytes (the vendor's bound for sessions).
const POLICY_BYTES_MAX: usize = 2_048;

/// A request for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSession {
    /// Its lifetime.
    pub duration: Duration,
    /// The part of the requesting key's permissions that it gets, as a JSON policy; all of them if absent.
    pub policy: Option<String>,
}

/// A request for a bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateBearer {
    /// Its lifetime.
    pub duration: Duration,
    /// As in [`CreateSession`].
    pub policy: Option<String>,
}

/// An issued session. `Debug` omits secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The id of its access key.
    pub id: String,
    /// The secret of its access key.
    pub secret: String,
    /// The token that accompanies every request.
    pub token: String,
    /// When it expires.
    pub expires_at: SystemTime,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// An issued bearer token. `Debug` omits secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The token that accompanies every request.
    pub token: String,
    /// When it expires.
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
