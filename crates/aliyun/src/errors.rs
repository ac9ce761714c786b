//! Pages about error codes, one per code: what the code means here and what to do about it.
//!
//! They are part of the reference. The `Recommend` link of a refusal points to the page about its code, on the server
//! that refused.

/// The codes with a page, in order.
pub fn codes() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|(code, _)| *code)
}

/// The page about `code`, in Markdown; `None` if there is no such code.
pub fn page(code: &str) -> Option<&'static str> {
    let at = PAGES.binary_search_by_key(&code, |(code, _)| code).ok()?;
    PAGES.get(at).map(|(_, text)| *text)
}

macro_rules! pages {
    ($($code:literal)*) => {
        &[$(($code, include_str!(concat!("../../../docs/reference/errors/", $code, ".md")))),*]
    };
}

static PAGES: &[(&str, &str)] = pages! {
    "CdnService.HasOpened"
    "Certificate.MissMatch"
    "Certificate.NotFind"
    "DomainAlreadyExist"
    "DomainOverLimit"
    "DomainOwnerVerifyFail"
    "EntityNotExists.ResourceGroup"
    "ExtensiveAndSpecificDomainConflict"
    "Forbidden.RAM"
    "IllegalOperation"
    "IllegalTimestamp"
    "IncompleteSignature"
    "InsufficientBalance"
    "InternalError"
    "InvalidAccessKeyId.Inactive"
    "InvalidAccessKeyId.NotFound"
    "InvalidAction.NotFound"
    "InvalidArgName.ValueNotSupported"
    "InvalidArgValue.Malformed"
    "InvalidBearerToken.Expired"
    "InvalidBearerToken.Malformed"
    "InvalidCdnType.Malformed"
    "InvalidCdnType.ValueNotSupported"
    "InvalidCertName.TooLong"
    "InvalidCertificate"
    "InvalidCertificate.TooLong"
    "InvalidCustomHeader"
    "InvalidDomain.Configure_failed"
    "InvalidDomain.NotFound"
    "InvalidDomain.Offline"
    "InvalidDomainName.Malformed"
    "InvalidDomainName.ValueNotSupported"
    "InvalidDomainSearchType.ValueNotSupported"
    "InvalidDomainStatus.ValueNotSupported"
    "InvalidEndTime.Malformed"
    "InvalidEndTime.Mismatch"
    "InvalidExtensiveDomain.ValueNotSupported"
    "InvalidFunctionName.ValueNotSupported"
    "InvalidFunctions.Malformed"
    "InvalidHeaderKey.ValueNotSupported"
    "InvalidInternetChargeType.ValueNotSupported"
    "InvalidObjectPath.ExceedsMaximum"
    "InvalidObjectPath.Malformed"
    "InvalidObjectPath.Size.Malformed"
    "InvalidObjectType.Malformed"
    "InvalidObjectType.ValueNotSupported"
    "InvalidPageNumber.ValueNotSupported"
    "InvalidPageSize.ValueNotSupported"
    "InvalidParameter"
    "InvalidResourceGroupId.Malformed"
    "InvalidSSLPri"
    "InvalidSSLProtocol.ValueNotSupported"
    "InvalidScope.Malformed"
    "InvalidSecurityToken.Expired"
    "InvalidSecurityToken.Malformed"
    "InvalidSecurityToken.MismatchWithAccessKey"
    "InvalidSource.Content.Malformed"
    "InvalidSource.Priority.Malformed"
    "InvalidSource.Type.Malformed"
    "InvalidSourcePort.Malformed"
    "InvalidSourceType.Malformed"
    "InvalidSources.Malformed"
    "InvalidStartTime.Malformed"
    "InvalidStartTime.ValueNotSupported"
    "InvalidStatus.ValueNotSupported"
    "InvalidTaskId.Malformed"
    "InvalidTaskId.NotFound"
    "InvalidTime"
    "InvalidTimeStamp.Expired"
    "InvalidTimeStamp.Format"
    "InvalidTypeContent.Mismatch"
    "InvalidVersion"
    "MissingAccessKeyId"
    "MissingBearerToken"
    "MissingParameter"
    "MissingParameter.ObjectType"
    "MissingSecurityToken"
    "MissingTimeParameter"
    "OperationDenied"
    "OperationDenied.Suspended"
    "PreloadQueueFull"
    "QuotaExceeded.Preload"
    "QuotaExceeded.Refresh"
    "QuotaPerMinuteExceeded.Refresh"
    "ReceiptNotFound"
    "RequestEntityTooLarge"
    "SSLPri.MissingParameter"
    "SSLPub.MissingParameter"
    "ServiceBusy"
    "ServiceUnavailable"
    "SignatureDoesNotMatch"
    "SignatureNonceUsed"
    "SingleRequest.OverLimit"
    "SourceIp.Exceed"
    "TaskEnded"
    "TaskNotComplete"
    "Throttling"
    "Throttling.User"
    "TooMany.Refresh"
    "TooManyRequests"
    "TopLevelDomain.NotFound"
    "UnsupportedHTTPMethod"
    "UnsupportedOperation"
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_in_order_and_begin_with_their_code() {
        let codes: Vec<&str> = codes().collect();
        assert!(codes.is_sorted(), "looked up by bisection");
        for code in codes {
            assert!(page(code).is_some_and(|text| text.starts_with(&format!("# {code}\n\n"))), "{code}");
        }
        assert_eq!(page("../0001-chunks"), None);
    }

    /// Finds refusals in the source: each is constructed with its status before its code.
    #[test]
    fn every_code_of_a_refusal_has_its_page() {
        let source = include_str!("refusal.rs").split("mod tests").next().unwrap_or_default();
        let mut found = 0;
        for (at, _) in source.match_indices(", \"").chain(source.match_indices(",\n            \"")) {
            let before = source[..at].trim_end();
            let status = &before[before.len().saturating_sub(3)..];
            let code = source[at..].split('"').nth(1).unwrap_or_default();
            let is_code = code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
            if status.parse::<u16>().is_ok_and(|status| status >= 400) && is_code {
                found += 1;
                assert!(page(code).is_some(), "no page about {code}");
            }
        }
        assert!(found > 80, "{found}: the reader of the source is blind");
    }

    #[test]
    fn every_page_is_in_the_reference_and_the_other_way_round() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/errors");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|file| file.unwrap().file_name().to_str()?.strip_suffix(".md").map(str::to_owned))
            .filter(|name| name != "README")
            .collect();
        files.sort();
        assert_eq!(files, codes().collect::<Vec<_>>());
    }
}
