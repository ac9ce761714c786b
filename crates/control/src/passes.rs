//! Temporary credentials: sessions, which sign with a key of their own, and bearer tokens, which do not sign.
//!
//! Nothing of them is stored. A token is its own content, sealed with the key that seals all other secrets: every
//! control plane on the database has that key and can open it, and nobody can make one without the key. It ends when it
//! expires, or with the access key that it was made with.
//!
//! # What always holds
//!
//! - Sessions and bearer tokens are sealed for different purposes, so neither is accepted as the other.
//! - Forged and altered tokens are detected by the seal's own comparison, which takes constant time.
//!
//! # Not here
//!
//! Whether the key behind a token may still be used, and by whom: `api` looks it up for every request.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::policy::Policy;
use crate::seal::{Seal, random_text};

/// The prefix of a session's key id, the same as the vendor's: it means that the request must carry a token.
const SESSION_PREFIX: &str = "STS.";

/// The prefix of a bearer token's id. It appears in no request; nonces are remembered under it.
const BEARER_PREFIX: &str = "BT.";

/// Characters of an id after its prefix, and of a session's secret.
const ID_CHARS: usize = 22;
const SECRET_CHARS: usize = 40;

const SESSION: &str = "session";
const BEARER: &str = "bearer token";

/// The content of a token. `Debug` is left out because it holds a secret.
#[derive(Serialize, Deserialize)]
pub(crate) struct Pass {
    /// Its id; for a session, that of the key it signs with.
    pub(crate) id: String,
    /// The access key it was made with.
    pub(crate) key: String,
    /// The account of that key. Ids of keys are not issued again, but may be imported again.
    pub(crate) account: String,
    /// The user of the account; absent if the key is the account's own, or in tokens of earlier versions.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// The secret that requests are signed with; empty for a bearer token.
    pub(crate) secret: String,
    /// When it ends, in milliseconds since 1970.
    pub(crate) expires_ms: u64,
    /// The part of the key's permissions that it has; all of them when absent.
    pub(crate) policy: Option<Policy>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// A pass and its token, as issued, once.
pub(crate) struct Issued {
    pub(crate) pass: Pass,
    pub(crate) token: Zeroizing<String>,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// It was not issued by us.
    Malformed,
    /// It has expired.
    Expired,
    /// It belongs to another session.
    Mismatch,
}

/// Issues and opens tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Passes(Arc<Seal>);

impl Passes {
    pub(crate) fn new(seal: Arc<Seal>) -> Passes {
        Passes(seal)
    }

    /// A session of `key`, valid for `duration` from `now_ms` on.
    pub(crate) fn session(
        &self,
        (key, account, user): (&str, &str, Option<&str>),
        now_ms: u64,
        duration: Duration,
        policy: Option<Policy>,
    ) -> Issued {
        self.issue(
            SESSION,
            Pass {
                id: format!("{SESSION_PREFIX}{}", random_text(ID_CHARS)),
                key: key.to_owned(),
                account: account.to_owned(),
                user: user.map(str::to_owned),
                secret: random_text(SECRET_CHARS),
                expires_ms: now_ms.saturating_add(duration.as_millis() as u64),
                policy,
            },
        )
    }

    /// A bearer token of `key`, valid for `duration` from `now_ms` on.
    pub(crate) fn bearer(
        &self,
        (key, account, user): (&str, &str, Option<&str>),
        now_ms: u64,
        duration: Duration,
        policy: Option<Policy>,
    ) -> Issued {
        self.issue(
            BEARER,
            Pass {
                id: format!("{BEARER_PREFIX}{}", random_text(ID_CHARS)),
                key: key.to_owned(),
                account: account.to_owned(),
                user: user.map(str::to_owned),
                secret: String::new(),
                expires_ms: now_ms.saturating_add(duration.as_millis() as u64),
                policy,
            },
        )
    }

    fn issue(&self, purpose: &'static str, pass: Pass) -> Issued {
        let text = Zeroizing::new(serde_json::to_string(&pass).expect("texts have no failing serialiser"));
        Issued { token: Zeroizing::new(self.0.seal(purpose, &text)), pass }
    }

    /// Opens a session's token that was shown with the key `id`.
    pub(crate) fn open_session(&self, token: &str, id: &str, now_ms: u64) -> Result<Pass, BadToken> {
        let pass = self.open(SESSION, token)?;
        match () {
            () if pass.id != id => Err(BadToken::Mismatch),
            () if pass.expires_ms <= now_ms => Err(BadToken::Expired),
            () => Ok(pass),
        }
    }

    /// Opens a bearer token.
    pub(crate) fn open_bearer(&self, token: &str, now_ms: u64) -> Result<Pass, BadToken> {
        let pass = self.open(BEARER, token)?;
        if pass.expires_ms <= now_ms { Err(BadToken::Expired) } else { Ok(pass) }
    }

    fn open(&self, purpose: &'static str, token: &str) -> Result<Pass, BadToken> {
        let text = self.0.open(purpose, token).map_err(|_| BadToken::Malformed)?;
        // Only a later version seals another format.
        serde_json::from_str(&text).map_err(|_| BadToken::Malformed)
    }
}

/// Whether an access key's id is that of a session.
pub(crate) fn is_session(id: &str) -> bool {
    id.starts_with(SESSION_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: (&str, &str, Option<&str>) = ("key", "me", Some("bob"));
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn tokens_stand_for_what_they_were_issued_for_until_they_expire() {
        let dir = tempfile::tempdir().unwrap();
        let passes = Passes::new(Arc::new(Seal::open_or_create(&dir.path().join("secret.key")).unwrap()));
        let policy = Policy::parse(r#"{"Version":"1","Statement":[]}"#).unwrap();
        let session = passes.session(ME, 1_000, HOUR, Some(policy.clone()));
        let bearer = passes.bearer(ME, 1_000, HOUR, None);
        assert!(is_session(&session.pass.id) && !is_session(&bearer.pass.id));
        assert!(!session.token.contains(session.pass.secret.as_str()), "sealed, not written");

        let open =
            |token: &str, id: &str, now_ms| passes.open_session(token, id, now_ms).map(|pass| pass.secret.clone());
        let (token, id) = (session.token.as_str(), session.pass.id.as_str());
        let cases = [
            (token, id, 1_000, Ok(session.pass.secret.clone())),
            (token, id, 3_600_999, Ok(session.pass.secret.clone())),
            (token, id, 3_601_000, Err(BadToken::Expired)), // an hour is over at its end
            (token, "STS.other", 1_000, Err(BadToken::Mismatch)),
            (bearer.token.as_str(), id, 1_000, Err(BadToken::Malformed)), // sealed for another purpose
            (&token[1..], id, 1_000, Err(BadToken::Malformed)),
            ("", id, 1_000, Err(BadToken::Malformed)),
        ];
        for (token, id, now_ms, expected) in cases {
            assert_eq!(open(token, id, now_ms), expected, "{id} at {now_ms}");
        }
        assert_eq!(passes.open_session(token, id, 1_000).ok().unwrap().policy.clone(), Some(policy));
        assert_eq!(passes.open_bearer(&bearer.token, 1_000).map(|pass| pass.key.clone()), Ok("key".to_owned()));
        assert_eq!(passes.open_bearer(&bearer.token, 9_000_000).map(|pass| pass.key.clone()), Err(BadToken::Expired));
        assert_eq!(passes.open_bearer(token, 1_000).map(|pass| pass.key.clone()), Err(BadToken::Malformed));
        assert_eq!(passes.open_bearer(&bearer.token, 1_000).ok().unwrap().user.as_deref(), Some("bob"));
        let elsewhere = Passes::new(Arc::new(Seal::open_or_create(&dir.path().join("other.key")).unwrap()));
        assert_eq!(elsewhere.open_bearer(&bearer.token, 1_000).map(|pass| pass.key.clone()), Err(BadToken::Malformed));
    }
}
