//! The service itself: OpenCdnService, DescribeCdnService, DescribeUserCdnStatus.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::profile::Profile;
use crate::read::{Request, timestamp};
use crate::refusal::{Fault, Refusal};

/// How an account says it will pay. Nobody is billed here; it is shown as it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeType {
    /// `PayByTraffic`
    Traffic,
    /// `PayByBandwidth`
    Bandwidth,
}

impl ChargeType {
    /// The vendor's word.
    pub fn name(self) -> &'static str {
        match self {
            ChargeType::Traffic => "PayByTraffic",
            ChargeType::Bandwidth => "PayByBandwidth",
        }
    }
}

/// A service that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedService {
    /// What it is called.
    pub instance: String,
    /// `PayByTraffic` or `PayByBandwidth`.
    pub charge: String,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// Why changes are refused, in the vendor's words: `financial`, `security`; `None` when they are not.
    pub locked: Option<&'static str>,
}

/// How an account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// It has opened the service.
    pub enabled: bool,
    /// It owes.
    pub in_debt: bool,
    /// It has owed for longer than it may.
    pub in_debt_overdue: bool,
    /// The service is there for it.
    pub on_service: bool,
}

pub(crate) fn open(request: &Request, profile: &Profile) -> Result<ChargeType, Refusal> {
    match request.params.required("InternetChargeType")? {
        "PayByTraffic" => Ok(ChargeType::Traffic),
        "PayByBandwidth" => Ok(ChargeType::Bandwidth),
        _ => Err(Refusal::of(Fault::ChargeType, profile.wording(request))),
    }
}

pub(crate) fn service_fields(request_id: &str, service: &OpenedService) -> Value {
    let locks: Vec<Value> = service.locked.iter().map(|reason| json!({ "LockReason": reason })).collect();
    json!({
        "RequestId": request_id,
        "InstanceId": service.instance,
        "InternetChargeType": service.charge,
        "OpeningTime": timestamp(service.opened_at),
        // How one pays does not change here, and dynamic requests are not paid apart.
        "ChangingChargeType": "",
        "ChangingAffectTime": "",
        "DynamicBillingType": "",
        "ChangingDynamicBillingType": "",
        "OperationLocks": { "LockReason": locks },
    })
}

pub(crate) fn status_fields(request_id: &str, status: ServiceStatus) -> Value {
    json!({
        "RequestId": request_id,
        "Enabled": status.enabled,
        "InDebt": status.in_debt,
        "InDebtOverdue": status.in_debt_overdue,
        "OnService": status.on_service,
    })
}
