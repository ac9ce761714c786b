//! The verbs about certificates: setting, removing and showing them.
//!
//! # What always holds
//!
//! - A private key is checked, sealed and dropped here; no code behind this module sees it in the clear.

use std::sync::Arc;

use model::certificate::NONCE_BYTES;
use model::{Certificate, DomainName, SealedKey};

use super::domains::{changeable, settled};
use super::{App, Denied, Permission, Principal};
use crate::certificate::{self, Facts};
use crate::seal::fill_random;
use crate::state::millis;

/// A certificate and its key, both in PEM, as an owner submits them.
pub(crate) struct Submitted {
    /// The owner's name for it.
    pub(crate) name: String,
    /// The chain, starting with the domain's own certificate.
    pub(crate) chain: String,
    /// The private key.
    pub(crate) key: zeroize::Zeroizing<String>,
}

/// A certificate as its owner sees it.
pub(crate) type Shown = (Arc<Certificate>, Facts);

impl App {
    /// Sets or removes the certificate of a domain. Setting what is set already changes nothing.
    pub(crate) async fn set_certificate(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
        submitted: Option<Submitted>,
    ) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let known = self.following.now();
        let (row, _) = changeable(&known, principal, name)?;
        let before = known.knowledge.certificates.get(name);
        let now = self.clock.now();
        if let Some(submitted) = &submitted {
            certificate::check(name, &submitted.chain, &submitted.key, now).map_err(Denied::Certificate)?;
        }
        let same = match (before, &submitted) {
            (None, None) => true,
            (Some(before), Some(after)) => {
                before.name == after.name
                    && before.chain == after.chain
                    && before.key.open(&self.certificate_secret, name).is_ok_and(|key| *key == *after.key)
            }
            _ => false,
        };
        if same {
            return Ok(());
        }
        settled(&known, row)?;
        let certificate = submitted.map(|Submitted { name: called, chain, key }| {
            let mut nonce = [0; NONCE_BYTES];
            fill_random(&mut nonce);
            let key = SealedKey::seal(&self.certificate_secret, nonce, name, &key);
            Certificate { domain: name.clone(), name: called, chain, key, set_ms: millis(now) }
        });
        let at = self.state.set_certificate(principal.account(), name, certificate, row.revision, millis(now)).await;
        self.reach(at).await
    }

    /// The certificate of a domain of the account, if it has one.
    pub(crate) fn certificate(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
    ) -> Result<Option<Shown>, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let known = self.following.now();
        let own = known.domains.get(name).is_some_and(|row| row.account == principal.account());
        if !own {
            return Err(Denied::NoDomain(name.to_string()));
        }
        Ok(known.knowledge.certificates.get(name).and_then(shown))
    }
}

/// A certificate with its facts.
pub(super) fn shown(certificate: &Arc<Certificate>) -> Option<Shown> {
    certificate::facts(&certificate.chain).map(|facts| (certificate.clone(), facts))
}
