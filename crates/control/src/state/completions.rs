//! Completions: which revisions were found passed together, and on what evidence. Receipts are made from them.
//!
//! There is one row per step, not per refresh and node: a row covers a range of revisions, with a few digits for each
//! member. The members' names are stored separately, once for as long as they stay the same. What members swept for the
//! range is added to the row as they report it.
//!
//! # What always holds
//!
//! - A step is written in the transaction that marks its refreshes complete, or neither is.
//! - A row is kept as long as the tasks it completed, but at most [`BYTES_MAX`] bytes of rows; the oldest are deleted
//!   first.

use std::collections::BTreeMap;

use model::{Isolation, NodeName, Revision};
use sha2::Digest;
use sqlx::any::AnyRow;

use super::{Counter, On, State, StateError, Writing, count_up, json, revision, signed, text, to_json, unsigned};

/// The most bytes that the values of all rows may take together.
pub const BYTES_MAX: u64 = 4 << 30;

/// Rows deleted in one transaction.
const FORGOTTEN_BATCH_MAX: u64 = 1_000;

/// The most amounts in one row that are kept apart by revision and member, or the number of members if that is larger.
/// If there are more, they are summed up over all revisions of the row.
const AMOUNTS_MAX: usize = 1_024;

/// Revisions that were found passed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The lowest and the highest of them.
    pub range: (Revision, Revision),
    /// When they were marked complete, in milliseconds since 1970.
    pub completed_ms: u64,
    /// How long the completing process had known all of them to be committed.
    pub known_for_ms: u64,
    /// The longest lease that a member could rely on.
    pub lease_ms: u64,
    /// The margin that was added to it.
    pub margin_ms: u64,
    /// Every member at that time.
    pub members: Vec<CompletionMember>,
    /// What members have swept for these revisions since.
    pub swept: Amounts,
}

/// A member in a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionMember {
    /// Its name.
    pub node: NodeName,
    /// What it does when its lease is over.
    pub isolation: Isolation,
    /// The highest revision it had acknowledged.
    pub acked: Revision,
    /// When that was recorded, in milliseconds since 1970; zero if never.
    pub acked_ms: u64,
}

/// Objects and bytes swept, by the index of a member in its completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amounts {
    /// For each revision.
    Each(BTreeMap<(Revision, usize), (u64, u64)>),
    /// For all revisions of the range together.
    Together(BTreeMap<usize, (u64, u64)>),
}

impl Default for Amounts {
    fn default() -> Self {
        Amounts::Each(BTreeMap::new())
    }
}

impl Amounts {
    fn add(&mut self, revision: Revision, member: usize, (objects, bytes): (u64, u64), most: usize) {
        if let Amounts::Each(each) = self
            && each.len() >= most
            && !each.contains_key(&(revision, member))
        {
            let mut together: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
            for ((_, member), (objects, bytes)) in each {
                let sum = together.entry(*member).or_default();
                *sum = (sum.0 + *objects, sum.1 + *bytes);
            }
            *self = Amounts::Together(together);
        }
        let sum = match self {
            Amounts::Each(each) => each.entry((revision, member)).or_default(),
            Amounts::Together(together) => together.entry(member).or_default(),
        };
        *sum = (sum.0 + objects, sum.1 + bytes);
    }

    /// As it is stored: four numbers per amount, or three.
    fn encode(&self, first: Revision) -> String {
        match self {
            Amounts::Each(each) if each.is_empty() => String::new(),
            Amounts::Each(each) => to_json(
                &each
                    .iter()
                    .map(|((at, member), (objects, bytes))| (at.0 - first.0, *member as u64, *objects, *bytes))
                    .collect::<Vec<_>>(),
            ),
            Amounts::Together(together) => to_json(
                &together
                    .iter()
                    .map(|(member, (objects, bytes))| (*member as u64, *objects, *bytes))
                    .collect::<Vec<_>>(),
            ),
        }
    }

    fn decode(text: &str, first: Revision) -> Result<Amounts, StateError> {
        if text.is_empty() {
            return Ok(Amounts::default());
        }
        if let Ok(each) = serde_json::from_str::<Vec<(u64, u64, u64, u64)>>(text) {
            let of = |(at, member, objects, bytes): (u64, u64, u64, u64)| {
                ((Revision(first.0.saturating_add(at)), member as usize), (objects, bytes))
            };
            return Ok(Amounts::Each(each.into_iter().map(of).collect()));
        }
        let together: Vec<(u64, u64, u64)> = serde_json::from_str(text)
            .map_err(|error| StateError::Corrupt { what: format!("completion {first}: swept: {error}") })?;
        let of = |(member, objects, bytes): (u64, u64, u64)| (member as usize, (objects, bytes));
        Ok(Amounts::Together(together.into_iter().map(of).collect()))
    }
}

/// Names of members and their behaviour in isolation, in the order of a completion.
type Roster = Vec<(NodeName, Isolation)>;

/// The id of a roster, derived from its content, so that equal rosters share a row.
fn roster_id(text: &str) -> i64 {
    let digest = sha2::Sha256::digest(text.as_bytes());
    let head: [u8; 8] = digest.iter().take(8).copied().collect::<Vec<_>>().try_into().unwrap_or_default();
    i64::from_be_bytes(head) & i64::MAX
}

impl Completion {
    /// What members had acknowledged, as stored: relative to the step, which keeps it short, mostly two digits.
    fn encode_acked(&self) -> String {
        let of = |member: &CompletionMember| {
            let since = (member.acked_ms > 0).then(|| signed(self.completed_ms) - signed(member.acked_ms));
            (signed(member.acked.0) - signed(self.range.1.0), since)
        };
        to_json(&self.members.iter().map(of).collect::<Vec<_>>())
    }

    /// Its size for the bound of bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.encode_acked().len() + self.swept.encode(self.range.0).len()) as u64
    }
}

/// Inserts a step as part of a transaction.
pub(super) async fn insert(writing: &mut Writing, step: &Completion) -> Result<(), StateError> {
    let connection = match writing.on() {
        On::Sql(connection) => connection,
        On::Memory(tables) => {
            tables.add_completion(step);
            return Ok(());
        }
    };
    let roster: Roster = step.members.iter().map(|member| (member.node.clone(), member.isolation)).collect();
    let roster = to_json(&roster);
    let acked = step.encode_acked();
    sqlx::query(
        "INSERT INTO roster (id, members, used_ms) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET used_ms = excluded.used_ms",
    )
    .bind(roster_id(&roster))
    .bind(&roster)
    .bind(signed(step.completed_ms))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO completion (last, first, completed_ms, known_ms, lease_ms, margin_ms, roster, bytes, acked, swept) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '') ON CONFLICT (last) DO NOTHING",
    )
    .bind(signed(step.range.1.0))
    .bind(signed(step.range.0.0))
    .bind(signed(step.completed_ms))
    .bind(signed(step.known_for_ms))
    .bind(signed(step.lease_ms))
    .bind(signed(step.margin_ms))
    .bind(roster_id(&roster))
    .bind(signed(acked.len() as u64))
    .bind(&acked)
    .execute(connection)
    .await?;
    Ok(())
}

/// A step from its row and its roster.
fn completion(row: &AnyRow) -> Result<Completion, StateError> {
    let range = (revision(row, "first")?, revision(row, "last")?);
    let roster: Roster = json(row, "members")?;
    let acked: Vec<(i64, Option<i64>)> = json(row, "acked")?;
    let completed_ms = unsigned(row, "completed_ms")?;
    let damaged = |what: &str| StateError::Corrupt { what: format!("completion {}: {what}", range.1) };
    if roster.len() != acked.len() {
        return Err(damaged("members"));
    }
    let members = roster
        .into_iter()
        .zip(acked)
        .map(|((node, isolation), (behind, since))| {
            let acked = range.1.0.checked_add_signed(behind).ok_or_else(|| damaged("acked"))?;
            let acked_ms = since.map_or(0, |since| completed_ms.saturating_add_signed(since.saturating_neg()));
            Ok(CompletionMember { node, isolation, acked: Revision(acked), acked_ms })
        })
        .collect::<Result<_, StateError>>()?;
    Ok(Completion {
        range,
        completed_ms,
        known_for_ms: unsigned(row, "known_ms")?,
        lease_ms: unsigned(row, "lease_ms")?,
        margin_ms: unsigned(row, "margin_ms")?,
        members,
        swept: Amounts::decode(&text(row, "swept")?, range.0)?,
    })
}

/// Replaces the amounts of a step.
async fn set_swept(writing: &mut Writing, step: &Completion) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let swept = step.swept.encode(step.range.0);
            sqlx::query("UPDATE completion SET swept = $1, bytes = bytes + $3 - length(swept) WHERE last = $2")
                .bind(&swept)
                .bind(signed(step.range.1.0))
                .bind(signed(swept.len() as u64))
                .execute(connection)
                .await?;
        }
        On::Memory(tables) => tables.set_swept(step.range.1, &step.swept),
    }
    Ok(())
}

impl State {
    /// The step that completed `revision`; `None` if there is no record of it.
    pub async fn completion_of(&self, revision: Revision) -> Result<Option<Completion>, StateError> {
        let step = match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query(
                    "SELECT last, first, completed_ms, known_ms, lease_ms, margin_ms, acked, swept, members FROM completion \
                     JOIN roster ON roster.id = completion.roster WHERE last >= $1 ORDER BY last LIMIT 1",
                )
                .bind(signed(revision.0))
                .fetch_optional(pool)
                .await?;
                row.as_ref().map(completion).transpose()?
            }
            On::Memory(tables) => tables.completion_from(revision),
        };
        Ok(step.filter(|step| step.range.0 <= revision))
    }

    /// Adds what nodes swept for revisions to the steps that completed them, in one transaction. Amounts without a step
    /// are dropped.
    pub async fn add_swept(
        &self,
        swept: &BTreeMap<Revision, BTreeMap<NodeName, (u64, u64)>>,
    ) -> Result<(), StateError> {
        let mut rest = swept.iter().peekable();
        // Under the log's lock: amounts that another control plane adds meanwhile must not be lost.
        let mut writing = self.write().await?;
        count_up(&mut writing, Counter::Revision, 0).await?;
        while let Some((first, _)) = rest.peek() {
            let step = self.completion_of(**first).await?;
            let Some(mut step) = step else {
                rest.next();
                continue;
            };
            let places: BTreeMap<NodeName, usize> =
                step.members.iter().enumerate().map(|(at, member)| (member.node.clone(), at)).collect();
            let most = AMOUNTS_MAX.max(step.members.len());
            while let Some((revision, of)) = rest.next_if(|(revision, _)| **revision <= step.range.1) {
                for (node, amount) in of {
                    if let Some(at) = places.get(node) {
                        step.swept.add(*revision, *at, *amount, most);
                    }
                }
            }
            set_swept(&mut writing, &step).await?;
        }
        writing.commit().await
    }

    /// Deletes steps from before `before_ms`, and the oldest beyond `bytes_max` bytes; returns how many the latter
    /// were. In many small transactions.
    pub async fn forget_completions(&self, before_ms: u64, bytes_max: u64) -> Result<u64, StateError> {
        while self.forget_some(before_ms).await? >= FORGOTTEN_BATCH_MAX {}
        let mut beyond = 0;
        // The sum is read outside the transactions, so that no writer waits for it.
        while self.completion_bytes().await? > bytes_max {
            beyond += self.forget_some(u64::MAX >> 1).await?;
        }
        let mut writing = self.write().await?;
        match writing.on() {
            On::Sql(connection) => {
                // A roster is as young as the last step that used it; all steps of an older roster are gone.
                sqlx::query("DELETE FROM roster WHERE used_ms < $1")
                    .bind(signed(before_ms))
                    .execute(connection)
                    .await?;
            }
            On::Memory(_) => {} // members are stored in their steps
        }
        writing.commit().await?;
        Ok(beyond)
    }

    /// Deletes some of the steps from before `before_ms`, lowest first; returns how many.
    async fn forget_some(&self, before_ms: u64) -> Result<u64, StateError> {
        let mut writing = self.write().await?;
        let count = match writing.on() {
            On::Sql(connection) => sqlx::query(
                "DELETE FROM completion WHERE last IN \
                     (SELECT last FROM completion WHERE completed_ms < $1 ORDER BY last LIMIT $2)",
            )
            .bind(signed(before_ms))
            .bind(signed(FORGOTTEN_BATCH_MAX))
            .execute(connection)
            .await?
            .rows_affected(),
            On::Memory(tables) => tables.forget_completions(before_ms, FORGOTTEN_BATCH_MAX),
        };
        writing.commit().await?;
        Ok(count)
    }

    async fn completion_bytes(&self) -> Result<u64, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query("SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM completion")
                    .fetch_one(pool)
                    .await?;
                unsigned(&row, "bytes")
            }
            On::Memory(tables) => Ok(tables.completion_bytes()),
        }
    }
}
