//! Actions: a verified request as a typed value.
//!
//! One `match` on the vendor's names shows everything that is implemented.

use std::time::SystemTime;

use model::{Coverage, DomainName};

use crate::actions::{
    AUDIT_LOG, CANCEL_TASK, CREATE_BEARER, CREATE_SESSION, EXPLAIN, PAUSE_TASK, PRELOAD_TASK, RESUME_TASK, SET_DOMAIN,
    SET_PRIORITY,
};
use crate::audit::{self, AuditQuery};
use crate::certificates::{self, SetCertificate};
use crate::credentials::{self, CreateBearer, CreateSession};
use crate::domains::{self, AddDomains, DomainQuery, ModifyDomains, SetDomain};
use crate::figures::{self, FigureQuery, UrlQuery};
use crate::functions::{self, DeleteFunctions, FunctionQuery, SetFunctions};
use crate::labels::{self, LabelQuery, RemoveLabels, SetLabels};
use crate::owners::{self, VerifyType};
use crate::prefetch::{self, Prefetch, Refresh, RefreshByTag};
use crate::profile::Profile;
use crate::read::{Params, Product, Request};
use crate::refusal::Refusal;
use crate::rules::Rules;
use crate::service::{self, ChargeType};
use crate::steering::{self, SteerTasks};
use crate::tasks::{self, Page, TaskQuery};

/// A call. The product is in the [`Request`]; the same verbs serve both products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// PushObjectCache, PreloadVodObjectCaches
    Prefetch(Prefetch),
    /// Our own: ExplainPreload, with the parameters of a submission
    Explain(Prefetch),
    /// RefreshObjectCaches, RefreshVodObjectCaches
    Refresh(Refresh),
    /// RefreshObjectCacheByCacheTag
    RefreshByTag(RefreshByTag),
    /// DescribeRefreshTasks, DescribeVodRefreshTasks
    Tasks(TaskQuery),
    /// DescribeRefreshTaskById: one to ten ids
    TasksById(Vec<u64>),
    /// DescribePreloadDetailById: one id
    PrefetchDetail(u64),
    /// Our own: DescribePreloadTask.
    PreloadTask {
        /// Its id.
        task: u64,
        /// The page of its URLs.
        page: Page,
    },
    /// Our own: PausePreloadTask, ResumePreloadTask, CancelPreloadTask, SetPreloadTaskPriority.
    Steer(SteerTasks),
    /// DescribeCdnUserQuota
    UserQuota,
    /// Our own: CreateSessionCredentials.
    CreateSession(CreateSession),
    /// Our own: CreateBearerToken.
    CreateBearer(CreateBearer),
    /// Our own: DescribeAuditLog.
    AuditLog(AuditQuery),
    /// OpenCdnService
    OpenService(ChargeType),
    /// DescribeCdnService
    Service,
    /// DescribeUserCdnStatus
    ServiceStatus,
    /// Our own: DescribeRefreshTaskReceipt, of one task.
    Receipt(u64),
    /// Our own: DescribeReceiptKey.
    ReceiptKey,
    /// DescribeRefreshQuota, DescribeVodRefreshQuota
    Quota,
    /// AddCdnDomain, BatchAddCdnDomain, AddVodDomain
    AddDomains(AddDomains),
    /// ModifyCdnDomain, BatchUpdateCdnDomain, UpdateVodDomain
    ModifyDomains(ModifyDomains),
    /// ModifyCdnDomainSchdmByProperty
    SetCoverage {
        /// Which domain.
        name: DomainName,
        /// Its new coverage.
        coverage: Coverage,
    },
    /// DeleteCdnDomain, DeleteVodDomain
    DeleteDomain(DomainName),
    /// StartCdnDomain, StopCdnDomain, BatchStartCdnDomain, BatchStopCdnDomain, BatchStartVodDomain, BatchStopVodDomain
    SwitchDomains {
        /// The domains, without duplicates.
        names: Vec<DomainName>,
        /// Whether they are to be served.
        online: bool,
    },
    /// TagResources
    SetLabels(SetLabels),
    /// UntagResources
    RemoveLabels(RemoveLabels),
    /// ListTagResources
    Labels(LabelQuery),
    /// DescribeTagResources
    LabelsOf(LabelQuery),
    /// DescribeUserTags
    LabelsOfAccount,
    /// DescribeCdnRegionAndIsp
    Places,
    /// DescribeL2VipsByDomain
    Addresses(DomainName),
    /// DescribeDomainCname
    Cnames(Vec<DomainName>),
    /// DescribeVerifyContent, DescribeVodVerifyContent
    ProofContent(DomainName),
    /// VerifyDomainOwner, VerifyVodDomainOwner
    ProveName {
        /// The name to prove.
        name: DomainName,
        /// Where the proof is.
        how: VerifyType,
    },
    /// Our own: SetWarmfrontDomain
    SetDomain(SetDomain),
    /// SetCdnDomainSSLCertificate, SetVodDomainCertificate, SetVodDomainSSLCertificate
    SetCertificate(SetCertificate),
    /// DescribeDomainCertificateInfo, DescribeVodDomainCertificateInfo
    Certificate(DomainName),
    /// DescribeUserDomains, DescribeVodUserDomains
    Domains(DomainQuery),
    /// DescribeCdnDomainDetail, DescribeVodDomainDetail
    DomainDetail(DomainName),
    /// BatchSetCdnDomainConfig, BatchSetVodDomainConfigs
    SetFunctions(SetFunctions),
    /// DescribeCdnDomainConfigs, DescribeVodDomainConfigs
    Functions(FunctionQuery),
    /// DeleteSpecificConfig, DeleteVodSpecificConfig, BatchDeleteCdnDomainConfig
    DeleteFunctions(DeleteFunctions),
    /// DescribeCdnUserDomainsByFunc
    DomainsByFunction {
        /// The function's number.
        number: u32,
        /// The page of the list.
        page: Page,
    },
    /// DescribeDomainHitRateData and the other figures of domains, including VOD's
    Figures(FigureQuery),
    /// DescribeDomainTopUrlVisit, DescribeDomainSrcTopUrlVisit
    TopUrls(UrlQuery),
}

/// Reads the parameters of `request`, from an account with `profile`, under the operator's `rules`.
///
/// A known action that is not implemented gives `UnsupportedOperation`; unknown ones were refused when
/// the request was read.
pub fn call(request: &Request, profile: &Profile, rules: Rules, now: SystemTime) -> Result<Call, Refusal> {
    use Product::{Cdn, Vod};
    Ok(match (request.product, request.action.as_str()) {
        (Cdn, "PushObjectCache") | (Vod, "PreloadVodObjectCaches") => {
            Call::Prefetch(prefetch::prefetch(request, profile, rules, now)?)
        }
        (_, EXPLAIN) => Call::Explain(prefetch::prefetch(request, profile, rules, now)?),
        (Cdn, "RefreshObjectCaches") | (Vod, "RefreshVodObjectCaches") => {
            Call::Refresh(prefetch::refresh(request, profile, rules)?)
        }
        (Cdn, "RefreshObjectCacheByCacheTag") => Call::RefreshByTag(prefetch::refresh_by_tag(request, profile)?),
        (Cdn, "DescribeRefreshTasks") | (Vod, "DescribeVodRefreshTasks") => {
            Call::Tasks(tasks::query(request, profile, rules, now)?)
        }
        (Cdn, "DescribeRefreshTaskById") => Call::TasksById(tasks::by_id(request, profile)?),
        (Cdn, "DescribePreloadDetailById") => Call::PrefetchDetail(tasks::one(request, profile)?),
        (_, PAUSE_TASK | RESUME_TASK | CANCEL_TASK | SET_PRIORITY) => Call::Steer(steering::steer(request, profile)?),
        (_, PRELOAD_TASK) => {
            let (task, page) = steering::task(request, profile)?;
            Call::PreloadTask { task, page }
        }
        (_, CREATE_SESSION) => Call::CreateSession(credentials::session(request)?),
        (_, CREATE_BEARER) => Call::CreateBearer(credentials::bearer(request)?),
        (_, AUDIT_LOG) => Call::AuditLog(audit::query(request)?),
        (Cdn, "OpenCdnService") => Call::OpenService(service::open(request, profile)?),
        (Cdn, "DescribeCdnService") => Call::Service,
        (Cdn, "DescribeUserCdnStatus") => Call::ServiceStatus,
        (_, "DescribeRefreshTaskReceipt") => Call::Receipt(tasks::one(request, profile)?),
        (_, "DescribeReceiptKey") => Call::ReceiptKey,
        (Cdn, "DescribeRefreshQuota") | (Vod, "DescribeVodRefreshQuota") => Call::Quota,
        (Cdn, "DescribeCdnUserQuota") => Call::UserQuota,
        (Cdn, "AddCdnDomain") | (Vod, "AddVodDomain") => Call::AddDomains(domains::add(request, profile, false)?),
        (Cdn, "BatchAddCdnDomain") => Call::AddDomains(domains::add(request, profile, true)?),
        (Cdn, "ModifyCdnDomain") | (Vod, "UpdateVodDomain") => {
            Call::ModifyDomains(domains::modify(request, profile, false)?)
        }
        (Cdn, "BatchUpdateCdnDomain") => Call::ModifyDomains(domains::modify(request, profile, true)?),
        (Cdn, "ModifyCdnDomainSchdmByProperty") => {
            let (name, coverage) = domains::set_coverage(request, profile)?;
            Call::SetCoverage { name, coverage }
        }
        (Cdn, "DeleteCdnDomain") | (Vod, "DeleteVodDomain") => Call::DeleteDomain(domains::name(request, profile)?),
        (Cdn, "StartCdnDomain" | "StopCdnDomain") => {
            let names = vec![domains::name(request, profile)?];
            Call::SwitchDomains { names, online: request.action == "StartCdnDomain" }
        }
        (Cdn, "BatchStartCdnDomain") | (Vod, "BatchStartVodDomain") => {
            Call::SwitchDomains { names: domains::names(request, profile, "DomainNames")?, online: true }
        }
        (Cdn, "BatchStopCdnDomain") | (Vod, "BatchStopVodDomain") => {
            Call::SwitchDomains { names: domains::names(request, profile, "DomainNames")?, online: false }
        }
        (Cdn, "TagResources") => Call::SetLabels(labels::set(request, profile)?),
        (Cdn, "UntagResources") => Call::RemoveLabels(labels::remove(request, profile)?),
        (Cdn, "ListTagResources") => Call::Labels(labels::query(request, profile, false)?),
        (Cdn, "DescribeTagResources") => Call::LabelsOf(labels::query(request, profile, true)?),
        (Cdn, "DescribeUserTags") => Call::LabelsOfAccount,
        (Cdn, "DescribeCdnRegionAndIsp") => Call::Places,
        (Cdn, "DescribeL2VipsByDomain") => {
            request.params.get("DomainName").ok_or_else(|| Refusal::empty("\"DomainName\""))?;
            Call::Addresses(domains::name(request, profile)?)
        }
        (Cdn, "DescribeDomainCname") => Call::Cnames(domains::names(request, profile, "DomainName")?),
        (Cdn, "DescribeVerifyContent") | (Vod, "DescribeVodVerifyContent") => {
            Call::ProofContent(domains::name(request, profile)?)
        }
        (Cdn, "VerifyDomainOwner") | (Vod, "VerifyVodDomainOwner") => {
            let (name, how) = owners::verify(request, profile)?;
            Call::ProveName { name, how }
        }
        (Cdn, SET_DOMAIN) => Call::SetDomain(domains::set(request, profile)?),
        (Cdn, "SetCdnDomainSSLCertificate") | (Vod, "SetVodDomainCertificate" | "SetVodDomainSSLCertificate") => {
            Call::SetCertificate(certificates::set(request, profile)?)
        }
        (Cdn, "DescribeDomainCertificateInfo") | (Vod, "DescribeVodDomainCertificateInfo") => {
            Call::Certificate(domains::name(request, profile)?)
        }
        (Cdn, "DescribeUserDomains") | (Vod, "DescribeVodUserDomains") => {
            Call::Domains(domains::query(request, profile)?)
        }
        (Cdn, "DescribeCdnDomainDetail") | (Vod, "DescribeVodDomainDetail") => {
            Call::DomainDetail(domains::name(request, profile)?)
        }
        (Cdn, "BatchSetCdnDomainConfig") | (Vod, "BatchSetVodDomainConfigs") => {
            Call::SetFunctions(functions::set(request, profile)?)
        }
        (Cdn, "DescribeCdnDomainConfigs") | (Vod, "DescribeVodDomainConfigs") => {
            Call::Functions(functions::query(request, profile)?)
        }
        (Cdn, "DeleteSpecificConfig") | (Vod, "DeleteVodSpecificConfig") => {
            Call::DeleteFunctions(functions::delete(request, profile)?)
        }
        (Cdn, "BatchDeleteCdnDomainConfig") => Call::DeleteFunctions(functions::delete_by_name(request, profile)?),
        (Cdn, "DescribeCdnUserDomainsByFunc") => {
            let (number, page) = functions::by_function(request, profile)?;
            Call::DomainsByFunction { number, page }
        }
        (Cdn, "DescribeDomainTopUrlVisit") => Call::TopUrls(figures::urls(request, false, now)?),
        (Cdn, "DescribeDomainSrcTopUrlVisit") => Call::TopUrls(figures::urls(request, true, now)?),
        (_, action) => match figures::figure(action) {
            Some(figure) => Call::Figures(figures::query(request, figure, now)?),
            None => return Err(Refusal::unsupported()),
        },
    })
}

/// A boolean in any letter case; absent is false.
pub(crate) fn boolean(params: &Params, name: &str) -> Result<bool, Refusal> {
    match params.get(name) {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Refusal::invalid(name, "true or false is expected")),
    }
}
