//! What a control plane is, made once with its database: the log's identity, the authority that signs the link's
//! certificate, and the secret its nodes show each other.

use model::LogId;
use zeroize::Zeroizing;

use super::{On, State, StateError, Writing};
use crate::seal::{Seal, SealError, random_text};

/// The name under which the link's certificate is made out; nodes connect by address, and ask for this name.
pub const LINK_NAME: &str = "warmfront-link";

/// Characters of the secret that nodes show each other.
const PEER_CREDENTIAL_CHARS: usize = 40;

const AUTHORITY_KEY: &str = "authority key";
const PEER_CREDENTIAL: &str = "peer credential";

/// The identity of a control plane. Holds secrets: not shown.
pub struct Identity {
    /// Of the one log.
    pub log: LogId,
    /// PEM of the authority's certificate: what join tokens tell nodes to trust.
    pub authority: String,
    /// PEM of the authority's key.
    pub(crate) authority_key: Zeroizing<String>,
    /// What nodes show each other.
    pub(crate) peer_credential: Zeroizing<String>,
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
    /// The identity of this control plane; made at the first call, whoever makes it.
    pub async fn identity(&self, seal: &Seal) -> Result<Identity, IdentityError> {
        if self.meta("log").await?.is_none() {
            self.make_identity(seal).await?;
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
        })
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
        let mut writing = self.write().await?;
        for (name, value) in rows {
            // Whoever came first is right: the rows are written together or not at all.
            add_meta(&mut writing, name, value).await?;
        }
        writing.commit().await?;
        Ok(())
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

/// Adds a row unless there is one.
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
    /// A certificate and key for the link's listener, in PEM, signed by the authority; made anew at every start.
    pub(crate) fn link_certificate(&self) -> Result<(String, Zeroizing<String>), rcgen::Error> {
        let authority_key = rcgen::KeyPair::from_pem(&self.authority_key)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.authority, authority_key)?;
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![LINK_NAME.to_owned()])?.signed_by(&key, &issuer)?;
        Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
    }
}
