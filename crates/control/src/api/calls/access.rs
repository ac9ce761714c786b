//! Calls about the audit log and the service itself: from calls to verbs, and from results to replies.

use aliyun::{AuditEvent, AuditQuery, OpenedService, Reply, ServiceStatus};

use super::time;
use crate::app::{App, Denied, Permission, Principal};
use crate::state::accounts::AccountStatus;
use crate::state::audit::{Recorded, Wanted, Window};
use crate::state::millis;

pub(super) async fn audit_log(
    app: &App,
    principal: &Principal,
    permission: Permission<'_>,
    query: AuditQuery,
) -> Result<Reply, Denied> {
    let window = Window {
        account: None,
        from_ms: query.from.map_or(0, millis),
        to_ms: query.to.map_or(u64::MAX >> 1, millis),
        before: query.before,
    };
    let wanted = Wanted { action: query.action, domain: query.domain, user: query.user };
    let (found, next) = app.audit_log(principal, permission, window, &wanted, query.size as usize).await?;
    Ok(Reply::AuditLog { events: found.into_iter().map(event).collect(), next })
}

fn event(Recorded { record, ended_ms, .. }: Recorded) -> AuditEvent {
    AuditEvent {
        at: time(record.at_ms),
        ended_at: (ended_ms > 0).then(|| time(ended_ms)),
        request_id: record.request,
        user: record.user,
        key: record.key,
        session: record.session,
        product: record.product,
        action: record.action,
        domains: record.domains,
        detail: record.detail,
        source: record.source,
        outcome: record.outcome,
    }
}

pub(super) async fn service(app: &App, principal: &Principal, permission: Permission<'_>) -> Result<Reply, Denied> {
    let opening = app.service(principal, permission).await?;
    Ok(Reply::Service(OpenedService {
        instance: principal.account().to_owned(),
        charge: opening.charge,
        opened_at: time(opening.at_ms),
        locked: match principal.key.account.status {
            AccountStatus::Overdue => Some("financial"),
            AccountStatus::Suspended => Some("security"),
            AccountStatus::Active | AccountStatus::NotOpened => None,
        },
    }))
}

pub(super) fn standing(app: &App, principal: &Principal, permission: Permission<'_>) -> Result<Reply, Denied> {
    let status = app.standing(principal, permission)?;
    let overdue = status == AccountStatus::Overdue;
    Ok(Reply::ServiceStatus(ServiceStatus {
        enabled: status != AccountStatus::NotOpened,
        in_debt: overdue,
        // Changes are refused at once, so there is no grace period.
        in_debt_overdue: overdue,
        // The users of its domains are still served.
        on_service: matches!(status, AccountStatus::Active | AccountStatus::Overdue),
    }))
}
