//! Receipts as files: signed by the control plane, and checked offline by anybody who has its public key.
//!
//! The file is one line of JSON. Its `payload` is the base64 of exactly the bytes that were signed
//! ([`model::receipt`]), so a check never has to reproduce JSON. The signature is Ed25519 (RFC 8032), so other programs
//! can check it too.
//!
//! # What always holds
//!
//! - A file has exactly one form, apart from an optional final line feed. A file that differs by a byte is refused
//!   before anything in it is believed.
//! - The key in the file only says who claims to have signed it: it counts only if it is the key that the reader
//!   trusts.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::receipt::{Inconsistent, Receipt};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::seal::fill_random;

/// The version of the file format.
const VERSION: u32 = 1;

/// Bytes of a seed, and of a public key (RFC 8032 §5.1.5).
const KEY_BYTES: usize = 32;

/// The key that signs receipts. Cannot be printed.
pub(crate) struct Signer(Ed25519KeyPair);

impl Signer {
    /// A seed for a new key.
    pub(crate) fn fresh_seed() -> Zeroizing<String> {
        let mut seed = Zeroizing::new([0_u8; KEY_BYTES]);
        fill_random(seed.as_mut_slice());
        Zeroizing::new(STANDARD.encode(seed.as_slice()))
    }

    /// The key of a seed; `None` if the seed is not valid.
    pub(crate) fn of_seed(seed: &str) -> Option<Signer> {
        let seed = Zeroizing::new(STANDARD.decode(seed).ok()?);
        Ed25519KeyPair::from_seed_unchecked(&seed).ok().map(Signer)
    }

    /// The public key that receipts are checked with.
    pub(crate) fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref().try_into();
        PublicKey(bytes.expect("public keys of Ed25519 have 32 bytes"))
    }

    /// A receipt as a file.
    pub(crate) fn sign(&self, receipt: &Receipt) -> String {
        let payload = receipt.encode();
        let signature = self.0.sign(&payload);
        write(&payload, signature.as_ref(), self.public())
    }
}

/// A public key that receipts are checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Parses a key from its displayed form.
    pub fn parse(text: &str) -> Option<PublicKey> {
        STANDARD.decode(text.trim()).ok()?.try_into().ok().map(PublicKey)
    }

    /// The first half of the SHA-256, in hex: short enough to compare by eye.
    pub fn fingerprint(&self) -> String {
        use sha2::Digest;
        hex::encode(&sha2::Sha256::digest(self.0)[..16])
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    warmfront_receipt: u32,
    payload: String,
    signature: String,
    key: String,
}

fn write(payload: &[u8], signature: &[u8], key: PublicKey) -> String {
    let file = File {
        warmfront_receipt: VERSION,
        payload: STANDARD.encode(payload),
        signature: STANDARD.encode(signature),
        key: key.to_string(),
    };
    serde_json::to_string(&file).expect("texts have no failing serialiser")
}

/// Why a file proves nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Not exactly in the one form of a receipt.
    #[error("not a receipt of this version, or changed since it was written")]
    Form,
    /// Signed with a key other than the trusted one.
    #[error("signed with the key {found}, not with the trusted key {trusted}")]
    OtherKey {
        /// Fingerprint of the key in the file.
        found: String,
        /// Fingerprint of the trusted key.
        trusted: String,
    },
    /// The signature does not match the payload.
    #[error("the signature does not fit: the receipt was changed since it was signed")]
    Signature,
    /// The signature is good, but the content is not a proof.
    #[error("signed, but its content does not prove the completion")]
    Inconsistent(#[from] Inconsistent),
    /// The signature is good, but the digest is not that of the listed objects.
    #[error("signed, but its objects and their digest differ")]
    Digest,
}

/// Checks a receipt: its form, that `trusted` signed it, and that every member was past its revisions by the completion
/// rule.
pub fn verify(file: &str, trusted: PublicKey) -> Result<Receipt, ReceiptError> {
    let (payload, signature, key) = read(file).ok_or(ReceiptError::Form)?;
    if key != trusted {
        return Err(ReceiptError::OtherKey { found: key.fingerprint(), trusted: trusted.fingerprint() });
    }
    UnparsedPublicKey::new(&ED25519, trusted.0).verify(&payload, &signature).map_err(|_| ReceiptError::Signature)?;
    let receipt = Receipt::decode(&payload).ok_or(ReceiptError::Form)?;
    receipt.check()?;
    let listed = &receipt.objects.listed;
    if !listed.is_empty() && digest(listed.iter().map(String::as_str)) != receipt.objects.sha256 {
        return Err(ReceiptError::Digest);
    }
    Ok(receipt)
}

/// The key that a file claims to be signed with; the rest of it is not checked.
pub fn claimed_key(file: &str) -> Option<PublicKey> {
    read(file).map(|(_, _, key)| key)
}

/// The parts of a file: payload, signature, key.
fn read(file: &str) -> Option<(Vec<u8>, Vec<u8>, PublicKey)> {
    let line = file.strip_suffix('\n').unwrap_or(file);
    let parts: File = serde_json::from_str(line).ok()?;
    let payload = STANDARD.decode(&parts.payload).ok()?;
    let signature = STANDARD.decode(&parts.signature).ok()?;
    let key = PublicKey::parse(&parts.key)?;
    let same = parts.warmfront_receipt == VERSION && write(&payload, &signature, key) == line;
    same.then_some((payload, signature, key))
}

/// The SHA-256, in hex, of the objects, one per line.
pub(crate) fn digest<'a>(objects: impl Iterator<Item = &'a str>) -> String {
    use sha2::Digest;
    let mut digest = sha2::Sha256::new();
    for object in objects {
        digest.update(object.as_bytes());
        digest.update(b"\n");
    }
    hex::encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use model::receipt::{MemberThen, Objects, Step};
    use model::{Isolation, LogId, NodeName, Revision};

    use super::*;

    fn signer() -> Signer {
        Signer::of_seed(&STANDARD.encode([7_u8; KEY_BYTES])).unwrap()
    }

    fn receipt(acknowledged: u64) -> Receipt {
        let member = MemberThen {
            node: NodeName::parse("cn-1-l1").unwrap(),
            isolation: Isolation::Revalidate,
            acknowledged: Revision(acknowledged),
            acknowledged_ms: 1,
            swept_objects: 3,
            swept_bytes: 30,
            swept_upto: Some(Revision(9)),
        };
        let step = Step {
            revisions: vec![Revision(9)],
            completed_ms: 2,
            known_for_ms: 0,
            lease_ms: 10_000,
            margin_ms: 1_000,
            members: vec![member],
            swept_together: None,
        };
        let listed = vec!["http://a.com/x".to_owned()];
        Receipt {
            task: "1".into(),
            account: "me".into(),
            kind: "file".into(),
            log: LogId("log".into()),
            accepted_ms: 1,
            completed_ms: 2,
            issued_ms: 3,
            objects: Objects { count: 1, sha256: digest(listed.iter().map(String::as_str)), listed },
            steps: vec![step],
        }
    }

    #[test]
    fn signed_receipt_is_believed_with_the_right_key_alone() {
        let (signer, other) = (signer(), Signer::of_seed(&Signer::fresh_seed()).unwrap());
        let file = signer.sign(&receipt(9));
        assert_eq!(verify(&file, signer.public()).unwrap(), receipt(9));
        assert_eq!(verify(&format!("{file}\n"), signer.public()).unwrap(), receipt(9));
        assert!(matches!(verify(&file, other.public()), Err(ReceiptError::OtherKey { .. })));
        assert_eq!(claimed_key(&file), Some(signer.public()));
        assert_eq!(PublicKey::parse(&signer.public().to_string()), Some(signer.public()));
        // Somebody else's receipt with our key written into it.
        let forged = other.sign(&receipt(9)).replace(&other.public().to_string(), &signer.public().to_string());
        assert!(matches!(verify(&forged, signer.public()), Err(ReceiptError::Signature)));
    }

    #[test]
    fn no_byte_can_be_changed_added_or_left_out() {
        let key = signer().public();
        let file = format!("{}\n", signer().sign(&receipt(9))).into_bytes();
        for at in 0..file.len() {
            for flip in [0x01, 0x20, 0x80, 0x07] {
                let mut changed = file.clone();
                changed[at] ^= flip;
                let refused = std::str::from_utf8(&changed).map_or(true, |text| verify(text, key).is_err());
                assert!(refused, "byte {at} ^ {flip:#x}");
            }
            let mut shorter = file.clone();
            shorter.remove(at);
            let text = String::from_utf8(shorter).unwrap();
            assert!(at == file.len() - 1 || verify(&text, key).is_err(), "without byte {at}");
            let mut longer = file.clone();
            longer.insert(at, b' ');
            assert!(verify(&String::from_utf8(longer).unwrap(), key).is_err(), "a space at {at}");
        }
    }

    #[test]
    fn well_signed_nonsense_is_no_proof() {
        let signer = signer();
        let refuse = |receipt: &Receipt| verify(&signer.sign(receipt), signer.public()).unwrap_err();
        assert!(matches!(refuse(&receipt(8)), ReceiptError::Inconsistent(Inconsistent::Waiting { .. })));
        let mut other = receipt(9);
        other.objects.listed = vec!["http://a.com/y".into()];
        assert!(matches!(refuse(&other), ReceiptError::Digest));
    }

    #[test]
    fn receipt_of_the_first_version_is_still_believed() {
        // Signed by version 1 with a seed of sevens. Never edit this file; add others.
        let file = include_str!("receipt/v1.json");
        assert_eq!(verify(file, signer().public()).unwrap(), receipt(9));
    }
}
