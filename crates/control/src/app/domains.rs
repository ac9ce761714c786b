//! The verbs about domains: adding, changing, removing, looking.
//!
//! A change is an entry of the log like a refresh: nodes learn of it in order, and it is `configured` once every member has.
//!
//! # What always holds
//!
//! - A call changes all the domains it names or none: each is looked at first, and their entries are one transaction.
//! - A domain changes on top of a change that every node has, one at a time.
//! - What is being deleted keeps its name, and is shown as it was, until no node has anything of it.

use std::sync::Arc;

use model::{Certificate, Coverage, Domain, DomainName, Functions, NodeName, Region, Revision, Source, Tier};

use super::{App, Denied, Permission, Principal};
use crate::known::Known;
use crate::state::domains::{ChangedDomain, Doing, DomainDetail, DomainError, DomainRow, NewDomain};
use crate::state::millis;

/// Domains one account may have.
pub(crate) const DOMAINS_MAX: usize = 50_000;

/// Nodes that are named when a deletion waits for more.
const NAMED_MAX: usize = 20;

/// A domain as users see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DomainView {
    /// What the control plane keeps.
    pub(crate) row: DomainRow,
    /// What nodes know, or knew before it was removed.
    pub(crate) domain: Domain,
    /// What its users are shown by TLS.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// Domains to be made, all alike but for their names.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Each once.
    pub(crate) names: Vec<DomainName>,
    /// Where they are served.
    pub(crate) coverage: Coverage,
    /// Where their objects come from.
    pub(crate) sources: Vec<Source>,
    /// What only the public API speaks of.
    pub(crate) detail: DomainDetail,
    /// Their labels.
    pub(crate) labels: Vec<(String, String)>,
}

/// What becomes of a domain that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DomainChange {
    /// Whether it is served.
    Online(bool),
    /// In which response header its origins name tags; those that are usual when none.
    TagHeader(Option<String>),
    /// Where it is served.
    Coverage(Coverage),
    /// Where its objects come from, and the kind of each as it was submitted.
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
            // One that was removed while others shared its cache is still there in theirs.
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

    /// Changes domains of the account, all or none. What one is already changes nothing, and is no entry of the log.
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

    /// Takes a domain from the account. Nodes forget it and what they have of it; its name is free when all have. Prefetches of it
    /// that have not ended are cancelled: whoever has the name next has another origin and other rules of access.
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
        // One that is blocked may go.
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
        let row = own(&known, principal, name)?;
        view(&known, row).ok_or_else(|| Denied::NoDomain(name.to_string()))
    }

    /// Members that still have something of a domain that `revision` removed, the first of them.
    pub(crate) async fn not_deleted_by(&self, revision: Revision) -> Result<Vec<String>, Denied> {
        let rows = self.state.nodes().await?;
        let done = |name: &NodeName| {
            rows.iter().any(|row| row.name == *name && row.acked >= revision && row.swept >= revision)
        };
        let known = self.following.now();
        let members = known.knowledge.topology.members.keys();
        Ok(members.filter(|name| !done(name)).take(NAMED_MAX).map(ToString::to_string).collect())
    }

    /// Where nodes of the second tier are that serve a domain of the account: host names or addresses, each once.
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

/// A domain of the account that it may change: not one that is blocked or being deleted.
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

/// Refused while nodes have not all heard of the last change. One at a time, on top of the last one: rows and entries are read at
/// their own pace.
pub(super) fn settled(known: &Known, row: &DomainRow) -> Result<(), Denied> {
    if row.configured && row.revision <= known.head { Ok(()) } else { Err(Denied::Configuring) }
}

fn view(known: &Known, row: &DomainRow) -> Option<DomainView> {
    let last = row.detail.last.as_deref();
    let domain = last.or_else(|| known.knowledge.domain(row.name.as_str()))?.clone();
    let certificate = known.knowledge.certificates.get(&row.name).cloned();
    Some(DomainView { row: row.clone(), domain, certificate })
}
