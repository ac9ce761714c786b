//! The operator's verbs about permissions: keys, users and policies of accounts; and the audit log.

use zeroize::Zeroizing;

use super::{Operator, OperatorError, ShownKey};
use crate::policy::{self, Policy};
use crate::seal::random_text;
use crate::state::access::{ListedKey, OwnPolicy, User};
use crate::state::accounts::AccountError;
use crate::state::audit::{Recorded, Wanted, Window};

/// The longest name of a user, in bytes (the vendor's bound).
const USER_BYTES_MAX: usize = 64;

/// The longest name of a policy, in bytes (the vendor's bound).
const POLICY_BYTES_MAX: usize = 128;

/// Characters of a created key's id, after `WF`, and of its secret.
const KEY_ID_CHARS: usize = 22;
const KEY_SECRET_CHARS: usize = 40;

/// Keys.
impl Operator {
    /// Creates a key for an account.
    pub async fn create_key(&self, account: &str, policy: Option<&Policy>) -> Result<ShownKey, OperatorError> {
        self.create_key_of(account, None, policy).await
    }

    /// Creates a key for an account or a user of it; `policy` narrows what it may do.
    pub async fn create_key_of(
        &self,
        account: &str,
        user: Option<&str>,
        policy: Option<&Policy>,
    ) -> Result<ShownKey, OperatorError> {
        let key = ShownKey {
            id: format!("WF{}", random_text(KEY_ID_CHARS)),
            secret: Zeroizing::new(random_text(KEY_SECRET_CHARS)),
        };
        self.put_key(account, user, &key.id, &key.secret, policy).await?;
        Ok(key)
    }

    /// Gives an account a key with a given id and secret.
    pub async fn import_key(
        &self,
        account: &str,
        id: &str,
        secret: &str,
        policy: Option<&Policy>,
    ) -> Result<(), OperatorError> {
        self.put_key(account, None, id, secret, policy).await
    }

    async fn put_key(
        &self,
        account: &str,
        user: Option<&str>,
        id: &str,
        secret: &str,
        policy: Option<&Policy>,
    ) -> Result<(), OperatorError> {
        let (state, seal, now_ms) = (&self.state, &self.seal, self.now_ms());
        let made = async { Ok(state.create_key(seal, account, user, id, secret, policy, now_ms).await?) };
        let detail = [("AccessKeyId", id), ("UserName", user.unwrap_or_default())];
        self.recorded("key create", account, told(&detail), made).await
    }

    /// The keys of an account and its users, without their secrets, oldest first.
    pub async fn keys(&self, account: &str) -> Result<Vec<ListedKey>, OperatorError> {
        self.need_account(account).await?;
        Ok(self.state.keys(account).await?)
    }

    /// Activates or deactivates a key.
    pub async fn set_key_active(&self, id: &str, active: bool) -> Result<(), OperatorError> {
        let account = self.account_of(id).await?;
        let set = async { Ok(self.state.set_key_active(id, active).await.map(drop)?) };
        let verb = if active { "key enable" } else { "key disable" };
        self.recorded(verb, &account, &[("AccessKeyId", id)], set).await
    }

    /// Deletes a key, and with it the sessions and tokens made with it.
    pub async fn delete_key(&self, id: &str) -> Result<(), OperatorError> {
        let account = self.account_of(id).await?;
        let deleted = async { Ok(self.state.delete_key(id).await.map(drop)?) };
        self.recorded("key delete", &account, &[("AccessKeyId", id)], deleted).await
    }

    async fn account_of(&self, key: &str) -> Result<String, OperatorError> {
        let key_of = self.state.access_key(&self.seal, key).await?;
        let key = key_of.ok_or_else(|| AccountError::NoKey(key.to_owned()))?;
        Ok(key.account.name)
    }
}

/// Users.
impl Operator {
    /// Creates a user of an account, who may do nothing yet.
    pub async fn create_user(&self, account: &str, name: &str) -> Result<(), OperatorError> {
        check_name(name, USER_BYTES_MAX, "letters, digits, `-`, `_` and `.`", |byte| b"-_.".contains(&byte))?;
        let made = async { Ok(self.state.create_user(account, name, self.now_ms()).await?) };
        self.recorded("user create", account, &[("UserName", name)], made).await
    }

    /// The users of an account, by name.
    pub async fn users(&self, account: &str) -> Result<Vec<User>, OperatorError> {
        self.need_account(account).await?;
        Ok(self.state.users(account).await?)
    }

    /// Deletes a user that has no keys.
    pub async fn delete_user(&self, account: &str, name: &str) -> Result<(), OperatorError> {
        let deleted = async { Ok(self.state.delete_user(account, name).await?) };
        self.recorded("user delete", account, &[("UserName", name)], deleted).await
    }

    /// Attaches a system policy or one of the account's own to a user; returns whether it is new.
    pub async fn attach(&self, account: &str, user: &str, policy: &str) -> Result<bool, OperatorError> {
        let attached = async { Ok(self.state.attach(account, user, policy).await?) };
        self.recorded("user attach", account, &[("UserName", user), ("Policy", policy)], attached).await
    }

    /// Detaches a policy from a user; returns whether it was attached.
    pub async fn detach(&self, account: &str, user: &str, policy: &str) -> Result<bool, OperatorError> {
        let detached = async { Ok(self.state.detach(account, user, policy).await?) };
        self.recorded("user detach", account, &[("UserName", user), ("Policy", policy)], detached).await
    }
}

/// Policies.
impl Operator {
    /// Creates a policy of the account's own, or replaces the one with its name; it applies at once to users who have
    /// it.
    pub async fn put_policy(&self, account: &str, name: &str, policy: &Policy) -> Result<(), OperatorError> {
        check_name(name, POLICY_BYTES_MAX, "letters, digits and `-`", |byte| byte == b'-')?;
        not_systems(name)?;
        let put = async { Ok(self.state.put_policy(account, name, policy, self.now_ms()).await?) };
        self.recorded("policy put", account, &[("Policy", name)], put).await
    }

    /// The policies of an account's own, by name.
    pub async fn policies(&self, account: &str) -> Result<Vec<OwnPolicy>, OperatorError> {
        self.need_account(account).await?;
        Ok(self.state.policies(account).await?)
    }

    /// Deletes a policy that no user has.
    pub async fn delete_policy(&self, account: &str, name: &str) -> Result<(), OperatorError> {
        not_systems(name)?;
        let deleted = async { Ok(self.state.delete_policy(account, name).await?) };
        self.recorded("policy delete", account, &[("Policy", name)], deleted).await
    }
}

/// The audit log.
impl Operator {
    /// The newest `most` records of a window that match `wanted`, newest first, however far back they lie.
    pub async fn audit(
        &self,
        mut window: Window,
        wanted: &Wanted,
        most: usize,
    ) -> Result<Vec<Recorded>, OperatorError> {
        let mut found = Vec::new();
        loop {
            let (some, next) = self.state.search_records(window.clone(), wanted, most - found.len()).await?;
            found.extend(some);
            window.before = next;
            if next.is_none() || found.len() >= most {
                return Ok(found);
            }
        }
    }

    async fn need_account(&self, name: &str) -> Result<(), OperatorError> {
        let there = self.state.opening(name).await?.is_some();
        if there { Ok(()) } else { Err(AccountError::Absent(name.to_owned()).into()) }
    }
}

/// The recorded facts of a key: without a user if it belongs to the account itself.
fn told<'a>(detail: &'a [(&'a str, &'a str); 2]) -> &'a [(&'a str, &'a str)] {
    if detail[1].1.is_empty() { &detail[..1] } else { detail }
}

fn check_name(name: &str, most: usize, of: &str, also: impl Fn(u8) -> bool) -> Result<(), OperatorError> {
    if (1..=most).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || also(byte)) {
        return Ok(());
    }
    let problem = format!("expected {of}, at most {most}");
    Err(OperatorError::Argument { argument: "NAME", problem })
}

fn not_systems(name: &str) -> Result<(), OperatorError> {
    if policy::system(name).is_none() {
        return Ok(());
    }
    let problem = format!("`{name}` is a system policy, which every account has and which cannot be changed");
    Err(OperatorError::Argument { argument: "NAME", problem })
}
