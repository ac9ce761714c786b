//! From calls to verbs, and from their results to replies.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aliyun::{
    Bearer, Bucket, Call, CertificatePair, CertificateShown, Description, FiguresShown, FunctionRow, FunctionSet,
    ObjectPath, Page, Product, Quota, RefreshByTag, RefreshType, Reply, Request, Resource, Session, SteeredTask,
    TaskFilter, TaskQuery, TaskRow, TaskStatus, TaskType, UrlsShown, WhichFunctions, Wording,
};
use model::topology::WarmTiers;
use model::{Cause, Function, Revision};

use crate::app::{
    App, DOMAINS_MAX, Denied, Doomed, Line, LineFilter, Object, Permission, Prefetch, Principal, Progress, Refresh,
    RefreshOf, Shown, Spending, Status, Submitted, Wished,
};
use crate::completion::WaitedFor;
use crate::limits;
use crate::state::accounts::Account;
use crate::state::audit::Record;
use crate::state::chunks::{Filter, Kind};
use crate::state::millis;
use crate::state::steering::{PRIORITY_USUAL, Steer};

mod access;
mod details;
mod domains;

/// The most lines in an answer by ids: ten ids of 2,000 URLs.
const LINES_BY_ID_MAX: usize = 20_000;

/// The caller of a request, and how it is answered.
pub(super) struct Caller<'a> {
    pub(super) principal: &'a Principal,
    pub(super) request: &'a Request,
    pub(super) wording: Wording,
    /// The record for the audit log of a call that changes something; a submission writes it in its own transaction.
    pub(super) record: Option<Record>,
}

impl Caller<'_> {
    /// Action and resource as policies name them (prefetch-refresh §9), from the table of actions only.
    fn permission<'a>(&self, action: &'a mut String, resource: &'a mut String) -> Permission<'a> {
        let account = self.principal.account();
        *action = match self.request.product {
            Product::Cdn => format!("cdn:{}", self.request.action),
            Product::Vod => format!("vod:{}", self.request.action),
        };
        *resource = match aliyun::resource(&self.request.action) {
            Resource::Domain => format!("acs:cdn:*:{account}:domain/{{}}"),
            Resource::AllDomains => format!("acs:cdn:*:{account}:domain/*"),
            Resource::Account => format!("acs:cdn:*:{account}:*"),
            Resource::Anything => "*".to_owned(),
        };
        Permission { action, resource }
    }

    /// What is spent and recorded with a submission.
    fn spending(&self) -> Spending<'_> {
        Spending { nonce: &self.request.nonce, record: self.record.clone().unwrap_or_default() }
    }

    /// Whether it is a prefetch, which changes the wording of quota errors.
    pub(super) fn is_prefetch(&self) -> bool {
        matches!(self.request.action.as_str(), "PushObjectCache" | "PreloadVodObjectCaches")
    }
}

/// Where the nonce of a call is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// In the database, in one transaction with what it submits.
    WithSubmission,
    /// In the database, before anything is changed.
    InDatabase,
    /// In memory: the call only reads.
    InMemory,
}

/// Where the nonce of `call` is spent.
pub(super) fn spent(call: &Call) -> Spent {
    match call {
        Call::Prefetch(_) | Call::Refresh(_) | Call::RefreshByTag(_) => Spent::WithSubmission,
        Call::AddDomains(_) | Call::DeleteDomain(_) | Call::SwitchDomains { .. } | Call::SetDomain(_) => {
            Spent::InDatabase
        }
        Call::ModifyDomains(_) | Call::SetCoverage { .. } => Spent::InDatabase,
        Call::SetLabels(_) | Call::RemoveLabels(_) => Spent::InDatabase,
        Call::Labels(_) | Call::LabelsOf(_) | Call::LabelsOfAccount => Spent::InMemory,
        Call::Places | Call::Addresses(_) | Call::Cnames(_) | Call::ProofContent(_) => Spent::InMemory,
        Call::ProveName { .. } => Spent::InDatabase,
        Call::SetCertificate(_) => Spent::InDatabase,
        Call::Certificate(_) => Spent::InMemory,
        Call::SetFunctions(_) | Call::DeleteFunctions(_) => Spent::InDatabase,
        Call::Functions(_) | Call::DomainsByFunction { .. } => Spent::InMemory,
        Call::Explain(_) => Spent::InMemory,
        Call::Tasks(_) | Call::TasksById(_) | Call::Quota | Call::Domains(_) | Call::DomainDetail(_) => Spent::InMemory,
        Call::PrefetchDetail(_) | Call::UserQuota | Call::Receipt(_) | Call::ReceiptKey => Spent::InMemory,
        Call::Figures(_) | Call::TopUrls(_) | Call::PreloadTask { .. } => Spent::InMemory,
        Call::AuditLog(_) | Call::Service | Call::ServiceStatus => Spent::InMemory,
        Call::OpenService(_) | Call::Steer(_) => Spent::InDatabase,
        // A replay would issue credentials a second time.
        Call::CreateSession(_) | Call::CreateBearer(_) => Spent::InDatabase,
    }
}

/// Executes a call.
pub(super) async fn answer(app: &App, caller: &Caller<'_>, call: Call) -> Result<Reply, Denied> {
    let (mut action, mut resource) = (String::new(), String::new());
    let permission = caller.permission(&mut action, &mut resource);
    let principal = caller.principal;
    let account = &principal.key.account;
    let product = caller.request.product;
    match call {
        Call::Prefetch(prefetch) => {
            let limits = limits::of(account, product, Kind::Prefetch);
            let (objects, how) = prefetched(prefetch, account);
            let tasks = app.prefetch(principal, permission, caller.spending(), &limits, objects, &how).await?;
            Ok(Reply::Submitted(tasks))
        }
        Call::Explain(prefetch) => {
            let (objects, how) = prefetched(prefetch, account);
            Ok(Reply::Explained(app.explain(principal, permission, &objects, &how)?))
        }
        Call::Refresh(refresh) => {
            let of = match refresh.kind {
                RefreshType::File => RefreshOf::Files,
                RefreshType::Directory => RefreshOf::Directories,
                RefreshType::Regex => RefreshOf::Regexes,
                RefreshType::IgnoreParams => RefreshOf::Paths,
            };
            let how = Refresh { of, force: refresh.force };
            let limits = limits::of(account, product, of.kind());
            let tasks =
                app.refresh(principal, permission, caller.spending(), &limits, objects(refresh.paths), how).await?;
            Ok(Reply::Submitted(tasks))
        }
        Call::RefreshByTag(refresh) => {
            let limits = limits::of(account, product, Kind::RefreshTag);
            let line = |tag| (RefreshByTag::line(&refresh.domain, &tag), tag);
            let tags = refresh.tags.into_iter().map(line).collect();
            let (domain, force) = (&refresh.domain, refresh.force);
            let spending = caller.spending();
            let tasks = app.refresh_tags(principal, permission, spending, &limits, domain, tags, force).await?;
            Ok(Reply::Submitted(tasks))
        }
        Call::Tasks(query) => tasks(app, principal, permission, query).await,
        Call::TasksById(ids) => {
            let chunks = Filter { tasks: ids, to_ms: u64::MAX >> 1, ..Filter::default() };
            let filter = LineFilter { chunks, ..LineFilter::default() };
            let page = app.lines(principal, permission, &filter, 0, LINES_BY_ID_MAX).await?;
            let waiting = page.open.iter().map(|(task, revision)| waiting(app, *task, *revision)).collect();
            Ok(Reply::TasksById { rows: page.lines.into_iter().map(row).collect(), waiting })
        }
        Call::PrefetchDetail(task) => {
            let detail = app.detail(principal, permission, task).await?;
            Ok(Reply::PrefetchDetail(detail.map(|detail| details::shown(task, detail))))
        }
        Call::Steer(wished) => {
            let how = match wished.how {
                aliyun::Steer::Pause => Steer::Pause,
                aliyun::Steer::Resume => Steer::Resume,
                aliyun::Steer::Cancel => Steer::Cancel,
                aliyun::Steer::Priority(priority) => Steer::Priority(priority),
            };
            let urls = app.steer(principal, permission, &wished.tasks, how).await?;
            let steered = wished.tasks.into_iter().zip(urls).map(|(id, urls)| SteeredTask { id, urls });
            Ok(Reply::Steered(steered.collect()))
        }
        Call::PreloadTask { task, page } => {
            let detail = app.detail(principal, permission, task).await?.ok_or(Denied::NoPrefetch(task))?;
            let whole = details::whole(task, page, detail, millis(app.clock.now()));
            Ok(Reply::PreloadTask(Box::new(whole)))
        }
        Call::UserQuota => {
            let spent = app.spent_today(principal, permission).await?;
            Ok(Reply::UserQuota { quota: quota(caller, &spent), domains: DOMAINS_MAX as u64 })
        }
        Call::CreateSession(asked) => {
            let issued = app.create_session(principal, permission, asked.duration, asked.policy.as_deref())?;
            Ok(Reply::SessionCreated(Session {
                id: issued.pass.id.clone(),
                secret: issued.pass.secret.clone(),
                token: issued.token.to_string(),
                expires_at: time(issued.pass.expires_ms),
            }))
        }
        Call::CreateBearer(asked) => {
            let issued = app.create_bearer(principal, permission, asked.duration, asked.policy.as_deref())?;
            let expires_at = time(issued.pass.expires_ms);
            Ok(Reply::BearerCreated(Bearer { token: issued.token.to_string(), expires_at }))
        }
        Call::AuditLog(query) => access::audit_log(app, principal, permission, query).await,
        Call::OpenService(charge) => {
            app.open_service(principal, permission, charge.name()).await?;
            Ok(Reply::Done)
        }
        Call::Service => access::service(app, principal, permission).await,
        Call::ServiceStatus => access::standing(app, principal, permission),
        Call::Receipt(task) => Ok(Reply::Receipt(app.receipt(principal, permission, task).await?)),
        Call::ReceiptKey => Ok(Reply::ReceiptKey(app.receipt_key(principal, permission)?)),
        Call::Quota => {
            let spent = app.spent_today(principal, permission).await?;
            Ok(Reply::Quota(quota(caller, &spent)))
        }
        Call::AddDomains(_)
        | Call::ModifyDomains(_)
        | Call::SetCoverage { .. }
        | Call::DeleteDomain(_)
        | Call::SwitchDomains { .. }
        | Call::SetDomain(_)
        | Call::Domains(_)
        | Call::DomainDetail(_)
        | Call::DomainsByFunction { .. }
        | Call::SetLabels(_)
        | Call::RemoveLabels(_)
        | Call::Labels(_)
        | Call::LabelsOf(_)
        | Call::LabelsOfAccount
        | Call::Places
        | Call::Addresses(_)
        | Call::Cnames(_)
        | Call::ProofContent(_)
        | Call::ProveName { .. } => domains::answer(app, principal, permission, call).await,
        Call::SetCertificate(set) => {
            let submitted =
                |pair: CertificatePair| Submitted { name: pair.name, chain: pair.chain, key: pair.key.into() };
            app.set_certificate(principal, permission, &set.domain, set.pair.map(submitted)).await?;
            Ok(Reply::Done)
        }
        Call::Certificate(name) => {
            let certificate = app.certificate(principal, permission, &name)?.map(shown);
            Ok(Reply::Certificate { domain: name.to_string(), certificate })
        }
        Call::SetFunctions(set) => {
            let wished: Vec<Wished> = set.functions.into_iter().map(wished).collect();
            let set = app.set_functions(principal, permission, &set.domains, &wished).await?;
            let one = |(domain, name, id): (model::DomainName, String, u64)| FunctionSet {
                domain: domain.to_string(),
                name,
                id,
            };
            Ok(Reply::FunctionsSet(set.into_iter().map(one).collect()))
        }
        Call::Functions(query) => {
            let (functions, configured) = app.functions(principal, permission, &query.domain)?;
            let asked = |function: &&Function| {
                (query.names.is_empty() || query.names.contains(&function.name))
                    && query.id.is_none_or(|id| function.id == id)
                    && query.parent.is_none_or(|parent| function.parent == Some(parent))
            };
            let row = |function: &Function| FunctionRow {
                id: function.id,
                name: function.name.clone(),
                args: function.args.clone(),
                parent: function.parent,
            };
            Ok(Reply::Functions { rows: functions.list().iter().filter(asked).map(row).collect(), configured })
        }
        Call::DeleteFunctions(delete) => {
            let doomed = match delete.which {
                WhichFunctions::Ids(ids) => Doomed::Ids(ids),
                WhichFunctions::Names(names) => Doomed::Names(names),
            };
            app.delete_functions(principal, permission, &delete.domains, &doomed).await?;
            Ok(Reply::Done)
        }
        Call::Figures(query) => {
            let buckets = app.figures(principal, permission, &query).await?;
            Ok(Reply::Figures(Box::new(FiguresShown { query, buckets })))
        }
        Call::TopUrls(query) => {
            let urls = app.top_urls(principal, permission, &query).await?;
            Ok(Reply::TopUrls(Box::new(UrlsShown { query, urls })))
        }
    }
}

/// The members that a task waits for, with wall-clock times.
fn waiting(app: &App, task: u64, revision: Revision) -> aliyun::Waiting {
    let now = app.clock.now();
    let waiting = app.waiting(revision);
    let node = |node: WaitedFor| aliyun::WaitedFor {
        name: node.node.to_string(),
        last_heard: node.heard_ms.map(time),
        acknowledged: node.acked.0,
        at_most_until: node.at_most.map(|at_most| now + at_most),
    };
    aliyun::Waiting {
        task,
        revision: revision.0,
        nodes: waiting.nodes.into_iter().map(node).collect(),
        more: waiting.more,
    }
}

/// The objects of a prefetch, and its parameters.
fn prefetched(prefetch: aliyun::Prefetch, account: &Account) -> (Vec<Object>, Prefetch) {
    let how = Prefetch {
        area: prefetch.area,
        warm: WarmTiers { l2: prefetch.l2, edge: prefetch.edge },
        variants: prefetch.variants,
        verbatim: prefetch.verbatim,
        refetch: prefetch.refetch,
        pin: prefetch.pin.map(|time| (time, limits::pin_bytes(account))),
        priority: prefetch.priority.unwrap_or(PRIORITY_USUAL),
        not_before_ms: prefetch.not_before.map_or(0, millis),
    };
    (objects(prefetch.paths), how)
}

fn objects(paths: Vec<ObjectPath>) -> Vec<Object> {
    paths.into_iter().map(|path| Object { text: path.text, key: path.key }).collect()
}

fn skip(page: Page) -> u64 {
    u64::from(page.number.saturating_sub(1)) * u64::from(page.size)
}

async fn tasks(
    app: &App,
    principal: &Principal,
    permission: Permission<'_>,
    query: TaskQuery,
) -> Result<Reply, Denied> {
    let kinds = match query.kind {
        Some(TaskFilter::NoneOfOurs) => return Ok(Reply::Tasks { page: query.page, total: 0, rows: Vec::new() }),
        Some(TaskFilter::Type(TaskType::File)) => vec![Kind::RefreshFile, Kind::RefreshIgnoreParams, Kind::RefreshTag],
        Some(TaskFilter::Type(TaskType::Directory)) => vec![Kind::RefreshDirectory],
        Some(TaskFilter::Type(TaskType::Regex)) => vec![Kind::RefreshRegex],
        Some(TaskFilter::Type(TaskType::Preload)) => vec![Kind::Prefetch],
        None => Vec::new(),
    };
    let now_ms = millis(app.clock.now());
    let (from_ms, to_ms) = match (query.between, &query.ids) {
        (Some((from, to)), _) => (millis(from), millis(to)),
        (None, Some(_)) => (0, u64::MAX >> 1),
        (None, None) => (now_ms.saturating_sub(app.rules.task_history().as_millis() as u64), u64::MAX >> 1),
    };
    let chunks = Filter { tasks: query.ids.unwrap_or_default(), domain: None, kinds, from_ms, to_ms, open: false };
    let status = query.status.map(|status| match status {
        TaskStatus::Refreshing => Status::Refreshing,
        TaskStatus::Complete => Status::Complete,
        TaskStatus::Failed => Status::Failed,
    });
    let filter = LineFilter { chunks, host: query.domain, key: query.path.map(|path| path.key), status };
    let page = app.lines(principal, permission, &filter, skip(query.page), query.page.size as usize).await?;
    Ok(Reply::Tasks { page: query.page, total: page.total, rows: page.lines.into_iter().map(row).collect() })
}

fn row(line: Line) -> TaskRow {
    let (status, done, description) = match line.progress {
        Progress::Refreshing(hundredths) => (TaskStatus::Refreshing, u64::from(hundredths), Description::None),
        Progress::Complete => (TaskStatus::Complete, 10_000, Description::None),
        Progress::Failed(cause) => (TaskStatus::Failed, 0, describe(&cause)),
    };
    TaskRow {
        id: line.task,
        path: line.path,
        kind: match line.kind {
            Kind::Prefetch => TaskType::Preload,
            Kind::RefreshFile | Kind::RefreshIgnoreParams | Kind::RefreshTag => TaskType::File,
            Kind::RefreshDirectory => TaskType::Directory,
            Kind::RefreshRegex => TaskType::Regex,
        },
        status,
        done,
        total: 10_000,
        created_at: time(line.created_ms),
        description,
    }
}

/// The vendor's wording if it has one for this cause, else our own.
fn describe(cause: &Cause) -> Description {
    match cause {
        Cause::OriginStatus(status) => Description::OriginStatus(*status),
        Cause::OriginTimeout => Description::OriginTimeout,
        Cause::Store(_) | Cause::Unreadable => Description::Internal,
        other => Description::Text(other.to_string()),
    }
}

pub(super) fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

fn quota(caller: &Caller<'_>, spent: &BTreeMap<String, u64>) -> Quota {
    let account = &caller.principal.key.account;
    let product = caller.request.product;
    let bucket = |bucket: limits::Bucket| Bucket {
        limit: limits::day(account, product, bucket),
        used: spent.get(bucket.name(product)).copied().unwrap_or(0),
    };
    let prefetch = bucket(limits::Bucket::of_prefetches(account, product));
    Quota {
        url: bucket(limits::Bucket::Urls),
        directory: bucket(limits::Bucket::Directories),
        regex: bucket(limits::Bucket::Regexes),
        ignore_params: bucket(limits::Bucket::IgnoreParams),
        prefetch,
        // Prefetches are counted once, whichever tiers they warm; blocking does not exist here.
        prefetch_edge: prefetch,
        block: Bucket { limit: Some(0), used: 0 },
    }
}

fn wished(set: aliyun::SetFunction) -> Wished {
    Wished { id: set.id, function: Function { id: 0, name: set.name, args: set.args, parent: set.parent } }
}

fn shown((certificate, facts): Shown) -> CertificateShown {
    CertificateShown {
        name: certificate.name.clone(),
        // The time at which it was set distinguishes the certificates of a domain.
        id: certificate.set_ms,
        subject: facts.subject,
        issuer: facts.issuer,
        chain: certificate.chain.clone(),
        not_before: facts.not_before,
        not_after: facts.not_after,
        set_at: time(certificate.set_ms),
    }
}
