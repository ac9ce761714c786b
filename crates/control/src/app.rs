//! The verbs: what a principal can do. No HTTP, no words of the public API, no SQL.
//!
//! Every verb takes a [`Principal`] first, so a verb without a caller does not compile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aliyun::Rules;
use model::pattern::BadPattern;
use model::topology::WarmTiers;
use model::{
    Clock, Coverage, Domain, DomainName, Invalidation, LogId, Mode, Pattern, Pin, Scope, Tag, UrlKey, account_number,
};

use crate::certificate::BadCertificate;
use crate::completion::Acknowledged;
use crate::keys::Keys;
use crate::known::{Following, Known};
use crate::ownership::Ownership;
use crate::passes::{Pass, Passes};
use crate::policy::Policy;
use crate::receipt::Signer;
use crate::scheduler::Counters;
use crate::state::accounts::{AccessKey, AccountStatus};
use crate::state::audit::Record;
use crate::state::chunks::{Kind, Params};
use crate::state::domains::DomainRow;
use crate::state::steering::Steering;
use crate::state::submit::{Accepting, Charge, Group, QueueMax, Refused, Submission};
use crate::state::{State, StateError, millis};

mod audit;
mod certificates;
mod credentials;
mod details;
mod domains;
mod explain;
mod figures;
mod functions;
mod labels;
mod lines;
mod owners;
mod receipts;
mod service;
mod steering;

pub(crate) use certificates::{Shown, Submitted};
pub(crate) use details::Detail;
#[cfg(test)]
pub(crate) use details::UrlDetail;
pub(crate) use domains::{DOMAINS_MAX, DomainChange, DomainView, Wanted};
pub(crate) use explain::other_key;
pub(crate) use functions::{Doomed, Wished, has};
pub(crate) use lines::{Line, LineFilter, Progress, Status};

/// Quota days begin at midnight, UTC+8.
const DAY_OFFSET_MS: u64 = 8 * 3_600_000;
const DAY_MS: u64 = 86_400_000;

/// Outlines read at a time, and chunks.
const OUTLINES_BATCH_MAX: u32 = 2_000;
const CHUNKS_BATCH_MAX: usize = 64;

/// The caller: a key that signed, with its account, user and policies, or a holder of temporary credentials made with
/// it.
#[derive(Clone)]
pub(crate) struct Principal {
    /// The key.
    pub(crate) key: Arc<AccessKey>,
    /// The temporary credentials; `None` when the key itself signed.
    pub(crate) pass: Option<Arc<Pass>>,
}

impl Principal {
    /// The account's name.
    pub(crate) fn account(&self) -> &str {
        &self.key.account.name
    }

    /// The user of the account; `None` for the account itself.
    pub(crate) fn user(&self) -> Option<&str> {
        self.key.user.as_ref().map(|user| user.name.as_str())
    }

    /// The id that its requests are made with: nonces are remembered under it.
    pub(crate) fn id(&self) -> &str {
        self.pass.as_ref().map_or(&self.key.id, |pass| &pass.id)
    }

    /// Fails unless `action` is allowed on every one of `resources`: by the user's policies, if the key belongs to a
    /// user, and by the policies of the key and of the temporary credentials, which only narrow.
    fn may(&self, action: &str, resources: impl IntoIterator<Item = String>) -> Result<(), Denied> {
        let of_pass = self.pass.as_ref().and_then(|pass| pass.policy.as_ref());
        let narrowing: Vec<&Policy> = self.key.policy.as_ref().into_iter().chain(of_pass).collect();
        let user = self.key.user.as_ref();
        let allowed = |resource: String| {
            user.is_none_or(|user| Policy::allow(&user.policies, action, &resource))
                && narrowing.iter().all(|policy| policy.allows(action, &resource))
        };
        if resources.into_iter().all(allowed) { Ok(()) } else { Err(Denied::Forbidden) }
    }

    /// Fails unless the account may change things.
    fn may_change(&self) -> Result<(), Denied> {
        match self.key.account.status {
            AccountStatus::Active => Ok(()),
            status => Err(Denied::Account(status)),
        }
    }

    /// Fails if the account has never opened the service.
    fn may_look(&self) -> Result<(), Denied> {
        match self.key.account.status {
            AccountStatus::NotOpened => Err(Denied::Account(AccountStatus::NotOpened)),
            _ => Ok(()),
        }
    }
}

/// What is spent and recorded with a submission, in its transaction.
#[derive(Clone, Debug)]
pub(crate) struct Spending<'a> {
    /// The nonce of the request.
    pub(crate) nonce: &'a str,
    /// The record for the audit log.
    pub(crate) record: Record,
}

/// The permission that a call needs: the action, and the resource pattern of a domain.
#[derive(Clone, Copy)]
pub(crate) struct Permission<'a> {
    /// As policies name it, for example `cdn:PushObjectCache`.
    pub(crate) action: &'a str,
    /// The resource as policies name it. `{}` is replaced by a domain's name, or by `*` if a call names none. Verbs
    /// always ask for each domain that the call names; the table of actions decides by this field what the permission
    /// depends on.
    pub(crate) resource: &'a str,
}

impl Permission<'_> {
    fn on(&self, domain: &str) -> String {
        self.resource.replace("{}", domain)
    }
}

/// Why a verb failed. Nothing was changed, unless it is [`Denied::Unavailable`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Denied {
    /// The state of the account forbids it.
    #[error("account is {0:?}")]
    Account(AccountStatus),
    /// The policies of the key and its user do not allow it.
    #[error("the policies of the key and its user do not allow it")]
    Forbidden,
    /// The service is open already.
    #[error("the service is open")]
    ServiceOpen,
    /// The account has not opened the service; only from verbs about the service itself.
    #[error("the service was never opened")]
    ServiceNotOpened,
    /// No domain of the account serves this host.
    #[error("no domain of the account serves `{0}`")]
    NoDomain(String),
    /// The domain is switched off.
    #[error("domain is offline")]
    Offline,
    /// The domain is not configured everywhere yet.
    #[error("domain is being configured")]
    Configuring,
    /// The operator blocked the domain, or its name.
    #[error("domain is blocked")]
    Blocked,
    /// A domain would have too many labels.
    #[error("{0}")]
    Labels(String),
    /// The domain exists already.
    #[error("domain exists already")]
    DomainExists {
        /// Whether by the caller's own account.
        own: bool,
    },
    /// Another account has a wildcard over the domain, or a domain under the wildcard.
    #[error("another account has a related domain")]
    DomainConflict,
    /// The regular expression of a refresh is not valid.
    #[error(transparent)]
    Regex(#[from] BadPattern),
    /// A certificate that the domain cannot be served with.
    #[error(transparent)]
    Certificate(BadCertificate),
    /// The account has not proven that a name is its own.
    #[error("name is not proven")]
    NotProven,
    /// The account has the maximum number of domains.
    #[error("no more domains")]
    DomainsUsedUp,
    /// The policy for temporary credentials is not valid.
    #[error("{0}")]
    Policy(String),
    /// Functions that a domain cannot have.
    #[error(transparent)]
    Functions(functions::Bad),
    /// The domain has no function of this number and name.
    #[error("the domain has no {name} with the number {id}")]
    NoFunction {
        /// The number.
        id: u64,
        /// Its name.
        name: String,
    },
    /// The submission was refused.
    #[error("not accepted: {0:?}")]
    Refused(Refused),
    /// The account has no such task.
    #[error("no such task")]
    NoTask,
    /// The account has no prefetch of this id.
    #[error("no prefetch {0}")]
    NoPrefetch(u64),
    /// The prefetch of this id has ended.
    #[error("prefetch {0} has ended")]
    TaskEnded(u64),
    /// The task is not complete.
    #[error("task is not complete")]
    NotComplete,
    /// There is no receipt of the task, for this reason.
    #[error("no receipt: {0}")]
    NoReceipt(&'static str),
    /// The database failed.
    #[error("state is not available")]
    Unavailable(#[source] StateError),
}

impl From<StateError> for Denied {
    fn from(error: StateError) -> Denied {
        Denied::Unavailable(error)
    }
}

/// The limits that apply to a submission.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// The bucket that it is charged to.
    pub(crate) bucket: &'static str,
    /// The quota of a day.
    pub(crate) day: Option<u64>,
    /// How many objects each domain may be sent within a minute.
    pub(crate) minute: Option<u64>,
    /// How much may be open.
    pub(crate) queue: QueueMax,
}

/// One object as submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// As it will be shown, with scheme.
    pub(crate) text: String,
    /// Its key; for a directory, the key of its index; for a regular expression, its text.
    pub(crate) key: UrlKey,
}

/// What a refresh does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refresh {
    /// What its objects stand for.
    pub(crate) of: RefreshOf,
    /// Whether covered objects are fetched whole again instead of validated. Files always are.
    pub(crate) force: bool,
}

/// What the objects of a refresh stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshOf {
    /// Themselves.
    Files,
    /// Everything beneath them; `/` under a wildcard domain's own name stands for the whole domain.
    Directories,
    /// What they match as regular expressions.
    Regexes,
    /// Their path, whatever the query.
    Paths,
}

impl RefreshOf {
    /// The kind of its tasks.
    pub(crate) fn kind(self) -> Kind {
        match self {
            RefreshOf::Files => Kind::RefreshFile,
            RefreshOf::Directories => Kind::RefreshDirectory,
            RefreshOf::Regexes => Kind::RefreshRegex,
            RefreshOf::Paths => Kind::RefreshIgnoreParams,
        }
    }
}

/// What a prefetch does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prefetch {
    /// The regions to warm; each domain's own coverage when absent.
    pub(crate) area: Option<Coverage>,
    /// Which tiers it warms.
    pub(crate) warm: WarmTiers,
    /// Request headers of each variant; at least one.
    pub(crate) variants: Vec<Vec<(String, String)>>,
    /// Its rank among the account's prefetches.
    pub(crate) priority: u8,
    /// The time before which it does not begin, in milliseconds since 1970.
    pub(crate) not_before_ms: u64,
    /// Whether the URLs as submitted are the keys.
    pub(crate) verbatim: bool,
    /// Whether copies from before the submission are fetched again.
    pub(crate) refetch: bool,
    /// How long the objects stay in the stores, and how many bytes the account may have pinned on a node.
    pub(crate) pin: Option<(Duration, u64)>,
}

/// The verbs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    /// The database.
    pub(crate) state: State,
    /// The task that accepts submissions.
    pub(crate) accepting: Accepting,
    /// The current knowledge.
    pub(crate) following: Following,
    /// What nodes have acknowledged.
    pub(crate) acknowledged: Acknowledged,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// The key that receipts are signed with.
    pub(crate) signer: Arc<Signer>,
    /// The secret that seals private keys in the log.
    pub(crate) certificate_secret: model::CertificateSecret,
    /// The identity of the log.
    pub(crate) log: LogId,
    /// Issues and opens temporary credentials.
    pub(crate) passes: Passes,
    /// The cache of keys, cleared for an account that changes itself.
    pub(crate) keys: Keys,
    /// Looks for proofs that names belong to accounts.
    pub(crate) ownership: Arc<Ownership>,
    /// The operator's settings for reading calls.
    pub(crate) rules: Rules,
    /// The scheduler's counters, and the nodes it can give jobs to.
    pub(crate) jobs: Arc<Counters>,
}

impl App {
    /// Submits a prefetch. The nonce of the request is spent with it.
    pub(crate) async fn prefetch(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        spending: Spending<'_>,
        limits: &Limits,
        objects: Vec<Object>,
        prefetch: &Prefetch,
    ) -> Result<Vec<u64>, Denied> {
        principal.may_change()?;
        let known = self.following.now();
        let names = named(&known, principal.account(), &objects);
        principal.may(permission.action, names.into_iter().map(|name| permission.on(name)))?;
        let pin = prefetch.pin.map(|(time, bytes_max)| Pin {
            // The pin lasts this long counted from the time at which the object may be fetched.
            until: (millis(self.clock.now()).max(prefetch.not_before_ms) / 1000).saturating_add(time.as_secs()),
            owner: account_number(principal.account()),
            bytes_max,
        });
        let mut groups = Vec::new();
        for (row, objects) in by_domain(&known, principal.account(), objects)? {
            let coverage = known.knowledge.domains.get(&row.name).map_or(Coverage::Global, |domain| domain.coverage);
            let params = Params {
                // The given area applies even where the domain is not served: the vendor's pages do not refuse that.
                area: prefetch.area.unwrap_or(coverage),
                warm: prefetch.warm,
                variants: prefetch.variants.clone(),
                verbatim: prefetch.verbatim,
                refetch: prefetch.refetch,
                pin: pin.clone(),
            };
            let paths = objects.into_iter().map(|object| object.text).collect();
            groups.push(Group {
                domain: row.name.clone(),
                kind: Kind::Prefetch,
                paths,
                invalidations: Vec::new(),
                params,
                steering: Steering { priority: prefetch.priority, ..Steering::from(prefetch.not_before_ms) },
            });
        }
        self.submit(principal, spending, limits, groups).await
    }

    /// Submits a refresh. The nonce of the request is spent with it.
    pub(crate) async fn refresh(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        spending: Spending<'_>,
        limits: &Limits,
        objects: Vec<Object>,
        refresh: Refresh,
    ) -> Result<Vec<u64>, Denied> {
        principal.may_change()?;
        let known = self.following.now();
        let names = named(&known, principal.account(), &objects);
        principal.may(permission.action, names.into_iter().map(|name| permission.on(name)))?;
        let mut groups = Vec::new();
        for (row, objects) in by_domain(&known, principal.account(), objects)? {
            let invalidations: Result<_, BadPattern> =
                objects.iter().map(|object| invalidation(&object.key, refresh)).collect();
            let paths = objects.into_iter().map(|object| object.text).collect();
            groups.push(refreshes(row, refresh.of.kind(), paths, invalidations?));
        }
        self.submit(principal, spending, limits, groups).await
    }

    /// Submits a refresh by tags in one domain, each tag with the text it will be shown as. The nonce of the request is
    /// spent with it.
    #[expect(clippy::too_many_arguments, reason = "the first four are those of every submission")]
    pub(crate) async fn refresh_tags(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        spending: Spending<'_>,
        limits: &Limits,
        domain: &DomainName,
        tags: Vec<(String, Tag)>,
        force: bool,
    ) -> Result<Vec<u64>, Denied> {
        principal.may_change()?;
        principal.may(permission.action, [permission.on(domain.as_str())])?;
        let known = self.following.now();
        let row = own(&known, principal.account(), domain.as_str(), known.knowledge.domain(domain.as_str()))?;
        let mode = if force { Mode::Delete } else { Mode::Expire };
        let (paths, invalidations) = tags
            .into_iter()
            .map(|(text, tag)| (text, Invalidation { scope: Scope::Tag { domain: domain.clone(), tag }, mode }))
            .unzip();
        let groups = vec![refreshes(row, Kind::RefreshTag, paths, invalidations)];
        self.submit(principal, spending, limits, groups).await
    }

    async fn submit(
        &self,
        principal: &Principal,
        spending: Spending<'_>,
        limits: &Limits,
        groups: Vec<Group>,
    ) -> Result<Vec<u64>, Denied> {
        let now_ms = millis(self.clock.now());
        let units = groups.iter().map(|group| group.paths.len() as u64).sum();
        let submission = Submission {
            account: principal.account().to_owned(),
            nonce: (principal.id().to_owned(), spending.nonce.to_owned()),
            now_ms,
            groups,
            charge: Charge { bucket: limits.bucket, day: quota_day(now_ms), units, limit: limits.day },
            minute_max: limits.minute,
            queue_max: limits.queue,
            record: spending.record,
        };
        let accepted = self.accepting.submit(submission).await.map_err(Denied::Refused)?;
        self.following.nudge();
        Ok(accepted.tasks)
    }

    /// What the account has spent today, by bucket.
    pub(crate) async fn spent_today(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
    ) -> Result<BTreeMap<String, u64>, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on("*")])?;
        let day = quota_day(millis(self.clock.now()));
        Ok(self.state.spent(principal.account(), day).await?)
    }
}

/// The names by which policies know where objects lie: the account's domain that serves the host, else the host itself.
/// So permission is checked before existence.
fn named<'a>(known: &'a Known, account: &str, objects: &'a [Object]) -> BTreeSet<&'a str> {
    let hosts: BTreeSet<&str> = objects.iter().map(|object| object.key.host()).collect();
    let name = |host: &'a str| {
        let whole = host.starts_with('.').then(|| known.knowledge.domain(host));
        let domain = whole.unwrap_or_else(|| known.knowledge.domain_for(host));
        let row = domain.and_then(|domain| known.domains.get(&domain.name)).filter(|row| row.account == account);
        row.map_or(host, |row| row.name.as_str())
    };
    hosts.into_iter().map(name).collect()
}

/// Groups objects by the domain that serves them, which must be the account's own, online and configured.
fn by_domain<'a>(
    known: &'a Known,
    account: &str,
    objects: Vec<Object>,
) -> Result<Vec<(&'a DomainRow, Vec<Object>)>, Denied> {
    let mut groups: Vec<(&DomainRow, Vec<Object>)> = Vec::new();
    for object in objects {
        let host = object.key.host();
        // Consecutive objects mostly share a domain; then no lookup is needed.
        let at = groups.iter().position(|(row, objects)| row.name.as_str() == host || objects[0].key.host() == host);
        if let Some(at) = at {
            groups[at].1.push(object);
            continue;
        }
        // No host begins with a dot: this is the name of a wildcard domain.
        let whole = host.starts_with('.').then(|| known.knowledge.domain(host));
        let row = own(known, account, host, whole.unwrap_or_else(|| known.knowledge.domain_for(host)))?;
        match groups.iter_mut().find(|(known, _)| known.name == row.name) {
            Some((_, objects)) => objects.push(object),
            None => groups.push((row, vec![object])),
        }
    }
    Ok(groups)
}

/// The account's row of `domain`, which must be online and configured; `asked` is the name the caller used.
fn own<'a>(known: &'a Known, account: &str, asked: &str, domain: Option<&Domain>) -> Result<&'a DomainRow, Denied> {
    let row = domain.and_then(|domain| known.domains.get(&domain.name)).filter(|row| row.account == account);
    let (Some(domain), Some(row)) = (domain, row) else { return Err(Denied::NoDomain(asked.to_owned())) };
    if !row.blocked.is_empty() {
        return Err(Denied::Blocked);
    }
    if !domain.online {
        return Err(Denied::Offline);
    }
    if row.configured { Ok(row) } else { Err(Denied::Configuring) }
}

fn refreshes(row: &DomainRow, kind: Kind, paths: Vec<String>, invalidations: Vec<Invalidation>) -> Group {
    let (area, warm) = (Coverage::Global, WarmTiers::default());
    let params = Params { area, warm, variants: Vec::new(), verbatim: false, refetch: false, pin: None };
    Group { domain: row.name.clone(), kind, paths, invalidations, params, steering: Steering::from(0) }
}

/// The invalidation that nodes get for one object of a refresh.
fn invalidation(key: &UrlKey, refresh: Refresh) -> Result<Invalidation, BadPattern> {
    let (host, path) = (key.host().to_owned(), key.path().to_owned());
    let scope = match refresh.of {
        RefreshOf::Files => Scope::File(key.clone()),
        RefreshOf::Directories => match DomainName::parse(&host).ok().filter(DomainName::is_wildcard) {
            Some(wildcard) => Scope::Domain(wildcard),
            None => Scope::Directory { host, path },
        },
        RefreshOf::Regexes => Scope::Regex(Pattern::parse(key.clone())?),
        RefreshOf::Paths => Scope::IgnoreParams { host, path },
    };
    let delete = refresh.force || refresh.of == RefreshOf::Files;
    Ok(Invalidation { scope, mode: if delete { Mode::Delete } else { Mode::Expire } })
}

/// The quota day that contains a time, counted from 1970 in UTC+8.
pub(crate) fn quota_day(now_ms: u64) -> u64 {
    (now_ms + DAY_OFFSET_MS) / DAY_MS
}

#[cfg(test)]
mod tests;
