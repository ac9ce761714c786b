//! The identity of a control plane, created once with its database: the log's id, the authority that signs the link's
//! certificate, the secret that nodes show each other, the secret that seals private keys in the log, the secret for
//! proofs of names, and the key that signs receipts.

use std::path::Path;
use std::sync::Arc;

use model::certificate::SECRET_BYTES;
use model::{CertificateSecret, LogId};
use zeroize::Zeroizing;

use super::{On, State, StateError, Writing};
use crate::receipt::Signer;
use crate::seal::{Seal, SealError, fill_random, random_text};

/// The name in the link's certificate. Nodes connect by address and expect this name.
pub const LINK_NAME: &str = "warmfront-link";

/// Characters of the secret for proofs of names.
const OWNER_SECRET_CHARS: usize = 43;

/// Characters of the secret that nodes show each other.
const PEER_CREDENTIAL_CHARS: usize = 40;

const AUTHORITY_KEY: &str = "authority key";
const PEER_CREDENTIAL: &str = "peer credential";
const RECEIPT_SEED: &str = "receipt key";
const CERTIFICATE_SECRET: &str = "certificate secret";
const OWNER_SECRET: &str = "owner secret";

/// The identity of a control plane. Holds secrets, so it cannot be printed.
pub struct Identity {
    /// The id of the log.
    pub log: LogId,
    /// PEM of the authority's certificate: what join tokens tell nodes to trust.
    pub authority: String,
    /// PEM of the authority's key.
    pub(crate) authority_key: Zeroizing<String>,
    /// The secret that nodes show each other.
    pub(crate) peer_credential: Zeroizing<String>,
    /// The secret that seals private keys in the log.
    pub(crate) certificate_secret: CertificateSecret,
    /// The secret for proofs of names.
    pub(crate) owner_secret: Zeroizing<String>,
    /// The key that signs receipts.
    pub(crate) signer: Arc<Signer>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
    /// The sealing key is not the one this database was made with.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The authority could not be made.
    #[error("make the link's authority")]
    Authority(#[from] rcgen::Error),
}

impl State {
    /// The sealing key at `path`. Created only while nothing is sealed in this database: a new key could open none of
    /// it.
    pub async fn seal(&self, path: &Path) -> Result<Seal, IdentityError> {
        match self.meta("log").await? {
            Some(_) => Ok(Seal::open_existing(path)?),
            None => Ok(Seal::open_or_create(path)?),
        }
    }

    /// The identity of this control plane; created at the first call by any process.
    pub async fn identity(&self, seal: &Seal) -> Result<Identity, IdentityError> {
        if self.meta("log").await?.is_none() {
            self.make_identity(seal).await?;
        }
        if self.meta("receipt_seed").await?.is_none() {
            // Databases of earlier versions have none.
            let sealed = seal.seal(RECEIPT_SEED, &Signer::fresh_seed());
            self.keep_meta([("receipt_seed", sealed)]).await?;
        }
        if self.meta("certificate_secret").await?.is_none() {
            let mut secret = Zeroizing::new([0; SECRET_BYTES]);
            fill_random(secret.as_mut_slice());
            let sealed = seal.seal(CERTIFICATE_SECRET, &CertificateSecret::new(*secret).expose());
            self.keep_meta([("certificate_secret", sealed)]).await?;
        }
        if self.meta("owner_secret").await?.is_none() {
            let sealed = seal.seal(OWNER_SECRET, &random_text(OWNER_SECRET_CHARS));
            self.keep_meta([("owner_secret", sealed)]).await?;
        }
        let have = |name: &'static str| async move {
            let value = self.meta(name).await?;
            value.ok_or_else(|| StateError::Corrupt { what: format!("meta {name}") })
        };
        Ok(Identity {
            log: LogId(have("log").await?),
            authority: have("authority").await?,
            authority_key: seal.open(AUTHORITY_KEY, &have("authority_key").await?)?,
            peer_credential: seal.open(PEER_CREDENTIAL, &have("peer_credential").await?)?,
            certificate_secret: CertificateSecret::parse(
                &seal.open(CERTIFICATE_SECRET, &have("certificate_secret").await?)?,
            )
            .ok_or_else(|| StateError::Corrupt { what: "meta certificate_secret".into() })?,
            owner_secret: seal.open(OWNER_SECRET, &have("owner_secret").await?)?,
            signer: Signer::of_seed(&seal.open(RECEIPT_SEED, &have("receipt_seed").await?)?)
                .map(Arc::new)
                .ok_or_else(|| StateError::Corrupt { what: "meta receipt_seed".into() })?,
        })
    }

    /// Gives the log a new identity, because entries of it may have been lost. Nodes that know the old one forget
    /// everything and join anew (fence rule 8).
    pub async fn renew_log(&self) -> Result<LogId, StateError> {
        let log = LogId(uuid::Uuid::new_v4().to_string());
        let mut writing = self.write().await?;
        match writing.on() {
            On::Sql(connection) => {
                sqlx::query("UPDATE meta SET value = $2 WHERE name = $1")
                    .bind("log")
                    .bind(&log.0)
                    .execute(connection)
                    .await?;
            }
            On::Memory(tables) => tables.change_meta("log", log.0.clone()),
        }
        writing.commit().await?;
        Ok(log)
    }

    async fn make_identity(&self, seal: &Seal) -> Result<(), IdentityError> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.distinguished_name.push(rcgen::DnType::CommonName, "Warmfront link authority");
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let authority = params.self_signed(&key)?.pem();
        let key = Zeroizing::new(key.serialize_pem());
        let rows = [
            ("authority", authority),
            ("authority_key", seal.seal(AUTHORITY_KEY, &key)),
            ("peer_credential", seal.seal(PEER_CREDENTIAL, &random_text(PEER_CREDENTIAL_CHARS))),
            ("log", uuid::Uuid::new_v4().to_string()),
        ];
        Ok(self.keep_meta(rows).await?)
    }

    async fn keep_meta<const N: usize>(&self, rows: [(&'static str, String); N]) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        for (name, value) in rows {
            // The first writer wins: these rows are written together or not at all.
            add_meta(&mut writing, name, value).await?;
        }
        writing.commit().await
    }

    async fn meta(&self, name: &str) -> Result<Option<String>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(pool).await?;
                row.map(|row| super::text(&row, "value")).transpose()
            }
            On::Memory(tables) => Ok(tables.meta(name)),
        }
    }
}

/// Adds a row unless it exists.
async fn add_meta(writing: &mut Writing, name: &'static str, value: String) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                .bind(name)
                .bind(value)
                .execute(connection)
                .await?;
        }
        On::Memory(tables) => tables.add_meta(name, value),
    }
    Ok(())
}

impl Identity {
    /// A certificate and key for the link's listener, in PEM, signed by the authority; new at every start.
    pub(crate) fn link_certificate(&self) -> Result<(String, Zeroizing<String>), rcgen::Error> {
        let authority_key = rcgen::KeyPair::from_pem(&self.authority_key)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.authority, authority_key)?;
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![LINK_NAME.to_owned()])?.signed_by(&key, &issuer)?;
        Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn sealing_key_that_is_lost_or_another_is_named_and_none_is_made_in_its_place() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = testing::state(&dir, &[]).await;
        let path = dir.path().join("secret.key");
        let seal = state.seal(&path).await.unwrap();
        state.identity(&seal).await.unwrap();

        let mistyped = dir.path().join("secrte.key");
        let said = |error: IdentityError| error.to_string();
        let lost = said(state.seal(&mistyped).await.unwrap_err());
        assert!(lost.contains("secrte.key") && lost.contains("secret_key_file"), "{lost}");
        assert!(!mistyped.exists());

        let other = Seal::open_or_create(&mistyped).unwrap();
        let foreign = said(state.identity(&other).await.err().unwrap());
        assert!(foreign.contains("secrte.key") && foreign.contains("secret_key_file"), "{foreign}");
    }

    #[tokio::test]
    async fn database_of_an_earlier_version_gets_a_key_for_receipts_and_keeps_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = testing::state(&dir, &[]).await;
        let seal = Seal::open_or_create(&dir.path().join("secret.key")).unwrap();
        let made = state.identity(&seal).await.unwrap();
        let again = state.identity(&seal).await.unwrap();
        assert_eq!((made.signer.public(), &made.log), (again.signer.public(), &again.log));
        let super::On::Sql(sql) = &state.store else { panic!("a database") };
        sqlx::query("DELETE FROM meta WHERE name = 'receipt_seed'").execute(&sql.pool).await.unwrap();
        let upgraded = state.identity(&seal).await.unwrap();
        assert_eq!(upgraded.log, made.log, "it is the same deployment");
        assert_ne!(upgraded.signer.public(), made.signer.public());
        assert_eq!(state.identity(&seal).await.unwrap().signer.public(), upgraded.signer.public());
        let row = sqlx::query("SELECT value FROM meta WHERE name = 'receipt_seed'").fetch_one(&sql.pool).await.unwrap();
        let kept = super::super::text(&row, "value").unwrap();
        assert!(Signer::of_seed(&kept).is_none(), "it lies there sealed");
    }
}
