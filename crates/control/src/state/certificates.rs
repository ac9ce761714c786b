//! Certificates of domains: entries of the log like every other change of a domain.

use model::{Certificate, DomainName, Entry, Revision};

use super::State;
use super::domains::{Doing, DomainError, RowChange, domain_owner, update_domain};
use super::log::append;

impl State {
    /// Sets or removes the certificate of a domain of an account, and tells the nodes. `seen` is the revision of the
    /// domain's last change.
    pub async fn set_certificate(
        &self,
        account: &str,
        name: &DomainName,
        certificate: Option<Certificate>,
        seen: Revision,
        now_ms: u64,
    ) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        let entry = match certificate {
            Some(certificate) => Entry::Certificate(certificate),
            None => Entry::CertificateRemoved(name.clone()),
        };
        let at = append(&mut writing, &[entry]).await?;
        if domain_owner(&mut writing, name.as_str()).await?.as_deref() != Some(account) {
            return Err(DomainError::Absent);
        }
        let change = RowChange { at, doing: Doing::Configuring, detail: None, now_ms };
        if !update_domain(&mut writing, name, seen, change).await? {
            return Err(DomainError::Changed);
        }
        writing.commit().await?;
        Ok(at)
    }
}
