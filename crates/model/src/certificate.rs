//! A domain's certificate, with its private key in sealed form.
//!
//! Many parties can read the log: it is stored in the control plane's database, sent over the link, kept in every
//! node's journal, and printed by debuggers. So an entry never holds a private key in the clear, only one sealed under
//! the secret of its log, the [`CertificateSecret`]. The control plane stores that secret sealed under a key file of
//! its own, and sends it to members over the link.
//!
//! # What always holds
//!
//! - A key sealed for one domain does not open for another.
//! - Neither a key nor the secret is shown by `Debug`, and both are wiped from memory when dropped.
//!
//! # Not here
//!
//! Whether a key fits its certificate, and a certificate its domain: checked where a certificate is set, and again
//! where it is served.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::DomainName;

/// Length in bytes of a [`CertificateSecret`].
pub const SECRET_BYTES: usize = 32;
/// Length in bytes of the nonce of a sealed key.
pub const NONCE_BYTES: usize = 12;

/// The certificate that users of a domain are shown in the TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The domain.
    pub domain: DomainName,
    /// The owner's name for it; not interpreted here.
    pub name: String,
    /// The chain in PEM, the domain's own certificate first.
    pub chain: String,
    /// The private key of the first certificate of the chain.
    pub key: SealedKey,
    /// When it was set, in milliseconds since 1970.
    pub set_ms: u64,
}

/// A private key in PEM, sealed: base64 of nonce, ciphertext and tag (AES-256-GCM).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey(String);

/// The secret that private keys of one log are sealed with, known to its control plane and its members.
#[derive(Clone)]
pub struct CertificateSecret(Zeroizing<[u8; SECRET_BYTES]>);

/// Why a key cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key was sealed with another secret, for another domain, or is damaged")]
pub struct Unopened;

impl SealedKey {
    /// Seals `key`, the key of `domain`'s certificate. `nonce` is random, and never used twice with one secret.
    pub fn seal(secret: &CertificateSecret, nonce: [u8; NONCE_BYTES], domain: &DomainName, key: &str) -> SealedKey {
        let mut bytes = Zeroizing::new(Vec::with_capacity(key.len() + AES_256_GCM.tag_len()));
        bytes.extend_from_slice(key.as_bytes());
        secret
            .cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), purpose(domain), &mut *bytes)
            .expect("a key is far shorter than what AES-GCM can seal");
        SealedKey(STANDARD.encode([&nonce[..], bytes.as_slice()].concat()))
    }

    /// The key in PEM.
    pub fn open(&self, secret: &CertificateSecret, domain: &DomainName) -> Result<Zeroizing<String>, Unopened> {
        let mut bytes = Zeroizing::new(STANDARD.decode(&self.0).map_err(|_| Unopened)?);
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_BYTES).ok_or(Unopened)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened)?;
        let opened = secret.cipher().open_in_place(nonce, purpose(domain), sealed).map_err(|_| Unopened)?;
        Ok(Zeroizing::new(std::str::from_utf8(opened).map_err(|_| Unopened)?.to_owned()))
    }
}

/// The associated data of a sealed key, which binds it to its domain.
fn purpose(domain: &DomainName) -> Aad<String> {
    Aad::from(format!("certificate of {domain}"))
}

impl CertificateSecret {
    /// A secret made of random `bytes`.
    pub fn new(bytes: [u8; SECRET_BYTES]) -> CertificateSecret {
        CertificateSecret(Zeroizing::new(bytes))
    }

    /// Reads what [`CertificateSecret::expose`] wrote.
    pub fn parse(text: &str) -> Option<CertificateSecret> {
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        Some(CertificateSecret::new(bytes.as_slice().try_into().ok()?))
    }

    /// The secret in base64, to be stored or sent.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, self.0.as_slice()).expect("a secret has the length of a key");
        LessSafeKey::new(key)
    }
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedKey")
    }
}

impl fmt::Debug for CertificateSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_opens_with_its_secret_for_its_domain_alone() {
        let name = |text: &str| DomainName::parse(text).unwrap();
        let secret = CertificateSecret::new([7; SECRET_BYTES]);
        let sealed = SealedKey::seal(&secret, [1; NONCE_BYTES], &name("a.com"), "the key");
        let again = CertificateSecret::parse(&secret.expose()).unwrap();
        assert_eq!(sealed.open(&again, &name("a.com")).unwrap().as_str(), "the key");
        assert_eq!(sealed.open(&secret, &name(".a.com")), Err(Unopened));
        assert_eq!(sealed.open(&CertificateSecret::new([8; SECRET_BYTES]), &name("a.com")), Err(Unopened));
        for damaged in ["", "x", "AAAA", &sealed.0[..sealed.0.len() - 4]] {
            assert_eq!(SealedKey(damaged.to_owned()).open(&secret, &name("a.com")), Err(Unopened), "{damaged}");
        }
        assert!(CertificateSecret::parse("AAAA").is_none() && CertificateSecret::parse("?").is_none());
        assert_eq!(format!("{sealed:?} {secret:?}"), "SealedKey CertificateSecret");
    }
}
