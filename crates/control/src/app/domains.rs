//! The verbs about domains: adding, changing, removing, looking.
//!
//! A change is an entry of the log like a refresh: nodes learn of it in order, and it is `configured` once every member has.

use std::sync::Arc;

use model::{Certificate, Coverage, Domain, DomainName, Functions, Revision, Source};

use super::{App, Denied, Permission, Principal};
use crate::known::Known;
use crate::state::log::{DomainDetail, DomainError, DomainRow};
use crate::state::millis;

/// Domains one account may have.
pub(crate) const DOMAINS_MAX: usize = 50_000;

/// A domain as users see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DomainView {
    /// What the control plane keeps.
    pub(crate) row: DomainRow,
    /// What nodes know.
    pub(crate) domain: Domain,
    /// What its users are shown by TLS.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// What becomes of a domain that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DomainChange {
    /// Whether it is served.
    Online(bool),
    /// In which response header its origins name tags; those that are usual when none.
    TagHeader(Option<String>),
}

impl App {
    /// Adds a domain to the account.
    pub(crate) async fn add_domain(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: DomainName,
        coverage: Coverage,
        sources: Vec<Source>,
        detail: DomainDetail,
    ) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let known = self.following.now();
        if known.domains.values().filter(|row| row.account == principal.account()).count() >= DOMAINS_MAX {
            return Err(Denied::DomainsUsedUp);
        }
        // One that was removed while others shared its cache is still there in theirs.
        let shares =
            |domain: &Domain| domain.functions.rules().key.share.as_ref().is_some_and(|of| name.serves(of.as_str()));
        let others = |row: &&DomainRow| row.account != principal.account();
        if known
            .domains
            .values()
            .filter(others)
            .any(|row| known.knowledge.domains.get(&row.name).is_some_and(|of| shares(of)))
        {
            return Err(Denied::DomainConflict);
        }
        let domain =
            Domain { name, coverage, sources, online: true, tag_header: None, functions: Functions::default() };
        let at = self.state.add_domain(principal.account(), domain, &detail, millis(self.clock.now())).await;
        self.reach(at).await
    }

    /// Changes a domain of the account. What it is already changes nothing, and is no entry of the log.
    pub(crate) async fn change_domain(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
        change: DomainChange,
    ) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let known = self.following.now();
        let row = known.domains.get(name).filter(|row| row.account == principal.account());
        let (Some(row), Some(before)) = (row, known.knowledge.domains.get(name)) else {
            return Err(Denied::NoDomain(name.to_string()));
        };
        let mut domain = Domain::clone(before);
        match change {
            DomainChange::Online(online) => domain.online = online,
            DomainChange::TagHeader(header) => domain.tag_header = header,
        }
        if domain == **before {
            return Ok(());
        }
        // One change at a time, on top of the last one: both are read at their own pace.
        if !row.configured || row.revision > known.head {
            return Err(Denied::Configuring);
        }
        let now_ms = millis(self.clock.now());
        let at = self.state.change_domain(principal.account(), domain, row.revision, now_ms).await;
        self.reach(at).await
    }

    /// Takes a domain from the account.
    pub(crate) async fn remove_domain(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
    ) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let at = self.state.remove_domain(principal.account(), name).await;
        self.reach(at).await
    }

    /// Waits until this process knows what it just wrote, so that the caller's next request finds it.
    pub(super) async fn reach(&self, written: Result<Revision, DomainError>) -> Result<(), Denied> {
        match written {
            Ok(revision) => {
                self.following.reach(revision).await;
                Ok(())
            }
            Err(DomainError::Exists { own }) => Err(Denied::DomainExists { own }),
            Err(DomainError::Conflict) => Err(Denied::DomainConflict),
            Err(DomainError::Absent) => Err(Denied::NoDomain(String::new())),
            Err(DomainError::Changed) => Err(Denied::Configuring),
            Err(DomainError::State(error)) => Err(Denied::Unavailable(error)),
        }
    }

    /// The account's domains that its key may see, in the order they were added.
    pub(crate) fn domains(&self, principal: &Principal, permission: Permission<'_>) -> Result<Vec<DomainView>, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on("*")])?;
        let known = self.following.now();
        let mut views: Vec<DomainView> = known
            .domains
            .values()
            .filter(|row| row.account == principal.account())
            .filter_map(|row| view(&known, row))
            .collect();
        views.sort_by(|a, b| (a.row.created_ms, &a.row.name).cmp(&(b.row.created_ms, &b.row.name)));
        Ok(views)
    }

    /// One domain of the account.
    pub(crate) fn domain(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
    ) -> Result<DomainView, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let known = self.following.now();
        let row = known.domains.get(name).filter(|row| row.account == principal.account());
        row.and_then(|row| view(&known, row)).ok_or_else(|| Denied::NoDomain(name.to_string()))
    }
}

fn view(known: &Known, row: &DomainRow) -> Option<DomainView> {
    let domain = known.knowledge.domain(row.name.as_str())?.clone();
    let certificate = known.knowledge.certificates.get(&row.name).cloned();
    Some(DomainView { row: row.clone(), domain, certificate })
}
