//! The verbs about labels of domains: setting, removing and finding them.

use std::collections::BTreeSet;

use aliyun::{LabelFilter, LabelQuery, LabelRow};
use model::DomainName;

use super::{App, Denied, Permission, Principal, domains};
use crate::state::labels::LabelError;

/// Labels in one answer of a list.
pub(crate) const PAGE: usize = 100;

/// Pairs of key and value in the answer about all labels of an account, which has a single page.
const IN_USE_MAX: u32 = 10_000;

impl App {
    /// Sets labels on domains of the account, on all or none.
    pub(crate) async fn set_labels(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        names: &[DomainName],
        labels: &[(String, String)],
    ) -> Result<(), Denied> {
        self.may_label(principal, permission, names)?;
        self.state.set_labels(principal.account(), names, labels).await.map_err(denied)
    }

    /// Removes labels from domains of the account, by key or all.
    pub(crate) async fn remove_labels(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        names: &[DomainName],
        keys: Option<&[String]>,
    ) -> Result<(), Denied> {
        self.may_label(principal, permission, names)?;
        self.state.remove_labels(principal.account(), names, keys).await.map_err(denied)
    }

    fn may_label(&self, principal: &Principal, permission: Permission<'_>, names: &[DomainName]) -> Result<(), Denied> {
        principal.may_change()?;
        principal.may(permission.action, names.iter().map(|name| permission.on(name.as_str())))?;
        let known = self.following.now();
        names.iter().try_for_each(|name| domains::own(&known, principal, name).map(|_| ()))
    }

    /// One page of labels of the account's domains, and whether there are more behind it.
    pub(crate) async fn labels(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        query: &LabelQuery,
    ) -> Result<(Vec<LabelRow>, bool), Denied> {
        self.may_look_at_labels(principal, permission, &query.domains)?;
        let after = query.after.as_ref().map_or(("", ""), |(domain, key)| (domain.as_str(), key.as_str()));
        let mut found = match self.picked(principal, query).await? {
            None => self.state.labels_after(principal.account(), after, PAGE as u32 + 1).await?,
            Some(picked) => {
                let mut found = Vec::new();
                for domain in picked.range(after.0.to_owned()..) {
                    let labels = self.state.labels_of(principal.account(), domain).await?;
                    found.extend(labels.into_iter().filter(|(domain, key, _)| (domain.as_str(), key.as_str()) > after));
                    if found.len() > PAGE {
                        break;
                    }
                }
                found
            }
        };
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        let row = |(domain, key, value)| LabelRow { domain, label: (key, value) };
        Ok((found.into_iter().map(row).collect(), more))
    }

    /// Domains of the account, each with all its labels.
    pub(crate) async fn labels_of(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        query: &LabelQuery,
    ) -> Result<Vec<(String, Vec<(String, String)>)>, Denied> {
        self.may_look_at_labels(principal, permission, &query.domains)?;
        let mut all = Vec::new();
        for domain in self.picked(principal, query).await?.unwrap_or_default() {
            let labels = self.state.labels_of(principal.account(), &domain).await?;
            all.push((domain, labels.into_iter().map(|(_, key, value)| (key, value)).collect()));
        }
        Ok(all)
    }

    fn may_look_at_labels(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        names: &[DomainName],
    ) -> Result<(), Denied> {
        principal.may_look()?;
        if names.is_empty() {
            return principal.may(permission.action, [permission.on("*")]);
        }
        principal.may(permission.action, names.iter().map(|name| permission.on(name.as_str())))?;
        let known = self.following.now();
        names.iter().try_for_each(|name| domains::own(&known, principal, name).map(|_| ()))
    }

    /// The domains that a query is about; `None` if it is about all.
    async fn picked(&self, principal: &Principal, query: &LabelQuery) -> Result<Option<BTreeSet<String>>, Denied> {
        let named: BTreeSet<String> = query.domains.iter().map(ToString::to_string).collect();
        let labelled = self.labelled(principal, &query.labels).await?;
        Ok(match (named.is_empty(), labelled) {
            (true, labelled) => labelled,
            (false, None) => Some(named),
            (false, Some(labelled)) => Some(&named & &labelled),
        })
    }

    /// The account's domains that have all these labels; `None` if no label is given.
    pub(crate) async fn labelled(
        &self,
        principal: &Principal,
        labels: &[LabelFilter],
    ) -> Result<Option<BTreeSet<String>>, Denied> {
        let mut all: Option<BTreeSet<String>> = None;
        for (key, value) in labels {
            let have = self.state.labelled(principal.account(), key, value.as_deref()).await?;
            all = Some(all.map_or(have.clone(), |all| &all & &have));
        }
        Ok(all)
    }

    /// Every key of the account's labels with its values.
    pub(crate) async fn labels_in_use(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
    ) -> Result<Vec<(String, Vec<String>)>, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on("*")])?;
        let mut keys: Vec<(String, Vec<String>)> = Vec::new();
        for (key, value) in self.state.labels_in_use(principal.account(), IN_USE_MAX).await? {
            match keys.last_mut().filter(|(last, _)| *last == key) {
                Some((_, values)) => values.push(value),
                None => keys.push((key, vec![value])),
            }
        }
        Ok(keys)
    }
}

fn denied(error: LabelError) -> Denied {
    match error {
        LabelError::Absent(name) => Denied::NoDomain(name.to_string()),
        LabelError::TooMany(_) => Denied::Labels(error.to_string()),
        LabelError::State(error) => Denied::Unavailable(error),
    }
}
