//! The service itself.

use aliyun::{Fault, OpenedService, Refusal, Reply, ServiceStatus, Wording};

use super::{Group, now};

pub(crate) const GROUP: Group = Group {
    actions: &["OpenCdnService", "DescribeCdnService", "DescribeUserCdnStatus"],
    good,
    others: |_, _| &[],
    sent_as: |name| name,
    not_alone: &[],
    reply,
    refusals,
    unfilled: &[],
    without_effect: &[],
    other_words: &[
        ("Forbidden.Intl", "", "there is one service, wherever its users are"),
        ("Forbidden.BidUser", "", "there is no virtual operator"),
        ("NoRealNameAuthentication", "", "accounts are made by the operator, who knows whose they are"),
        ("FUWU_BIZ_COMMODITY_VERIFY_FAIL_INVALID_PAY_METHOD", "", "nobody is billed"),
        ("FUWU_BIZ_COMMODITY_VERIFY_FAIL_USERPROFILECOMPLETE", "", "nobody is billed"),
        ("LX_CREATE_ORDER_FAILED", "", "nothing is ordered"),
        ("UnsupportedParameter", "", "parameters that an action does not have are passed over, as by all others"),
    ],
};

fn good(action: &str) -> &'static [(&'static str, &'static str)] {
    // The facts know two ways to pay; each is another than the other.
    if action == "OpenCdnService" { &[("InternetChargeType", "PayByTraffic")] } else { &[] }
}

fn reply(action: &str) -> Reply {
    match action {
        "DescribeCdnService" => Reply::Service(OpenedService {
            instance: "me".to_owned(),
            charge: "PayByTraffic".to_owned(),
            opened_at: now(),
            locked: Some("financial"),
        }),
        "DescribeUserCdnStatus" => Reply::ServiceStatus(ServiceStatus {
            enabled: true,
            in_debt: false,
            in_debt_overdue: false,
            on_service: true,
        }),
        _ => Reply::Done,
    }
}

fn refusals() -> Vec<Refusal> {
    use Fault::{ChargeType, Overdue, ServiceNotOpened, ServiceOpen};
    [ChargeType, Overdue, ServiceNotOpened, ServiceOpen]
        .into_iter()
        .flat_map(|fault| [Wording::Current, Wording::Legacy].map(|wording| Refusal::of(fault, wording)))
        .collect()
}
