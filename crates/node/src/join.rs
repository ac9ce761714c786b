//! The operator's invitation, as a node reads it: the certificate authority to trust, and the secret to join with.
//!
//! Text that a person can copy: `wfjoin1.`, followed by base64url (no padding) of a JSON object with `id`, `secret` and
//! `ca`. The control plane writes it; `wfjoin1` is the version of the format.

use std::fmt;

use base64::Engine;
use serde::Deserialize;

/// The prefix of the encoded part.
const PREFIX: &str = "wfjoin1.";

/// Most encoded bytes that are read as an invitation; real ones are under 2 KiB.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// An invitation to join.
#[derive(Clone, Deserialize, PartialEq, Eq)]
pub(crate) struct JoinToken {
    /// Names the invitation; not secret.
    pub(crate) id: String,
    /// The secret that lets a node in.
    secret: String,
    /// The authority that signs the certificate of the control plane's link, in PEM.
    pub(crate) ca: String,
}

/// A text is not an invitation. The error never shows the text: it is a secret.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a join token: expected the one line that `warmfront node token create` printed, beginning with `{PREFIX}`"
)]
pub(crate) struct BadToken;

impl JoinToken {
    /// Reads an invitation; white space around it is ignored.
    pub(crate) fn parse(text: &str) -> Result<JoinToken, BadToken> {
        let encoded =
            text.trim().strip_prefix(PREFIX).filter(|encoded| encoded.len() <= TOKEN_BYTES_MAX).ok_or(BadToken)?;
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadToken)?;
        serde_json::from_slice(&json).map_err(|_| BadToken)
    }

    /// The token in a hello: `ID:SECRET`.
    pub(crate) fn shown(&self) -> String {
        format!("{}:{}", self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_read_and_its_secret_is_not_shown() {
        let json = r#"{"id":"t1","secret":"hush","ca":"-----BEGIN CERTIFICATE-----"}"#;
        let text = format!("{PREFIX}{}\n", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json));
        let token = JoinToken::parse(&text).unwrap();
        assert_eq!((token.id.as_str(), token.shown().as_str()), ("t1", "t1:hush"));
        assert!(!format!("{token:?}").contains("hush"));
    }

    #[test]
    fn other_texts_are_refused_without_being_shown() {
        for text in ["", "wfjoin1.", "wfjoin2.e30", "wfjoin1.e30", "wfjoin1.#secret#", "secret"] {
            let error = JoinToken::parse(text).unwrap_err().to_string();
            assert!(!error.contains("#secret#"), "{error}");
        }
    }
}
