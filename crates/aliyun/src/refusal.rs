//! Errors in the vendor's words: code, status and message, exactly as clients know them.
//!
//! There are two tables. The gateway's errors (protocol §7) are functions on [`Refusal`], as they quote different
//! details. The errors of the refresh family and of domains (prefetch-refresh §8) are a [`Fault`] worded by a
//! [`Wording`], as the vendor's generations differ in code, status and text.
//!
//! # Not here
//!
//! Mapping our conditions to faults: the API layer does that.

use std::borrow::Cow;
use std::time::Duration;

use crate::certificates::KEY_PARAMETER;
use crate::profile::Wording;

/// How long a client that was refused because of load is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Longest piece of client input that a message quotes, in characters.
const QUOTED_MAX: usize = 160;

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The vendor's code, which clients act on.
    pub code: Cow<'static, str>,
    /// The vendor's text.
    pub message: String,
    /// How long the client should wait, if known.
    wait: Option<Duration>,
}

impl Refusal {
    /// A refusal with any code and text; prefer the named constructors.
    pub fn new(status: u16, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Refusal {
        Refusal { status, code: code.into(), message: message.into(), wait: None }
    }

    /// The same, with the reason after the vendor's text.
    pub fn because(mut self, reason: &str) -> Refusal {
        self.message = format!("{} ({})", self.message, quoted(reason));
        self
    }

    /// The same, with the time until the client would be admitted.
    pub fn after(mut self, wait: Duration) -> Refusal {
        self.wait = Some(wait);
        self
    }

    /// The same, with `days` in place of the three days of the vendor's text.
    pub(crate) fn with_days(mut self, days: u64) -> Refusal {
        self.message = self.message.replace("3 days", &format!("{days} days"));
        self
    }

    /// How long the client should wait before it retries; `None` if waiting would not help.
    pub fn retry_after(&self) -> Option<Duration> {
        let load = matches!(self.status, 429 | 503) || self.code.starts_with("Throttling");
        load.then(|| self.wait.unwrap_or(RETRY_AFTER))
    }

    /// A required parameter is absent or empty.
    pub fn missing(parameter: &str) -> Refusal {
        let message = format!(
            "The input parameter \"{parameter}\" that is mandatory for processing this request is not supplied."
        );
        Refusal::new(400, "MissingParameter", message)
    }

    /// [`Refusal::missing`] in the wording of some pages, which differ in whether they quote the name.
    pub(crate) fn empty(parameter: &str) -> Refusal {
        Refusal::new(400, "MissingParameter", format!("The specified value of parameter {parameter} can not be empty."))
    }

    /// [`Refusal::missing`] in the newer wording, with the parameter in the code.
    pub fn missing_for_action(parameter: &str) -> Refusal {
        Refusal::new(400, format!("Missing{parameter}"), format!("{parameter} is mandatory for this action."))
    }

    /// A parameter, header or part of the request is invalid.
    pub fn invalid(parameter: &str, expected: &str) -> Refusal {
        let message = format!("The specified parameter {} is not valid: {expected}.", quoted(parameter));
        Refusal::new(400, "InvalidParameter", message)
    }

    /// The time stamp is missing.
    pub fn illegal_timestamp() -> Refusal {
        Refusal { code: "IllegalTimestamp".into(), ..Refusal::missing("Timestamp") }
    }

    /// The time stamp does not have the form `yyyy-MM-ddTHH:mm:ssZ`.
    pub fn timestamp_format() -> Refusal {
        Refusal::new(400, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted.")
    }

    /// The time stamp is too far from now.
    pub fn timestamp_expired() -> Refusal {
        Refusal::new(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
    }

    /// The nonce was already used with this key.
    pub fn nonce_used() -> Refusal {
        Refusal::new(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
    }

    /// The V1 signature does not match; `ours` is the string that we signed.
    ///
    /// Clients split the text at its colon and compare: if the strings are equal, they report a wrong secret.
    pub(crate) fn signature_v1(ours: &str) -> Refusal {
        let message = format!(
            "Specified signature is not matched with our calculation. server string to sign is:{}",
            without_secrets(ours)
        );
        Refusal::new(400, "SignatureDoesNotMatch", message)
    }

    /// The V3 signature does not match.
    pub(crate) fn signature_v3(to_sign: &str, canonical: &str) -> Refusal {
        let message = format!(
            "Specified signature does not match our calculation. server StringToSign is [{to_sign}] \
             server CanonicalRequest is [{}]",
            without_secrets(canonical)
        );
        Refusal::new(400, "SignatureDoesNotMatch", message)
    }

    /// The signature cannot be compared, for the given `reason`, which follows the string we would have signed: clients
    /// need the text up to the colon unchanged.
    pub(crate) fn incomplete_signature(to_sign: &str, reason: &str) -> Refusal {
        let message = format!(
            "The request signature does not conform to Aliyun standards. server string to sign is:{} ({reason})",
            without_secrets(to_sign)
        );
        Refusal::new(400, "IncompleteSignature", message)
    }

    /// No such access key.
    pub fn key_not_found() -> Refusal {
        Refusal::new(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
    }

    /// The access key is disabled.
    pub fn key_inactive() -> Refusal {
        Refusal::new(400, "InvalidAccessKeyId.Inactive", "Specified access key is disabled.")
    }

    /// A token was sent with a key that has none.
    pub fn token_mismatch() -> Refusal {
        let message = "Specified SecurityToken mismatch with the AccessKey.";
        Refusal::new(400, "InvalidSecurityToken.MismatchWithAccessKey", message)
    }

    /// The token was not issued by us.
    pub fn token_malformed() -> Refusal {
        Refusal::new(400, "InvalidSecurityToken.Malformed", "Specified SecurityToken is malformed.")
    }

    /// The token has expired.
    pub fn token_expired() -> Refusal {
        Refusal::new(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
    }

    /// The bearer token was not issued by us.
    pub fn bearer_malformed() -> Refusal {
        Refusal::new(400, "InvalidBearerToken.Malformed", "Specified BearerToken is malformed.")
    }

    /// The bearer token has expired.
    pub fn bearer_expired() -> Refusal {
        Refusal::new(400, "InvalidBearerToken.Expired", "Specified BearerToken is expired.")
    }

    /// No product has this version.
    pub fn invalid_version() -> Refusal {
        Refusal::new(400, "InvalidVersion", "Specified parameter Version is not valid.")
    }

    /// No product has this action, or the path is not `/`.
    pub fn action_not_found() -> Refusal {
        let message = "Specified api is not found, please check your url and method.";
        Refusal::new(404, "InvalidAction.NotFound", message)
    }

    /// The HTTP method is neither GET nor POST.
    pub fn method() -> Refusal {
        Refusal::new(405, "UnsupportedHTTPMethod", "This http method is not supported.")
    }

    /// The request is larger than the limit of `bytes`.
    pub fn too_large(bytes: usize) -> Refusal {
        let message = format!("The request body is larger than the maximum of {bytes} bytes.");
        Refusal::new(413, "RequestEntityTooLarge", message)
    }

    /// Known, but not implemented.
    pub fn unsupported() -> Refusal {
        Refusal::new(400, "UnsupportedOperation", "The specified action is not supported.")
    }

    /// The caller's policy does not allow it.
    pub fn forbidden() -> Refusal {
        let message = "User not authorized to operate on the specified resource, or this API doesn't support RAM.";
        Refusal::new(403, "Forbidden.RAM", message)
    }

    /// The account sends too many requests.
    pub fn throttled_user() -> Refusal {
        Refusal::new(400, "Throttling.User", "Request was denied due to user flow control.")
    }

    /// The service receives too many requests.
    pub fn throttled() -> Refusal {
        Refusal::new(503, "Throttling", "Request was denied due to request throttling.")
    }

    /// Several domains are named where only one is allowed.
    pub fn one_domain() -> Refusal {
        let message = "The specified value of parameter DomainName only support one or empty value.";
        Refusal::new(400, "InvalidDomainName.ValueNotSupported", message)
    }

    /// The function excludes another one.
    pub fn function_name(function: &str) -> Refusal {
        let message = format!("FunctionName {} is not supported.", quoted(function));
        Refusal::new(400, "InvalidFunctionName.ValueNotSupported", message)
    }

    /// The function has no such argument.
    pub fn argument_name(argument: &str) -> Refusal {
        let message = format!("ArgName {} is not supported.", quoted(argument));
        Refusal::new(400, "InvalidArgName.ValueNotSupported", message)
    }

    /// The value of the argument is not allowed.
    pub fn argument_value() -> Refusal {
        Refusal::new(400, "InvalidArgValue.Malformed", "Specified ArgValue is malformed.")
    }

    /// The header cannot be changed by functions.
    pub fn header_key() -> Refusal {
        let message = "The specified value of parameter HeaderKey is not supported.";
        Refusal::new(400, "InvalidHeaderKey.ValueNotSupported", message)
    }

    /// An internal error; its cause is only in our log.
    pub fn internal() -> Refusal {
        let message = "The request processing has failed due to some unknown error, exception or failure.";
        Refusal::new(500, "InternalError", message)
    }

    /// A part of the service is temporarily unavailable.
    pub fn unavailable() -> Refusal {
        let message = "The request has failed due to a temporary failure of the server.";
        Refusal::new(503, "ServiceUnavailable", message)
    }

    /// `fault` in the wording of a generation.
    pub fn of(fault: Fault, wording: Wording) -> Refusal {
        let (status, code, message) = words(fault, wording);
        Refusal::new(status, code, message)
    }
}

/// What can be wrong with a task, a query for tasks, or a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The prefetch queue is full.
    PrefetchQueueFull,
    /// Today's prefetch quota is used up.
    PrefetchQuota,
    /// Today's refresh quota for this type is used up.
    RefreshQuota,
    /// Too many prefetches of one domain in this minute.
    PrefetchPerMinute,
    /// Too many refreshes of one domain in this minute.
    RefreshPerMinute,
    /// More than [`crate::profile::LINES_PER_CALL_MAX`] lines.
    OverLimit,
    /// More lines than the profile's limit for one call.
    TooManyLines,
    /// A line is not a URL of the requested type.
    ObjectPath,
    /// A line with a wildcard host.
    WildcardHost,
    /// An unknown type of a refresh.
    ObjectType,
    /// `WithHeader` is not an object of arrays.
    HeaderSyntax,
    /// `WithHeader` names a header that is not sent to origins.
    HeaderName,
    /// The refresh queue is full.
    RefreshQueueFull,
    /// No domain of the account has this name.
    DomainUnknown,
    /// The domain is switched off.
    DomainOffline,
    /// The domain cannot be operated on.
    DomainForbidden,
    /// The domain is being configured.
    DomainBusy,
    /// The last configuration of the domain failed.
    DomainBroken,
    /// The account never opened the service.
    NotOpened,
    /// The account's service is suspended.
    Suspended,
    /// The account is overdue: refreshes and prefetches are refused, queries work.
    Overdue,
    /// The service was never opened, in the wording of calls about the service.
    ServiceNotOpened,
    /// The service is open already.
    ServiceOpen,
    /// An unknown payment type.
    ChargeType,
    /// The service is overloaded.
    Overload,
    /// An invalid task id, or too many ids.
    TaskId,
    /// Only one end of a time range.
    TimeAlone,
    /// A filter that requires `ObjectType`.
    FilterNeedsType,
    /// `StartTime` is not a time.
    StartTime,
    /// `EndTime` is not a time.
    EndTime,
    /// The range ends before it begins.
    TimeOrder,
    /// The range begins in the future.
    StartTimeRange,
    /// The range begins before the stored history.
    TimeTooOld,
    /// An unknown type in a query.
    FilterType,
    /// An unknown status in a query.
    FilterStatus,
    /// `PageNumber` out of range.
    PageNumber,
    /// `PageSize` out of range.
    PageSize,
    /// Invalid sources, in a call that changes a CDN domain.
    ChangedSources,
    /// An invalid domain name, in a call that creates a domain, or changes one of VOD.
    NewDomainName,
    /// An invalid domain name, elsewhere.
    DomainName,
    /// An unknown business type, in a call that creates a domain.
    CdnType,
    /// An unknown business type, in a query.
    FilterCdnType,
    /// Invalid origins.
    Sources,
    /// An unknown type of origin.
    SourceType,
    /// More origins than a domain may have.
    SourcesExceeded,
    /// An origin that is neither an address nor a host name, or is the domain itself, in a call that changes a domain.
    SourceContent,
    /// An unknown type of origin, in such a call.
    ChangedSourceType,
    /// An address as origin where the type requires a name, or the other way round, in such a call.
    SourceMismatch,
    /// An invalid priority, in such a call.
    SourcePriority,
    /// An invalid port, in such a call.
    SourcePort,
    /// A top-level domain in place of origins.
    TopLevelDomain,
    /// An unknown resource group.
    ResourceGroup,
    /// A missing resource group id.
    ResourceGroupId,
    /// An unknown coverage.
    Scope,
    /// The domain exists already.
    DomainExists,
    /// A wildcard and a name that it covers belong to different accounts.
    DomainConflict,
    /// The account has reached its maximum number of domains.
    DomainOverLimit,
    /// Ownership of the name was not proven.
    NotProven,
    /// An unknown domain status in a query.
    FilterDomainStatus,
    /// An unknown way to match names.
    SearchType,
    /// `SSLProtocol` is neither on nor off.
    SslProtocol,
    /// TLS is switched on without a certificate.
    CertificateMissing,
    /// TLS is switched on without a key.
    KeyMissing,
    /// The certificate is invalid, or not valid for this domain and day.
    Certificate,
    /// The private key is invalid.
    Key,
    /// The key does not belong to the certificate.
    KeyMismatch,
    /// The certificate is too long.
    CertificateTooLong,
    /// The name of the certificate is too long.
    CertificateName,
    /// The named stored certificate does not exist.
    CertificateUnknown,
    /// `Functions` is not an array of functions, or they cannot be set together.
    Functions,
}

/// Code, status and text (prefetch-refresh §8 and the error lists of the actions).
fn words(fault: Fault, wording: Wording) -> (u16, &'static str, &'static str) {
    let current = wording == Wording::Current;
    let vod = wording == Wording::LegacyVod;
    let malformed_size = (400, "InvalidObjectPath.Size.Malformed", "The size of ObjectPath is bigger than 1000.");
    match fault {
        Fault::PrefetchQueueFull if current => {
            (400, "PreloadQueueFull", "Preload queue is full, please try again later.")
        }
        Fault::PrefetchQueueFull => (403, "PreloadQueueFull", "Preload queue is full, please try again later!"),
        Fault::PrefetchQuota if current => {
            (400, "QuotaExceeded.Preload", "Your preload attempts have exceeded the daily limit.")
        }
        Fault::PrefetchQuota | Fault::RefreshQuota => {
            (400, "QuotaExceeded.Refresh", "You've exceeded the prescribed refresh limits.")
        }
        Fault::PrefetchPerMinute if current => {
            (400, "QuotaPerMinuteExceeded.Refresh", "You have exceeded the prescribed preload limits per minute.")
        }
        Fault::RefreshPerMinute if current => {
            (400, "QuotaPerMinuteExceeded.Refresh", "You tried to refresh too frequently; please try again later.")
        }
        Fault::PrefetchPerMinute | Fault::RefreshPerMinute => {
            (400, "QuotaPerMinuteExceeded.Refresh", "You've exceeded the prescribed refresh limits per minute.")
        }
        Fault::OverLimit if current => {
            (400, "SingleRequest.OverLimit", "A maximum of 1000 URLs are supported for each request.")
        }
        Fault::TooManyLines if current => {
            (400, "InvalidObjectPath.ExceedsMaximum", "The maximum number of urls is exceeded.")
        }
        Fault::OverLimit | Fault::TooManyLines => malformed_size,
        Fault::ObjectPath if current => (400, "InvalidObjectPath.Malformed", "The specified ObjectPath is invalid."),
        Fault::ObjectPath => {
            (400, "InvalidObjectPath.Malformed", "The specific value of parameter ObjectPath is malformed.")
        }
        Fault::WildcardHost if current => {
            (400, "InvalidExtensiveDomain.ValueNotSupported", "The specified ExtensiveDomain is not supported.")
        }
        Fault::WildcardHost => (400, "InvalidExtensiveDomain.ValueNotSupported", "Extensive domain not supported."),
        Fault::ObjectType if current => (400, "InvalidObjectType.Malformed", "The specified ObjectType is invalid."),
        Fault::ObjectType => {
            (400, "InvalidObjectType.ValueNotSupported", "The specified value of \"<ObjectType>\" is not supported.")
        }
        Fault::HeaderSyntax => (400, "InvalidCustomHeader", "Parse preload header failed."),
        Fault::HeaderName => (400, "InvalidCustomHeader", "Unsupported Preload headers included."),
        Fault::RefreshQueueFull if current => {
            (400, "TooMany.Refresh", "The refresh queue is full; please try again later.")
        }
        Fault::RefreshQueueFull => (400, "TooMany.Refresh", "there is too many refresh task, please wait a moment."),
        Fault::DomainUnknown => (404, "InvalidDomain.NotFound", "The domain provided does not belong to you."),
        Fault::DomainOffline => (404, "InvalidDomain.Offline", "The domain provided is offline."),
        Fault::DomainForbidden => (403, "IllegalOperation", "Illegal domain operate is not permitted."),
        Fault::DomainBusy => (403, "ServiceBusy", "The specified Domain is configuring, please retry later."),
        Fault::DomainBroken => (500, "InvalidDomain.Configure_failed", "Failed to configure the provided domain."),
        Fault::NotOpened if vod => (403, "OperationDenied", "Your account does not open VOD service yet."),
        Fault::NotOpened => (403, "OperationDenied", "Your account does not open CDN service yet."),
        Fault::Suspended if vod => (403, "OperationDenied.Suspended", "Your VOD service is suspended."),
        Fault::Suspended => (403, "OperationDenied", "Your CDN service is suspended."),
        Fault::Overdue => (400, "InsufficientBalance", "Your account does not have enough balance."),
        // Without the full stop of all other pages.
        Fault::ServiceNotOpened => (403, "OperationDenied", "Your account does not open CDN service yet"),
        Fault::ServiceOpen if current => (400, "CdnService.HasOpened", "Your CDN service has opened."),
        Fault::ServiceOpen => (400, "CdnService.HasOpened", "Your cdn service has opened."),
        Fault::ChargeType if current => (
            400,
            "InvalidInternetChargeType.ValueNotSupported",
            "The specified value of parameter InternetChargeType is not valid.",
        ),
        Fault::ChargeType => (
            400,
            "InvalidInternetChargeType.ValueNotSupported",
            "The specified value of parameter \"InternetChargeType\" is not valid.",
        ),
        Fault::Overload if current => (429, "TooManyRequests", "System load fluctuates, please try again later."),
        Fault::Overload => (503, "Throttling", "Request was denied due to request throttling."),
        Fault::TaskId if current => (400, "InvalidTaskId.Malformed", "The specified TaskId is invalid."),
        Fault::TaskId => (400, "InvalidTaskId.Malformed", "Specified TaskId is malformed."),
        Fault::TimeAlone if current => {
            (400, "MissingTimeParameter", "The StartTime and EndTime must be both specified.")
        }
        Fault::TimeAlone => (400, "MissingParameter", "StartTime and EndTime can not be single."),
        Fault::FilterNeedsType if current => (
            400,
            "MissingParameter.ObjectType",
            "The ObjectType parameter is required if DomainName or ObjectType is specified.",
        ),
        Fault::FilterNeedsType => {
            (400, "MissingParameter.ObjectType", "If DomainName or Status is provided, ObjectType can not be empty.")
        }
        Fault::StartTime if current => (400, "InvalidStartTime.Malformed", "The specified StartTime is invalid."),
        Fault::StartTime => (400, "InvalidStartTime.Malformed", "Specified StartTime is malformed."),
        Fault::EndTime if current => (400, "InvalidEndTime.Malformed", "The specified EndTime is invalid."),
        Fault::EndTime => (400, "InvalidEndTime.Malformed", "Specified EndTime is malformed."),
        Fault::TimeOrder if current => {
            (400, "InvalidEndTime.Mismatch", "The specified EndTime is earlier than the StartTime.")
        }
        Fault::TimeOrder => {
            // The vendor's spelling.
            (400, "InvalidEndTime.Mismatch", "Specified end time does not math the specified start time.")
        }
        Fault::StartTimeRange if current => {
            (400, "InvalidStartTime.ValueNotSupported", "The specified StartTime is invalid.")
        }
        Fault::StartTimeRange => {
            (400, "InvalidStartTime.ValueNotSupported", "The specified value of parameter StartTime is not supported.")
        }
        Fault::TimeTooOld if current => (400, "InvalidTime", "The query time cannot exceed the last 3 days."),
        Fault::TimeTooOld => words(Fault::StartTimeRange, wording),
        Fault::FilterType => (400, "InvalidObjectType.ValueNotSupported", "The specified ObjectType is not supported."),
        Fault::FilterStatus if current => {
            (400, "InvalidStatus.ValueNotSupported", "The specified Status is not supported.")
        }
        Fault::FilterStatus => {
            (400, "InvalidStatus.ValueNotSupported", "The specified value of parameter Status is not supported.")
        }
        Fault::PageNumber => (
            400,
            "InvalidPageNumber.ValueNotSupported",
            "The specified value of parameter PageNumber is not supported.",
        ),
        Fault::PageSize => {
            (400, "InvalidPageSize.ValueNotSupported", "The specified value of parameter PageSize is not supported.")
        }
        Fault::NewDomainName => (400, "InvalidDomainName.Malformed", "Specified DomainName is malformed."),
        Fault::DomainName => {
            (400, "InvalidDomainName.Malformed", "The specific value of parameter DomainName is malformed.")
        }
        Fault::CdnType => (400, "InvalidCdnType.Malformed", "Specified CdnType is malformed."),
        Fault::FilterCdnType => {
            (400, "InvalidCdnType.ValueNotSupported", "The specified value of parameter CdnType is not supported.")
        }
        Fault::Sources => (400, "InvalidSources.Malformed", "Specified Sources is malformed."),
        Fault::ChangedSources => {
            (400, "InvalidSources.Malformed", "The specific value of parameter Sources is malformed.")
        }
        Fault::SourceType => (400, "InvalidSourceType.Malformed", "Specified SourceType is malformed."),
        // The vendor's wording.
        Fault::SourcesExceeded => (400, "SourceIp.Exceed", "The Certificate you provided is malformed!"),
        Fault::SourceContent => (400, "InvalidSource.Content.Malformed", "Specified source content is malformed."),
        Fault::ChangedSourceType => (400, "InvalidSource.Type.Malformed", "Specified source type is malformed."),
        Fault::SourceMismatch => {
            (400, "InvalidTypeContent.Mismatch", "Specified source type does not math the specified source content.")
        }
        Fault::SourcePriority => (400, "InvalidSource.Priority.Malformed", "Specified source priority is malformed."),
        Fault::SourcePort => (400, "InvalidSourcePort.Malformed", "Specified port is not supported."),
        Fault::TopLevelDomain => (400, "TopLevelDomain.NotFound", "TopLevelDomain is not exist."),
        Fault::ResourceGroup => (400, "EntityNotExists.ResourceGroup", "The resource group does not exist."),
        Fault::ResourceGroupId => (400, "InvalidResourceGroupId.Malformed", "Specified ResourceGroupId is malformed."),
        Fault::Scope => (400, "InvalidScope.Malformed", "Specified Scope is malformed."),
        Fault::DomainExists => (400, "DomainAlreadyExist", "This domain name is exist already"),
        Fault::DomainConflict => (
            400,
            "ExtensiveAndSpecificDomainConflict",
            "Extensive domain and corresponding specific domain are mutually exclusive.",
        ),
        Fault::DomainOverLimit => (403, "DomainOverLimit", "The Number of Domain is over the limit"),
        Fault::NotProven => (400, "DomainOwnerVerifyFail", "Owner verification of the root domain failed."),
        Fault::FilterDomainStatus => (
            400,
            "InvalidDomainStatus.ValueNotSupported",
            "The specified value of parameter DomainStatus is not supported.",
        ),
        Fault::Functions if current => {
            (400, "InvalidFunctions.Malformed", "The specified Functions is incorrectly formatted.")
        }
        Fault::Functions => (400, "InvalidFunctions.Malformed", "Specified Functions is malformed."),
        Fault::SearchType => (
            400,
            "InvalidDomainSearchType.ValueNotSupported",
            "The specified value of parameter DomainSearchType is not supported.",
        ),
        // The vendor's wording.
        Fault::SslProtocol => {
            (400, "InvalidSSLProtocol.ValueNotSupported", "The specified value of parameter Enable is not supported.")
        }
        Fault::CertificateMissing => (
            400,
            "SSLPub.MissingParameter",
            "An input parameter SSLPub that is mandatory for processing the request is not supplied.",
        ),
        Fault::KeyMissing => (
            400,
            "SSLPri.MissingParameter",
            "An input parameter SSLPri that is mandatory for processing the request is not supplied.",
        ),
        Fault::Certificate => (400, "InvalidCertificate", "The Certificate you provided is malformed!"),
        Fault::Key => (400, "InvalidSSLPri", "The SSLPri you provided is malformed!"),
        Fault::KeyMismatch => (400, "Certificate.MissMatch", "The SSLPri does not math the specified Certificate!"),
        Fault::CertificateTooLong => {
            (400, "InvalidCertificate.TooLong", "The Certificate you provided is over the max length!")
        }
        Fault::CertificateName => {
            (400, "InvalidCertName.TooLong", "The Certificate name you provided is over the max length 128!")
        }
        Fault::CertificateUnknown => (400, "Certificate.NotFind", "Not find the certificate info."),
    }
}

/// Parameters with secret values: what is quoted to a client ends up in its logs.
const SECRET_PARAMETERS: [&str; 3] = [KEY_PARAMETER, "SecurityToken", "BearerToken"];

/// Header fields with secret values.
const SECRET_HEADERS: [&str; 2] = ["x-acs-security-token:", "x-acs-bearer-token:"];

/// Removes secret values from a string to sign or a canonical request. A parameter's value is between `=` and `&`, or
/// in V1 between their escaped forms; a header field's value ends with its line.
fn without_secrets(to_sign: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(to_sign);
    for name in SECRET_PARAMETERS {
        for (before, after) in [(format!("{name}="), "&"), (format!("{name}%3D"), "%26")] {
            blot(&mut out, &before, after);
        }
    }
    for before in SECRET_HEADERS {
        blot(&mut out, before, "\n");
    }
    out
}

/// Removes the text between `before` and `after`, the end of the line, or the end of the text.
fn blot(text: &mut Cow<'_, str>, before: &str, after: &str) {
    let Some((front, rest)) = text.split_once(before) else { return };
    let line = rest.find('\n').unwrap_or(rest.len());
    let end = rest.find(after).unwrap_or(rest.len()).min(line);
    let blotted = format!("{front}{before}***{}", rest.get(end..).unwrap_or_default());
    *text = blotted.into();
}

/// Client input, shortened and without control characters, to be quoted in a message.
fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_repeated() {
        let cases = [
            (
                "GET&%2F&Action%3DX%26SSLPri%3DSECRET%252B%26SSLPub%3Dp",
                "GET&%2F&Action%3DX%26SSLPri%3D***%26SSLPub%3Dp",
            ),
            ("GET&%2F&Action%3DX%26SSLPri%3DSECRET", "GET&%2F&Action%3DX%26SSLPri%3D***"),
            ("POST\n/\nSSLPri=SECRET%2B&SSLPub=p\nhost:a", "POST\n/\nSSLPri=***&SSLPub=p\nhost:a"),
            ("POST\n/\nSSLPri=SECRET\nx:a&b", "POST\n/\nSSLPri=***\nx:a&b"),
            ("GET&%2F&Action%3DX", "GET&%2F&Action%3DX"),
            (
                "GET&%2F&SSLPri%3DSECRET%26SecurityToken%3DSECRET%26Z%3D1",
                "GET&%2F&SSLPri%3D***%26SecurityToken%3D***%26Z%3D1",
            ),
            ("GET&%2F&BearerToken%3DSECRET%26Z%3D1", "GET&%2F&BearerToken%3D***%26Z%3D1"),
            (
                "POST\n/\n\nhost:a\nx-acs-security-token:SECRET\nx-acs-version:1\n\nhost",
                "POST\n/\n\nhost:a\nx-acs-security-token:***\nx-acs-version:1\n\nhost",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(without_secrets(text), expected);
        }
        for refusal in [
            Refusal::signature_v1(cases[0].0),
            Refusal::signature_v3("hash", cases[2].0),
            Refusal::incomplete_signature(cases[1].0, "why"),
        ] {
            assert!(!refusal.message.contains("SECRET"), "{}", refusal.message);
        }
    }
}
