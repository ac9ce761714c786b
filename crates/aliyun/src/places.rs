//! Where domains are served, and by which names and addresses: DescribeCdnRegionAndIsp, DescribeL2VipsByDomain,
//! DescribeDomainCname.

use model::Region;
use serde_json::{Value, json};

/// The status text of DescribeDomainCname: this deployment has no CNAMEs for users' DNS.
const NO_CNAME: &str = "domains have no CNAME here: point DNS at the nodes that face users";

/// The fields of DescribeCdnRegionAndIsp: the regions for which figures can be queried. The users' providers are
/// unknown, so there is only one.
pub(crate) fn places_fields(request_id: &str, places: &[Region]) -> Value {
    let one = |region: &Region| match region {
        Region::Domestic => json!({ "NameEn": "domestic", "NameZh": "\u{4e2d}\u{56fd}\u{5185}\u{5730}" }),
        Region::Overseas => {
            json!({ "NameEn": "overseas", "NameZh": "\u{4e2d}\u{56fd}\u{5185}\u{5730}\u{4ee5}\u{5916}" })
        }
    };
    json!({
        "RequestId": request_id,
        "Regions": { "Region": places.iter().map(one).collect::<Vec<_>>() },
        "Isps": { "Isp": [{ "NameEn": "other", "NameZh": "\u{5176}\u{4ed6}" }] },
    })
}

/// The fields of DescribeL2VipsByDomain.
pub(crate) fn addresses_fields(request_id: &str, domain: &str, addresses: &[String]) -> Value {
    json!({ "RequestId": request_id, "DomainName": domain, "Vips": { "Vip": addresses } })
}

/// The fields of DescribeDomainCname: a status other than 0 means that DNS does not point to the CNAME.
pub(crate) fn names_fields(request_id: &str, domains: &[String]) -> Value {
    let one =
        |domain: &String| json!({ "Domain": domain, "Cname": "", "Status": 1, "Passed": "yes", "ErrMsg": NO_CNAME });
    json!({ "RequestId": request_id, "CnameDatas": { "Data": domains.iter().map(one).collect::<Vec<_>>() } })
}
