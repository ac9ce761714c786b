//! Secrets at rest: AES-256-GCM with a key in a file of its own, so that a copy of the database alone reveals nothing.
//!
//! A sealed text is base64 of nonce, ciphertext and tag. It is bound to the purpose it was sealed for, so a sealed
//! access key cannot be passed off as something else.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;

/// The sealing key.
pub struct Seal {
    key: LessSafeKey,
    /// The file it was read from.
    path: PathBuf,
}

/// Why secrets cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The key file could not be read or made.
    #[error("secret key file `{path}` (`secret_key_file`): {doing}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The key file has other content.
    #[error("secret key file `{path}` (`secret_key_file`): expected {KEY_BYTES} bytes in base64")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The text was sealed with another key, for another purpose, or is damaged.
    #[error(
        "secret key file `{path}` (`secret_key_file`): a secret in the database ({purpose}) was sealed with another key"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it was sealed for.
        purpose: &'static str,
    },
}

impl Seal {
    /// Reads the key at `path`, or creates one there that only its owner can read.
    pub fn open_or_create(path: &Path) -> Result<Seal, SealError> {
        let file = |doing| move |source| SealError::File { path: path.to_owned(), doing, source };
        // Two processes may start at once. The one that first links the file to its final name wins, and that name
        // never exists without the whole key.
        if !path.exists() {
            let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
            fill_random(key.as_mut_slice());
            let fresh = path.with_extension(format!("new{}", std::process::id()));
            let mut out = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)
                .map_err(file("create"))?;
            out.write_all(STANDARD.encode(key.as_slice()).as_bytes())
                .and_then(|()| out.sync_all())
                .map_err(file("write"))?;
            let linked = std::fs::hard_link(&fresh, path);
            std::fs::remove_file(&fresh).map_err(file("write"))?;
            match linked {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(file("create")(error)),
                _ => {}
            }
        }
        Seal::open_existing(path)
    }

    /// Reads the key at `path`.
    pub fn open_existing(path: &Path) -> Result<Seal, SealError> {
        let file = |source| SealError::File { path: path.to_owned(), doing: "read", source };
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(file)?);
        let malformed = || SealError::Malformed { path: path.to_owned() };
        let key = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| malformed())?);
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| malformed())?;
        Ok(Seal { key: LessSafeKey::new(key), path: path.to_owned() })
    }

    /// Seals `secret` for `purpose`.
    pub fn seal(&self, purpose: &'static str, secret: &str) -> String {
        let mut nonce = [0_u8; NONCE_LEN];
        fill_random(&mut nonce);
        let mut bytes = secret.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose.as_bytes()), &mut bytes)
            .expect("a secret is far shorter than what AES-GCM can seal");
        STANDARD.encode([&nonce[..], &bytes].concat())
    }

    /// Opens what was sealed for `purpose`.
    pub fn open(&self, purpose: &'static str, sealed: &str) -> Result<Zeroizing<String>, SealError> {
        let foreign = || SealError::Foreign { path: self.path.clone(), purpose };
        let mut bytes = Zeroizing::new(STANDARD.decode(sealed).map_err(|_| foreign())?);
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(foreign)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| foreign())?;
        let opened = self.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), sealed).map_err(|_| foreign())?;
        let text = std::str::from_utf8(opened).map_err(|_| foreign())?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

/// Fills `bytes` from the system's random source.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system has a random source");
}

/// `count` random characters of letters and digits.
pub(crate) fn random_text(count: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789AB";
    let mut bytes = vec![0_u8; count];
    fill_random(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect()
}

/// Hex of the SHA-256 of a random secret: the stored form of node credentials and join tokens.
pub(crate) fn fingerprint(secret: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(secret.as_bytes()))
}

/// Whether `secret` has this fingerprint, in constant time.
pub(crate) fn matches_fingerprint(secret: &str, expected: &str) -> bool {
    use subtle::ConstantTimeEq;
    fingerprint(secret).as_bytes().ct_eq(expected.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_text_opens_with_its_key_for_its_purpose_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        let seal = Seal::open_or_create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let sealed = seal.seal("access key", "hunter2");
        assert!(!sealed.contains("hunter2"));
        let again = Seal::open_or_create(&path).unwrap();
        assert_eq!(again.open("access key", &sealed).unwrap().as_str(), "hunter2");
        assert!(again.open("authority", &sealed).is_err());
        let other = Seal::open_or_create(&dir.path().join("other.key")).unwrap();
        assert!(other.open("access key", &sealed).is_err());
        for damaged in ["", "x", "AAAA", &sealed[..sealed.len() - 4]] {
            assert!(again.open("access key", damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn key_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        std::fs::write(&path, "not a key").unwrap();
        assert!(Seal::open_or_create(&path).unwrap_err().to_string().contains("32 bytes"));
    }
}
