//! `audit`: who changed what and when, as lines of JSON.

use std::io::Write;

use anyhow::{Context, bail};
use clap::Args;
use control::state::audit::{Recorded, Wanted, Window};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::StateArgs;

/// Default number of records shown.
const LIMIT_USUAL: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only of this account; without, of all, with what is of none
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// From when on, such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Until when
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only this action or operator's verb, such as PushObjectCache or "key create"
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only what is about this domain
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Only what this user did
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = LIMIT_USUAL)]
    limit: usize,
    #[command(flatten)]
    state: StateArgs,
}

/// Writes a line for each record to `out`, the newest first.
pub(crate) async fn audit(args: &AuditArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let moment = |name: &str, text: &Option<String>, without: u64| match text {
        Some(text) => {
            millis(text).with_context(|| format!("`--{name} {text}`: expected a time, such as 2026-01-31T00:00:00Z"))
        }
        None => Ok(without),
    };
    let window = Window {
        account: args.account.clone(),
        from_ms: moment("from", &args.from, 0)?,
        to_ms: moment("to", &args.to, i64::MAX as u64)?,
        before: None,
    };
    if window.to_ms < window.from_ms {
        bail!("`--to` is before `--from`");
    }
    let wanted = Wanted {
        action: args.action.clone(),
        domain: args.domain.as_ref().map(|name| name.to_ascii_lowercase()),
        user: args.user.clone(),
    };
    let operator = args.state.open().await?;
    let found = operator.audit(window, &wanted, args.limit).await?;
    operator.close().await;
    for recorded in &found {
        writeln!(out, "{}", line(recorded))?;
    }
    Ok(())
}

fn line(Recorded { record, ended_ms, .. }: &Recorded) -> Value {
    json!({
        "time": wall(record.at_ms),
        "ended": (*ended_ms > 0).then(|| wall(*ended_ms)),
        "by": if record.key.is_empty() { "operator" } else { "key" },
        "account": record.account,
        "user": record.user,
        "access_key_id": record.key,
        "session": record.session,
        "product": record.product,
        "action": record.action,
        "domains": record.domains,
        "parameters": record.detail,
        "source": record.source,
        "outcome": record.outcome,
        "request_id": record.request,
    })
}

/// A time as shown to operators.
pub(super) fn wall(millis: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn millis(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use control::state::audit::Record;

    use super::*;

    #[test]
    fn line_says_who_what_when_and_how_it_ended() {
        let record = Record {
            at_ms: 1_767_283_199_000,
            account: "me".into(),
            action: "key create".into(),
            product: "operator".into(),
            detail: [("AccessKeyId".to_owned(), "WFx".to_owned())].into(),
            outcome: "OK".into(),
            ..Record::default()
        };
        let line = line(&Recorded { id: 1, record, ended_ms: 0 });
        assert_eq!((&line["time"], &line["by"]), (&"2026-01-01T15:59:59Z".into(), &"operator".into()));
        assert_eq!((&line["ended"], &line["parameters"]["AccessKeyId"]), (&Value::Null, &"WFx".into()));
        assert_eq!(millis("2026-01-01T15:59:59Z"), Some(1_767_283_199_000));
        assert_eq!(millis("yesterday"), None);
    }
}
