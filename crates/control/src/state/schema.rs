//! The tables, by version. A released version is never edited: a change is a new list of statements.

use sqlx::{AssertSqlSafe, Executor, Row};

use super::{Sql, StateError};

/// Statements that lead from version N to N+1.
const VERSIONS: &[&[&str]] = &[
    &[
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE counter (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter (name, value) VALUES ('revision', 0), ('compacted', 0), ('task', 0), ('chunk', 0)",
        "CREATE TABLE log (revision BIGINT PRIMARY KEY, kind TEXT NOT NULL, entry TEXT NOT NULL)",
        "CREATE INDEX log_kind ON log (kind, revision)",
        "CREATE TABLE account (name TEXT PRIMARY KEY, profile TEXT NOT NULL, quota TEXT NOT NULL, qps BIGINT NOT NULL, \
     status TEXT NOT NULL, created_ms BIGINT NOT NULL)",
        "CREATE TABLE access_key (id TEXT PRIMARY KEY, account TEXT NOT NULL, sealed TEXT NOT NULL, policy TEXT NOT NULL, \
     active BIGINT NOT NULL, created_ms BIGINT NOT NULL)",
        "CREATE TABLE domain (name TEXT PRIMARY KEY, account TEXT NOT NULL, detail TEXT NOT NULL, created_ms BIGINT NOT NULL, \
     modified_ms BIGINT NOT NULL, revision BIGINT NOT NULL, configured BIGINT NOT NULL)",
        "CREATE TABLE node (name TEXT PRIMARY KEY, credential TEXT NOT NULL, acked BIGINT NOT NULL, program TEXT NOT NULL, \
     joined_ms BIGINT NOT NULL)",
        "CREATE TABLE join_token (id TEXT PRIMARY KEY, secret TEXT NOT NULL, expires_ms BIGINT NOT NULL)",
        "CREATE TABLE chunk (id BIGINT PRIMARY KEY, task BIGINT NOT NULL, account TEXT NOT NULL, domain TEXT NOT NULL, \
     kind TEXT NOT NULL, created_ms BIGINT NOT NULL, revision BIGINT NOT NULL, paths TEXT NOT NULL, lines BIGINT NOT NULL, \
     params TEXT NOT NULL, finished_ms BIGINT NOT NULL, progress TEXT NOT NULL)",
        "CREATE INDEX chunk_task ON chunk (task)",
        "CREATE INDEX chunk_account ON chunk (account, created_ms)",
        "CREATE INDEX chunk_open ON chunk (account, id) WHERE finished_ms = 0",
        "CREATE INDEX chunk_revision ON chunk (revision) WHERE finished_ms = 0",
        "CREATE INDEX chunk_finished ON chunk (finished_ms) WHERE finished_ms > 0",
        "CREATE TABLE quota_use (account TEXT NOT NULL, day BIGINT NOT NULL, bucket TEXT NOT NULL, used BIGINT NOT NULL, \
     PRIMARY KEY (account, day, bucket))",
        "CREATE TABLE nonce (access_key TEXT NOT NULL, nonce TEXT NOT NULL, seen_ms BIGINT NOT NULL, PRIMARY KEY (access_key, nonce))",
        "CREATE INDEX nonce_seen ON nonce (seen_ms)",
    ],
    // To count the open refreshes of a domain before more are accepted.
    &["CREATE INDEX chunk_refreshing ON chunk (domain) WHERE finished_ms = 0 AND kind <> 'prefetch'"],
    // Receipts of refreshes: what completed them, and when acknowledgements arrived.
    &[
        "ALTER TABLE node ADD COLUMN acked_ms BIGINT NOT NULL DEFAULT 0",
        "CREATE TABLE roster (id BIGINT PRIMARY KEY, members TEXT NOT NULL, used_ms BIGINT NOT NULL)",
        "CREATE TABLE completion (last BIGINT PRIMARY KEY, first BIGINT NOT NULL, completed_ms BIGINT NOT NULL, \
     known_ms BIGINT NOT NULL, lease_ms BIGINT NOT NULL, margin_ms BIGINT NOT NULL, roster BIGINT NOT NULL, \
     bytes BIGINT NOT NULL, acked TEXT NOT NULL, swept TEXT NOT NULL)",
        "CREATE INDEX completion_completed ON completion (completed_ms)",
    ],
    // Queue limits counted in calls: which chunks came with which call. Zero: accepted by a version that did not record
    // it.
    &["ALTER TABLE chunk ADD COLUMN call_id BIGINT NOT NULL DEFAULT 0"],
    // Long histories: listed from one index, and counted without reading them.
    &[
        "CREATE TABLE tally (account TEXT NOT NULL, minute_ms BIGINT NOT NULL, domain TEXT NOT NULL, kind TEXT NOT NULL, \
     lines BIGINT NOT NULL, PRIMARY KEY (account, minute_ms, domain, kind))",
        "INSERT INTO tally (account, minute_ms, domain, kind, lines) SELECT account, created_ms / 60000 * 60000, domain, kind, \
     CAST(SUM(lines) AS BIGINT) FROM chunk GROUP BY 1, 2, 3, 4",
        "CREATE INDEX chunk_history ON chunk (account, created_ms, id, kind, lines)",
        "DROP INDEX chunk_account",
    ],
    // Domains that keep their names until their bytes are gone, names that the operator blocks, and labels of domains.
    &[
        "ALTER TABLE domain ADD COLUMN doing TEXT NOT NULL DEFAULT 'configuring'",
        "ALTER TABLE node ADD COLUMN swept BIGINT NOT NULL DEFAULT 0",
        "CREATE TABLE blocked_name (name TEXT PRIMARY KEY, reason TEXT NOT NULL, since_ms BIGINT NOT NULL)",
        "CREATE TABLE label (domain TEXT NOT NULL, name TEXT NOT NULL, account TEXT NOT NULL, value TEXT NOT NULL, \
     PRIMARY KEY (domain, name))",
        "CREATE INDEX label_account ON label (account, domain, name)",
        "CREATE INDEX label_value ON label (account, name, value)",
    ],
    // Figures: what nodes counted, in buckets of several lengths; and the revision since which a name is the present
    // domain. Zero: always.
    &[
        "ALTER TABLE domain ADD COLUMN born BIGINT NOT NULL DEFAULT 0",
        "CREATE TABLE figure (account TEXT NOT NULL, domain TEXT NOT NULL, grain BIGINT NOT NULL, bucket BIGINT NOT NULL, \
     value TEXT NOT NULL, PRIMARY KEY (account, domain, grain, bucket))",
        "CREATE INDEX figure_age ON figure (grain, bucket)",
        "CREATE TABLE figure_urls (account TEXT NOT NULL, domain TEXT NOT NULL, origins BIGINT NOT NULL, hour BIGINT NOT NULL, \
     value TEXT NOT NULL, PRIMARY KEY (account, domain, origins, hour))",
        "CREATE INDEX figure_urls_age ON figure_urls (hour)",
        "CREATE TABLE figure_report (node TEXT NOT NULL, boot BIGINT NOT NULL, sequence BIGINT NOT NULL, taken_ms BIGINT NOT NULL, \
     PRIMARY KEY (node, boot))",
    ],
    // Users of an account and their policies; when an account opened the service; the audit log.
    &[
        "CREATE TABLE sub_user (account TEXT NOT NULL, name TEXT NOT NULL, created_ms BIGINT NOT NULL, PRIMARY KEY (account, name))",
        "CREATE TABLE policy (account TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, changed_ms BIGINT NOT NULL, \
     PRIMARY KEY (account, name))",
        "CREATE TABLE attached (account TEXT NOT NULL, user_name TEXT NOT NULL, policy TEXT NOT NULL, \
     PRIMARY KEY (account, user_name, policy))",
        "ALTER TABLE access_key ADD COLUMN user_name TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX access_key_account ON access_key (account)",
        "ALTER TABLE account ADD COLUMN opened_ms BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE account ADD COLUMN charge TEXT NOT NULL DEFAULT ''",
        "INSERT INTO counter (name, value) VALUES ('audit', 0)",
        "CREATE TABLE audit (id BIGINT PRIMARY KEY, at_ms BIGINT NOT NULL, request TEXT NOT NULL, account TEXT NOT NULL, \
     user_name TEXT NOT NULL, access_key TEXT NOT NULL, session TEXT NOT NULL, product TEXT NOT NULL, action TEXT NOT NULL, \
     domains TEXT NOT NULL, detail TEXT NOT NULL, source TEXT NOT NULL, outcome TEXT NOT NULL, ended_ms BIGINT NOT NULL)",
        "CREATE INDEX audit_account ON audit (account, at_ms, id)",
        "CREATE INDEX audit_at ON audit (at_ms, id)",
    ],
    // Names that accounts proved to be theirs.
    &["CREATE TABLE proven_name (account TEXT NOT NULL, name TEXT NOT NULL, since_ms BIGINT NOT NULL, \
     PRIMARY KEY (account, name))"],
    // Shares of origins, one value each.
    &["CREATE TABLE share (name TEXT PRIMARY KEY, value TEXT NOT NULL, touched_ms BIGINT NOT NULL)"],
    // Steering of prefetches: priority, start time, and when it was paused or cancelled.
    &[
        "ALTER TABLE chunk ADD COLUMN priority BIGINT NOT NULL DEFAULT 5",
        "ALTER TABLE chunk ADD COLUMN from_ms BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE chunk ADD COLUMN paused_ms BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE chunk ADD COLUMN cancelled_ms BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE chunk ADD COLUMN steered BIGINT NOT NULL DEFAULT 0",
        "UPDATE chunk SET from_ms = created_ms WHERE finished_ms = 0",
        "CREATE INDEX chunk_steered ON chunk (steered, id) WHERE steered > 0",
    ],
    // To find open refreshes without scanning open prefetches, of which there may be many more.
    &[
        "CREATE INDEX chunk_open_refresh ON chunk (revision) WHERE finished_ms = 0 AND kind <> 'prefetch'",
        "DROP INDEX chunk_revision",
    ],
    // Tasks are deleted whole: this finds, without reading all its chunks, whether one is open or ended recently.
    &["CREATE INDEX chunk_task_finished ON chunk (task, finished_ms)", "DROP INDEX chunk_task"],
    // What a chunk was charged to: each product has a queue of its own. Empty: accepted by a version that did not record
    // it.
    &["ALTER TABLE chunk ADD COLUMN bucket TEXT NOT NULL DEFAULT ''"],
];

/// Brings the schema to the newest version, in one transaction. Two processes that start at once take turns.
pub(super) async fn migrate(sql: &Sql) -> Result<(), StateError> {
    let known = VERSIONS.len() as i64;
    let mut tx = sql.begin().await?;
    let connection = &mut *tx;
    connection
        .execute("CREATE TABLE IF NOT EXISTS schema_version (one BIGINT PRIMARY KEY, version BIGINT NOT NULL)")
        .await?;
    connection.execute("INSERT INTO schema_version (one, version) VALUES (1, 0) ON CONFLICT (one) DO NOTHING").await?;
    // An update, not a read: it takes the row's lock, so that only one process migrates at a time.
    let row =
        connection.fetch_one("UPDATE schema_version SET version = version WHERE one = 1 RETURNING version").await?;
    let found: i64 = row.try_get("version")?;
    if !(0..=known).contains(&found) {
        return Err(StateError::Newer { found, known });
    }
    for statements in VERSIONS.iter().skip(found as usize) {
        for statement in *statements {
            connection.execute(AssertSqlSafe(*statement)).await?;
        }
    }
    sqlx::query("UPDATE schema_version SET version = $1 WHERE one = 1").bind(known).execute(&mut *connection).await?;
    tx.commit().await?;
    Ok(())
}
