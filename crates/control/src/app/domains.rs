//! The verbs about domains: adding, changing, removing and showing them.
//!
//! Like a refresh, a change is an entry of the log: nodes learn of it in order, and it is `configured` once every
//! member has it.
//!
//! # What always holds
//!
//! - A call changes all the domains it names or none: each is checked first, and their entries are one transaction.
//! - A domain is changed only if every node has its previous change, so changes are made one at a time.
//! - A domain that is being deleted keeps its name, and is shown in its last state, until no node stores anything of
//!   it.

use std::sync::Arc;

use model::{Certificate, Coverage, Domain, DomainName, Functions, NodeName, Region, Revision, Source, Tier};

use super::{App, Denied, Permission, Principal};
use crate::known::Known;
use crate::state::domains::{ChangedDomain, Doing, DomainDetail, DomainError, DomainRow, NewDomain};
use crate::state::millis;

/// Domains one account may have.
pub(crate) const DOMAINS_MAX: usize = 50_000;

/// The most nodes that are named when a deletion waits.
const NAMED_MAX: usize = 20;

/// A domain as users see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DomainView {
    /// The row that the control plane stores.
    pub(crate) row: DomainRow,
    /// What nodes know, or knew before it was removed.
    pub(crate) domain: Domain,
    /// The certificate that its users are shown.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// Domains to be added, alike except for their names.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Distinct names.
    pub(crate) names: Vec<DomainName>,
    /// Where they are served.
    pub(crate) coverage: Coverage,
    /// Where their objects come from.
    pub(crate) sources: Vec<Source>,
    /// What only the public API shows.
    pub(crate) detail: DomainDetail,
    /// Their labels.
    pub(crate) labels: Vec<(String, String)>,
}

/// A change of an existing domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DomainChange {
    /// Whether it is served.
    Online(bool),
    /// The response header in which its origins name tags; the usual ones when `None`.
    TagHeader(Option<String>),
    /// Where it is served.
    Coverage(Coverage),
    /// Where its objects come from, and the kind of each as submitted.
    Sources(Vec<Source>, Vec<String>),
}

impl App {
    /// Adds domains to the account, all or none.
    pub(crate) async fn add_domains(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        wanted: Wanted,
    ) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, wanted.names.iter().map(|name| permission.on(name.as_str())))?;
        self.are_proven(principal, &wanted.names).await?;
        let known = self.following.now();
        let there = known.domains.values().filter(|row| row.account == principal.account()).count();
        if there + wanted.names.len() > DOMAINS_MAX {
            return Err(Denied::DomainsUsedUp);
        }
        let of_others = |row: &&DomainRow| row.account != principal.account();
        for domain in known.domains.values().filter(of_others).filter_map(|row| known.knowledge.domains.get(&row.name))
        {
            // A removed domain still exists in the configuration of domains that shared its cache.
            let share = domain.functions.rules().key.share.as_ref();
            if share.is_some_and(|of| wanted.names.iter().any(|name| name.serves(of.as_str()))) {
                return Err(Denied::DomainConflict);
            }
        }
        let new = |name: DomainName| NewDomain {
            domain: Domain {
                name,
                coverage: wanted.coverage,
                sources: wanted.sources.clone(),
                online: true,
                tag_header: None,
                functions: Functions::default(),
            },
            detail: wanted.detail.clone(),
            labels: wanted.labels.clone(),
        };
        let new = wanted.names.iter().cloned().map(new).collect();
        let at = self.state.add_domains(principal.account(), new, millis(self.clock.now())).await;
        self.reach(at).await
    }

    /// Changes domains of the account, all or none. A domain that is in the wanted state already gets no log entry.
    pub(crate) async fn change_domains(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        names: &[DomainName],
        change: &DomainChange,
    ) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, names.iter().map(|name| permission.on(name.as_str())))?;
        let known = self.following.now();
        let mut changed = Vec::new();
        for name in names {
            let (row, before) = changeable(&known, principal, name)?;
            let (mut domain, mut detail) = (before.clone(), row.detail.clone());
            match change {
                DomainChange::Online(online) => domain.online = *online,
                DomainChange::TagHeader(header) => domain.tag_header = header.clone(),
                DomainChange::Coverage(coverage) => domain.coverage = *coverage,
                DomainChange::Sources(sources, types) => {
                    (domain.sources, detail.source_types) = (sources.clone(), types.clone());
                }
            }
            if domain == *before && detail == row.detail {
                continue;
            }
            settled(&known, row)?;
            changed.push(ChangedDomain { domain, detail, seen: row.revision });
        }
        if changed.is_empty() {
            return Ok(());
        }
        let doing = if matches!(change, DomainChange::Online(false)) { Doing::Stopping } else { Doing::Configuring };
        let now_ms = millis(self.clock.now());
        let at = self.state.change_domains(principal.account(), changed, doing, now_ms).await;
        self.reach(at).await
    }

    /// Removes a domain from the account. Nodes forget it and everything stored for it; its name is free once all have.
    /// Its open prefetches are cancelled, since the name's next owner has another origin and other access rules.
    pub(crate) async fn remove_domain(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
    ) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let known = self.following.now();
        let row = own(&known, principal, name)?;
        // A blocked domain may be removed.
        let last = known.knowledge.domain(name.as_str()).cloned().ok_or(Denied::Configuring)?;
        settled(&known, row)?;
        let now_ms = millis(self.clock.now());
        let at = self.state.remove_domain(principal.account(), last, &row.detail, row.revision, now_ms).await;
        self.accepting.nudge();
        self.reach(at).await
    }

    /// Waits until this process knows what it just wrote, so that the caller's next request finds it.
    pub(super) async fn reach(&self, written: Result<Revision, DomainError>) -> Result<(), Denied> {
        match written {
            Ok(revision) => {
                self.following.reach(revision).await;
                Ok(())
            }
            Err(DomainError::Exists { own: true, deleting: true }) => Err(Denied::Configuring),
            Err(DomainError::Exists { own, deleting: _ }) => Err(Denied::DomainExists { own }),
            Err(DomainError::Conflict) => Err(Denied::DomainConflict),
            Err(DomainError::Blocked) => Err(Denied::Blocked),
            Err(DomainError::Absent) => Err(Denied::NoDomain(String::new())),
            Err(DomainError::Changed) => Err(Denied::Configuring),
            Err(DomainError::State(error)) => Err(Denied::Unavailable(error)),
        }
    }

    /// The account's domains, in the order in which they were added.
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
        let row = own(&known, principal, name)?;
        view(&known, row).ok_or_else(|| Denied::NoDomain(name.to_string()))
    }

    /// Members that still store something of a domain that `revision` removed, at most [`NAMED_MAX`].
    pub(crate) async fn not_deleted_by(&self, revision: Revision) -> Result<Vec<String>, Denied> {
        let rows = self.state.nodes().await?;
        let done = |name: &NodeName| {
            rows.iter().any(|row| row.name == *name && row.acked >= revision && row.swept >= revision)
        };
        let known = self.following.now();
        let members = known.knowledge.topology.members.keys();
        Ok(members.filter(|name| !done(name)).take(NAMED_MAX).map(ToString::to_string).collect())
    }

    /// The distinct host names or addresses of the second-tier nodes that serve a domain of the account.
    pub(crate) fn second_tier(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
    ) -> Result<Vec<String>, Denied> {
        let coverage = self.domain(principal, permission, name)?.domain.coverage;
        let known = self.following.now();
        let topology = &known.knowledge.topology;
        let serves = |pop| topology.pops.get(pop).is_some_and(|pop: &model::Pop| pop.region.meets(coverage));
        let members = topology.members.values().filter(|member| member.tier == Tier::L2 && serves(&member.pop));
        let mut hosts: Vec<String> = members.filter_map(|member| host_of(&member.advertise_url)).collect();
        hosts.sort();
        hosts.dedup();
        Ok(hosts)
    }

    /// The regions that POPs are in.
    pub(crate) fn places(&self, principal: &Principal, permission: Permission<'_>) -> Result<Vec<Region>, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on("*")])?;
        let known = self.following.now();
        let served = |region: &Region| known.knowledge.topology.pops.values().any(|pop| pop.region.includes(*region));
        Ok([Region::Domestic, Region::Overseas].into_iter().filter(served).collect())
    }
}

/// The host in `http://host:port`.
fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    uri.host().map(|host| host.trim_matches(['[', ']']).to_owned())
}

/// The account's row of a domain.
pub(super) fn own<'a>(known: &'a Known, principal: &Principal, name: &DomainName) -> Result<&'a DomainRow, Denied> {
    let row = known.domains.get(name).filter(|row| row.account == principal.account());
    row.ok_or_else(|| Denied::NoDomain(name.to_string()))
}

/// A domain that the account may change: not blocked and not being deleted.
pub(super) fn changeable<'a>(
    known: &'a Known,
    principal: &Principal,
    name: &DomainName,
) -> Result<(&'a DomainRow, &'a Domain), Denied> {
    let row = own(known, principal, name)?;
    if !row.blocked.is_empty() {
        return Err(Denied::Blocked);
    }
    let domain = known.knowledge.domain(name.as_str()).filter(|_| row.doing != Doing::Deleting);
    Ok((row, domain.ok_or(Denied::Configuring)?))
}

/// Fails while not all nodes have the last change, or this process has not read its log entry yet: rows and entries are
/// read separately, and each change builds on the last one.
pub(super) fn settled(known: &Known, row: &DomainRow) -> Result<(), Denied> {
    if row.configured && row.revision <= known.head { Ok(()) } else { Err(Denied::Configuring) }
}

fn view(known: &Known, row: &DomainRow) -> Option<DomainView> {
    let last = row.detail.last.as_deref();
    let domain = last.or_else(|| known.knowledge.domain(row.name.as_str()))?.clone();
    let certificate = known.knowledge.certificates.get(&row.name).cloned();
    Some(DomainView { row: row.clone(), domain, certificate })
}
