//! The only place that translates denials into the vendor's errors.

use aliyun::{Fault, Refusal, Wording};
use model::functions::{BadArgument, BadFunctions};

use crate::app::Denied;
use crate::certificate::BadCertificate;
use crate::state::accounts::AccountStatus;
use crate::state::submit::Refused;

/// Whether the cause is on our side and belongs in our log.
pub(super) fn is_ours(denied: &Denied) -> bool {
    matches!(denied, Denied::Unavailable(_) | Denied::Refused(Refused::Unavailable))
}

/// The refusal that a client gets. `prefetch` says whether a prefetch was denied, which changes the wording of quota
/// errors.
pub(super) fn refusal(denied: &Denied, wording: Wording, prefetch: bool) -> Refusal {
    let fault = match denied {
        Denied::Account(AccountStatus::NotOpened) => Fault::NotOpened,
        Denied::Account(AccountStatus::Suspended) => Fault::Suspended,
        Denied::Account(AccountStatus::Overdue) => Fault::Overdue,
        Denied::Account(AccountStatus::Active) => return Refusal::internal(),
        Denied::Forbidden => return Refusal::forbidden(),
        Denied::ServiceOpen => Fault::ServiceOpen,
        Denied::ServiceNotOpened => Fault::ServiceNotOpened,
        Denied::Policy(problem) => return Refusal::invalid("Policy", problem),
        Denied::NoDomain(_) => Fault::DomainUnknown,
        Denied::Offline => Fault::DomainOffline,
        Denied::Configuring => Fault::DomainBusy,
        Denied::Blocked => Fault::DomainForbidden,
        Denied::Labels(problem) => return Refusal::invalid("Tag", problem),
        Denied::Regex(bad) => return Refusal::of(Fault::ObjectPath, wording).because(&bad.to_string()),
        Denied::Certificate(bad) => return certificate(bad, wording),
        Denied::Functions(bad) => return functions(bad, wording),
        Denied::NoFunction { .. } => return Refusal::of(Fault::Functions, wording).because(&denied.to_string()),
        Denied::DomainExists { own: _ } => Fault::DomainExists,
        Denied::DomainConflict => Fault::DomainConflict,
        Denied::NotProven => Fault::NotProven,
        Denied::DomainsUsedUp => Fault::DomainOverLimit,
        Denied::Refused(refused) => match (refused, prefetch) {
            (Refused::NonceUsed, _) => return Refusal::nonce_used(),
            (Refused::DayUsedUp, true) => Fault::PrefetchQuota,
            (Refused::DayUsedUp, false) => Fault::RefreshQuota,
            (Refused::MinuteUsedUp, true) => Fault::PrefetchPerMinute,
            (Refused::MinuteUsedUp, false) => Fault::RefreshPerMinute,
            (Refused::QueueFull, _) => Fault::PrefetchQueueFull,
            (Refused::RefreshesFull, _) => Fault::RefreshQueueFull,
            (Refused::Busy, _) => Fault::Overload,
            (Refused::Unavailable, _) => return Refusal::unavailable(),
        },
        Denied::NoTask => return Refusal::new(404, "InvalidTaskId.NotFound", "The specified task does not exist."),
        Denied::NoPrefetch(task) => {
            let unknown = Refusal::new(404, "InvalidTaskId.NotFound", "The specified task does not exist.");
            return unknown.because(&format!("no prefetch {task}"));
        }
        Denied::TaskEnded(task) => {
            return Refusal::new(400, "TaskEnded", "The specified task has ended.").because(&task.to_string());
        }
        Denied::NotComplete => {
            let message = "The specified task is not complete; there is a receipt once it is.";
            return Refusal::new(400, "TaskNotComplete", message);
        }
        Denied::NoReceipt(reason) => return Refusal::new(404, "ReceiptNotFound", *reason),
        Denied::Unavailable(_) => return Refusal::unavailable(),
    };
    Refusal::of(fault, wording)
}

/// The refusal of a certificate, with our reason after the vendor's message.
fn certificate(bad: &BadCertificate, wording: Wording) -> Refusal {
    let fault = match bad {
        BadCertificate::Chain
        | BadCertificate::NotCertificates
        | BadCertificate::OtherNames(_)
        | BadCertificate::NotNow => Fault::Certificate,
        BadCertificate::TooLong => Fault::CertificateTooLong,
        BadCertificate::Key => Fault::Key,
        BadCertificate::Mismatch => Fault::KeyMismatch,
    };
    Refusal::of(fault, wording).because(&bad.to_string())
}

/// The refusal of functions that a domain cannot have, with the code for what is wrong with them.
fn functions(bad: &BadFunctions, wording: Wording) -> Refusal {
    let refusal = match bad {
        BadFunctions::Argument { problem: BadArgument::Unknown(name), .. } => Refusal::argument_name(name),
        BadFunctions::Argument { problem: BadArgument::Value { name: "key" | "header_name", .. }, .. } => {
            Refusal::header_key()
        }
        BadFunctions::Argument { problem: BadArgument::Value { .. }, .. } => Refusal::argument_value(),
        BadFunctions::Exclusive(_, other) => Refusal::function_name(other),
        BadFunctions::Conditional(_) | BadFunctions::Name | BadFunctions::TooMany => {
            Refusal::of(Fault::Functions, wording)
        }
    };
    refusal.because(&bad.to_string())
}
