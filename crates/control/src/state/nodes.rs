//! Nodes: invitations, membership, acknowledgements.

use std::collections::BTreeMap;

use model::{Entry, Knowledge, Member, NodeName, Revision};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe};

use super::log::append;
use super::{Counter, On, State, StateError, Writing, count_up, revision, signed, text, unsigned};
use crate::seal::{fingerprint, matches_fingerprint, random_text};

/// Characters of a node's own credential.
const CREDENTIAL_CHARS: usize = 40;

/// The credential of one member.
const CREDENTIAL: &str = "SELECT credential FROM node WHERE name = $1";

/// One invitation.
const INVITATION: &str = "SELECT secret, expires_ms FROM join_token WHERE id = $1";

/// Names in one statement of acknowledgements.
const NAMES_BATCH_MAX: usize = 100;

/// Open prefetches handled in one transaction when a node that holds nothing is admitted.
const BEGUN_ANEW_BATCH_MAX: u32 = 500;

/// How a connecting node proves that it may join.
pub enum Proof<'a> {
    /// A member's own credential.
    Credential {
        /// The secret.
        secret: &'a str,
        /// Whether its store belongs to this log; it does not send what it holds of another log.
        of_this_log: bool,
    },
    /// An operator's invitation.
    Token {
        /// Which one.
        id: &'a str,
        /// Its secret.
        secret: &'a str,
    },
}

impl Proof<'_> {
    /// Whether the node that shows this proof holds nothing of this log.
    fn holds_nothing(&self) -> bool {
        !matches!(self, Proof::Credential { of_this_log: true, .. })
    }
}

/// The result of an admission. The membership is committed.
pub struct Admitted {
    /// A new credential, when it came with an invitation.
    pub credential: Option<String>,
}

/// Why a node was not admitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// Unknown or expired invitation, wrong secret, or a node that was removed.
    #[error("node is not invited, or was removed")]
    NotInvited,
    /// The POP it names does not exist.
    #[error("POP `{0}` does not exist: set it with `warmfront pop set`")]
    NoPop(String),
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A member as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its name.
    pub name: NodeName,
    /// The highest revision it acknowledged.
    pub acked: Revision,
    /// When that was recorded, in milliseconds since 1970; zero if it was not.
    pub acked_ms: u64,
    /// The recorded revision up to which it has swept its store of what entries delete.
    pub swept: Revision,
    /// Version of its program, as it reported.
    pub program: String,
}

impl State {
    /// Creates an invitation; only a fingerprint of the secret is stored.
    pub async fn create_join_token(&self, id: &str, secret: &str, expires_ms: u64) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        let secret = fingerprint(secret);
        match writing.on() {
            On::Sql(connection) => {
                sqlx::query("INSERT INTO join_token (id, secret, expires_ms) VALUES ($1, $2, $3)")
                    .bind(id)
                    .bind(secret)
                    .bind(signed(expires_ms))
                    .execute(connection)
                    .await?;
            }
            On::Memory(tables) => tables.add_invitation(id, secret, expires_ms)?,
        }
        writing.commit().await
    }

    /// Whether a node with this proof is about to be admitted and holds nothing of what was stored under its name
    /// before.
    pub async fn admits_empty(
        &self,
        proof: &Proof<'_>,
        member: &Member,
        known: &Knowledge,
        now_ms: u64,
    ) -> Result<bool, StateError> {
        let has_place = known.topology.pops.contains_key(&member.pop);
        Ok(has_place && proof.holds_nothing() && self.is_good(proof, member, now_ms).await?)
    }

    /// Admits a node with a good proof, and commits its membership as it describes itself. `known` is what was known
    /// before; an unchanged membership is not logged again.
    pub async fn admit(
        &self,
        proof: Proof<'_>,
        member: &Member,
        known: &Knowledge,
        program: &str,
        now_ms: u64,
    ) -> Result<Admitted, AdmitError> {
        if !known.topology.pops.contains_key(&member.pop) {
            return Err(AdmitError::NoPop(member.pop.to_string()));
        }
        // A plain read first, so that a refused node never takes the writer's turn. The transaction checks again.
        if !self.is_good(&proof, member, now_ms).await? {
            return Err(AdmitError::NotInvited);
        }
        if !proof.holds_nothing() && known.topology.members.get(&member.name) == Some(member) {
            // A returning member that is unchanged writes nothing, so it does not take the writer's turn either:
            // thousands may come back at once. Its credential is valid only while its membership is, since both are
            // removed together.
            return Ok(Admitted { credential: None });
        }
        if proof.holds_nothing() {
            // Open prefetches with objects resident on it start anew; nodes that still hold objects report them. Done
            // before it is a member, so that the record of a returning member says what it holds.
            self.begin_anew(&member.name).await?;
        }
        let mut writing = self.write().await?;
        // The log's lock comes before any read that the decision rests on.
        count_up(&mut writing, Counter::Revision, 0).await?;
        let begins_anew = proof.holds_nothing();
        let credential = match proof {
            Proof::Credential { secret, .. } => {
                if !is_own(kept_credential(&mut writing, &member.name).await?, secret) {
                    return Err(AdmitError::NotInvited);
                }
                None
            }
            Proof::Token { id, secret } => {
                if !is_invited(kept_invitation(&mut writing, id).await?, secret, now_ms) {
                    return Err(AdmitError::NotInvited);
                }
                let credential = random_text(CREDENTIAL_CHARS);
                keep_credential(&mut writing, &member.name, &credential, program, now_ms).await?;
                Some(credential)
            }
        };
        // The membership is logged in two cases even if it is unchanged: an invited node may have been removed since
        // `known` was read, and other control planes must learn of a node that holds nothing.
        if begins_anew || known.topology.members.get(&member.name) != Some(member) {
            append(&mut writing, &[Entry::Member(member.clone())]).await?;
        }
        writing.commit().await?;
        Ok(Admitted { credential })
    }

    /// Removes a node's membership; returns whether it had one.
    pub async fn remove_node(&self, name: &NodeName) -> Result<bool, StateError> {
        let mut writing = self.write().await?;
        append(&mut writing, &[Entry::MemberRemoved(name.clone())]).await?;
        let was_there = match writing.on() {
            On::Sql(connection) => {
                let done =
                    sqlx::query("DELETE FROM node WHERE name = $1").bind(name.as_str()).execute(connection).await?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => tables.remove_node(name),
        };
        if !was_there {
            return Ok(false);
        }
        writing.commit().await?;
        Ok(true)
    }

    /// Every member.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT name, acked, acked_ms, swept, program FROM node ORDER BY name")
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(node_row).collect()
            }
            On::Memory(tables) => Ok(tables.nodes()),
        }
    }

    /// Records acknowledged revisions, which never fall.
    pub async fn acknowledge(&self, acked: &[(NodeName, Revision)], now_ms: u64) -> Result<(), StateError> {
        // Most nodes acknowledge the same revision: one statement serves many of them, since all writers share one
        // turn.
        let mut names: BTreeMap<Revision, Vec<&NodeName>> = BTreeMap::new();
        for (name, at) in acked {
            names.entry(*at).or_default().push(name);
        }
        let mut writing = self.write().await?;
        for (at, names) in &names {
            match writing.on() {
                On::Sql(connection) => {
                    for names in names.chunks(NAMES_BATCH_MAX) {
                        acknowledge(connection, names, *at, now_ms).await?;
                    }
                }
                On::Memory(tables) => names.iter().for_each(|name| tables.acknowledge(name, *at, now_ms)),
            }
        }
        writing.commit().await
    }

    /// Records up to which revision nodes have swept their stores. This may fall for a node that starts anew.
    pub async fn keep_swept_upto(&self, swept: &[(NodeName, Revision)]) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        for (name, upto) in swept {
            match writing.on() {
                On::Sql(connection) => {
                    sqlx::query("UPDATE node SET swept = $1 WHERE name = $2")
                        .bind(signed(upto.0))
                        .bind(name.as_str())
                        .execute(connection)
                        .await?;
                }
                On::Memory(tables) => tables.keep_swept_upto(name, *upto),
            }
        }
        writing.commit().await
    }

    /// Whether a proof is valid as far as a plain read can tell.
    async fn is_good(&self, proof: &Proof<'_>, member: &Member, now_ms: u64) -> Result<bool, StateError> {
        Ok(match proof {
            Proof::Credential { secret, .. } => is_own(self.credential(&member.name).await?, secret),
            Proof::Token { id, secret } => is_invited(self.invitation(id).await?, secret, now_ms),
        })
    }

    /// Clears the progress of open prefetches that name a node. In many small transactions: there may be a million of
    /// them, and no submission should wait long.
    async fn begin_anew(&self, name: &NodeName) -> Result<(), StateError> {
        for (account, ..) in self.open_accounts().await? {
            let mut after = 0;
            loop {
                let open = self.open_prefetches(&account, after, BEGUN_ANEW_BATCH_MAX).await?;
                let Some(last) = open.last() else { break };
                let ids: Vec<u64> = open.iter().map(|chunk| chunk.id).collect();
                let mut writing = self.write().await?;
                begin_anew(&mut writing, &ids, name).await?;
                writing.commit().await?;
                after = last.id;
            }
        }
        Ok(())
    }

    /// The fingerprint of a member's credential, read without the writer's turn.
    async fn credential(&self, name: &NodeName) -> Result<Option<String>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query(CREDENTIAL).bind(name.as_str()).fetch_optional(pool).await?;
                row.map(|row| text(&row, "credential")).transpose()
            }
            On::Memory(tables) => Ok(tables.credential(name)),
        }
    }

    /// The fingerprint of an invitation's secret and its expiry, read without the writer's turn.
    async fn invitation(&self, id: &str) -> Result<Option<(String, u64)>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query(INVITATION).bind(id).fetch_optional(pool).await?;
                row.map(|row| Ok((text(&row, "secret")?, unsigned(&row, "expires_ms")?))).transpose()
            }
            On::Memory(tables) => Ok(tables.invitation(id)),
        }
    }
}

/// Uses only two different statements, so that both stay prepared: missing names are filled up with the first one.
async fn acknowledge(
    connection: &mut AnyConnection,
    names: &[&NodeName],
    at: Revision,
    now_ms: u64,
) -> Result<(), StateError> {
    let count = if names.len() == 1 { 1 } else { NAMES_BATCH_MAX };
    let places: Vec<String> = (3..count + 3).map(|at| format!("${at}")).collect();
    let statement =
        format!("UPDATE node SET acked = $1, acked_ms = $2 WHERE acked < $1 AND name IN ({})", places.join(", "));
    let mut query = sqlx::query(AssertSqlSafe(statement)).bind(signed(at.0)).bind(signed(now_ms));
    for name in names.iter().chain(names.iter().take(1).cycle()).take(count) {
        query = query.bind(name.as_str());
    }
    query.execute(connection).await?;
    Ok(())
}

fn node_row(row: &AnyRow) -> Result<NodeRow, StateError> {
    let name = text(row, "name")?;
    let name = NodeName::parse(&name).map_err(|_| StateError::Corrupt { what: format!("node {name}") })?;
    let (acked, acked_ms) = (revision(row, "acked")?, unsigned(row, "acked_ms")?);
    Ok(NodeRow { name, acked, acked_ms, swept: revision(row, "swept")?, program: text(row, "program")? })
}

/// The fingerprint of a member's credential.
async fn kept_credential(writing: &mut Writing, name: &NodeName) -> Result<Option<String>, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(CREDENTIAL).bind(name.as_str()).fetch_optional(connection).await?;
            row.map(|row| text(&row, "credential")).transpose()
        }
        On::Memory(tables) => Ok(tables.credential(name)),
    }
}

/// The fingerprint of an invitation's secret, and its expiry.
async fn kept_invitation(writing: &mut Writing, id: &str) -> Result<Option<(String, u64)>, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(INVITATION).bind(id).fetch_optional(connection).await?;
            row.map(|row| Ok((text(&row, "secret")?, unsigned(&row, "expires_ms")?))).transpose()
        }
        On::Memory(tables) => Ok(tables.invitation(id)),
    }
}

/// Clears the progress of those of these chunks that are open and name a node.
async fn begin_anew(writing: &mut Writing, ids: &[u64], name: &NodeName) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            let sql = format!(
                "UPDATE chunk SET progress = '' WHERE id IN ({}) AND finished_ms = 0 AND progress LIKE $1",
                ids.join(",")
            );
            sqlx::query(AssertSqlSafe(sql)).bind(format!("%\"{name}\"%")).execute(connection).await?;
        }
        On::Memory(tables) => tables.begin_anew(ids, name),
    }
    Ok(())
}

/// Whether the shown secret is a member's credential.
fn is_own(kept: Option<String>, secret: &str) -> bool {
    kept.is_some_and(|kept| matches_fingerprint(secret, &kept))
}

/// Whether an invitation is valid and has the shown secret.
fn is_invited(kept: Option<(String, u64)>, secret: &str, now_ms: u64) -> bool {
    kept.is_some_and(|(kept, expires_ms)| matches_fingerprint(secret, &kept) && expires_ms > now_ms)
}

/// Sets a node's credential; what an existing node has acknowledged stays.
async fn keep_credential(
    writing: &mut Writing,
    name: &NodeName,
    credential: &str,
    program: &str,
    now_ms: u64,
) -> Result<(), StateError> {
    let credential = fingerprint(credential);
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query(
                "INSERT INTO node (name, credential, acked, acked_ms, program, joined_ms) VALUES ($1, $2, 0, 0, $3, $4) \
                 ON CONFLICT (name) DO UPDATE SET credential = excluded.credential, program = excluded.program",
            )
            .bind(name.as_str())
            .bind(credential)
            .bind(program)
            .bind(signed(now_ms))
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => tables.set_credential(name, credential, program),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::testing::{member, soon, state};

    #[tokio::test]
    async fn who_is_not_let_in_waits_for_nobody_who_writes() {
        let dir = TempDir::new().unwrap();
        let state = state(&dir, &["p-1"]).await;
        let (_, known) = state.knowledge().await.unwrap();
        state.create_join_token("t", "secret", 100).await.unwrap();
        let token = |secret| Proof::Token { id: "t", secret };
        let writing = state.write().await.unwrap();
        let strangers = [
            (token("wrong"), 50),
            (token("secret"), 100),
            (Proof::Token { id: "none", secret: "secret" }, 50),
            (Proof::Credential { secret: "wrong", of_this_log: false }, 50),
        ];
        for (proof, now_ms) in strangers {
            let refused = soon("a refusal", state.admit(proof, &member("p-1"), &known, "1", now_ms)).await;
            assert!(matches!(refused, Err(AdmitError::NotInvited)));
        }
        drop(writing);
        assert!(state.admit(token("secret"), &member("p-1"), &known, "1", 50).await.unwrap().credential.is_some());
    }
}
