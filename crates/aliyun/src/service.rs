//! The service itself: OpenCdnService, DescribeCdnService, DescribeUserCdnStatus.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::profile::Profile;
use crate::read::{Request, timestamp};
use crate::refusal::{Fault, Refusal};

/// How an account wants to pay. Nothing is billed here; it is only shown.
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

/// A service that has been opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedService {
    /// Its name.
    pub instance: String,
    /// `PayByTraffic` or `PayByBandwidth`.
    pub charge: String,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// Why changes are refused, in the vendor's words: `financial`, `security`; `None` if they are not.
    pub locked: Option<&'static str>,
}

/// The state of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// It has opened the service.
    pub enabled: bool,
    /// It has debts.
    pub in_debt: bool,
    /// It has had debts for longer than allowed.
    pub in_debt_overdue: bool,
    /// It can use the service.
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
        // The payment type cannot change here, and dynamic requests are not billed separately.
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
