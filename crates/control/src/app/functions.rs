//! The verbs about functions of domains: setting, deleting and showing them.
//!
//! # What always holds
//!
//! - A call changes all the domains it names or none: their entries are one transaction.
//! - The stored functions of every domain have passed [`functions::check`] as a whole.
//!
//! # Numbers
//!
//! A function's number is the time at which it was set, in milliseconds, or one more than the highest of its domain if
//! that is later. So it shows the age and is unique within a domain.

use model::functions::{self, BadArgument, BadFunctions, Function, Functions};
use model::{Domain, DomainName};

use super::domains::{changeable, settled};
use super::{App, Denied, Permission, Principal};
use crate::state::domains::{ChangedDomain, Doing};
use crate::state::millis;

/// A function to be set.
#[derive(Clone, Debug)]
pub(crate) struct Wished {
    /// The function to change; without it, one is added, or replaces the one with its name if there can be only one.
    pub(crate) id: Option<u64>,
    /// Its new form; the number in it is ignored.
    pub(crate) function: Function,
}

/// The functions to delete.
#[derive(Clone, Debug)]
pub(crate) enum Doomed {
    Ids(Vec<u64>),
    Names(Vec<String>),
}

impl App {
    /// Sets functions on domains of the account; returns the number of each, domain by domain. An existing function
    /// keeps its number.
    pub(crate) async fn set_functions(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        domains: &[DomainName],
        wished: &[Wished],
    ) -> Result<Vec<(DomainName, String, u64)>, Denied> {
        let now_ms = millis(self.clock.now());
        let all = wished.to_vec();
        let change = move |before: &[Function]| merge(before, &all, now_ms);
        let ids = self.change_functions(principal, permission, domains, change).await?;
        let of_domain = |(name, ids): (&DomainName, Vec<u64>)| {
            let numbered = wished.iter().zip(ids);
            numbered.map(|(wish, id)| (name.clone(), wish.function.name.clone(), id)).collect::<Vec<_>>()
        };
        Ok(domains.iter().zip(ids).flat_map(of_domain).collect())
    }

    /// Deletes functions of domains of the account. Missing ones are no error.
    pub(crate) async fn delete_functions(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        domains: &[DomainName],
        doomed: &Doomed,
    ) -> Result<(), Denied> {
        let doomed = doomed.clone();
        let stays = move |function: &&Function| match &doomed {
            Doomed::Ids(ids) => !ids.contains(&function.id),
            Doomed::Names(names) => !names.contains(&function.name),
        };
        let change = move |before: &[Function]| Ok((before.iter().filter(&stays).cloned().collect(), ()));
        self.change_functions(principal, permission, domains, change).await?;
        Ok(())
    }

    /// Applies `change` to the functions of each domain; returns what it tells beside them, domain by domain. Whoever
    /// shares the cache of another domain puts responses there, so that asks for the permission on both.
    async fn change_functions<T: Send + 'static>(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        domains: &[DomainName],
        change: impl Fn(&[Function]) -> Result<(Vec<Function>, T), Denied> + Send + 'static,
    ) -> Result<Vec<T>, Denied> {
        principal.may_change()?;
        principal.may(permission.action, domains.iter().map(|name| permission.on(name.as_str())))?;
        let known = self.following.now();
        let mut there = Vec::new();
        for name in domains {
            there.push(changeable(&known, principal, name)?);
        }
        let before: Vec<Functions> = there.iter().map(|(_, domain)| domain.functions.clone()).collect();
        // Expressions are compiled here, which would hold up other requests.
        let made = tokio::task::spawn_blocking(move || {
            let one = |functions: &Functions| change(functions.list()).map(|(list, told)| (Functions::new(list), told));
            before.iter().map(one).collect::<Result<Vec<_>, Denied>>()
        });
        let made = made.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let (mut changed, mut all_told) = (Vec::new(), Vec::new());
        for ((row, before), (functions, told)) in there.into_iter().zip(made) {
            all_told.push(told);
            if let Some(share) = &functions.rules().key.share
                && before.functions.rules().key.share.as_ref() != Some(share)
            {
                principal.may(permission.action, [permission.on(share.as_str())])?;
                if *share == before.name || changeable(&known, principal, share).is_err() {
                    return Err(Denied::Functions(not_shared()));
                }
            }
            if functions == before.functions {
                continue;
            }
            settled(&known, row)?;
            let domain = Domain { functions, ..before.clone() };
            changed.push(ChangedDomain { domain, detail: row.detail.clone(), seen: row.revision });
        }
        if changed.is_empty() {
            return Ok(all_told);
        }
        let now_ms = millis(self.clock.now());
        let at = self.state.change_domains(principal.account(), changed, Doing::Configuring, now_ms).await;
        self.reach(at).await?;
        Ok(all_told)
    }

    /// The functions of a domain of the account, oldest first, and whether every node has them.
    pub(crate) fn functions(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
    ) -> Result<(Functions, bool), Denied> {
        let view = self.domain(principal, permission, name)?;
        Ok((view.domain.functions, view.row.configured))
    }
}

/// Applies `wished` to `there`; returns the resulting functions, and the number of each wish.
fn merge(there: &[Function], wished: &[Wished], now_ms: u64) -> Result<(Vec<Function>, Vec<u64>), Denied> {
    let mut merged = there.to_vec();
    let mut ids = Vec::new();
    for Wished { id, function } in wished {
        let many = functions::named(&function.name).is_none_or(|kind| kind.many);
        let place = match id {
            Some(id) => {
                let place = merged.iter().position(|there| there.id == *id && there.name == function.name);
                Some(place.ok_or_else(|| Denied::NoFunction { id: *id, name: function.name.clone() })?)
            }
            None => merged.iter().position(|there| {
                there.name == function.name
                    && (!many || (there.args == function.args && there.parent == function.parent))
            }),
        };
        match place {
            Some(place) => {
                let id = merged[place].id;
                ids.push(id);
                merged[place] = Function { id, ..function.clone() };
            }
            None => {
                let highest = merged.iter().map(|there| there.id).max();
                let id = highest.map_or(now_ms, |highest| now_ms.max(highest + 1));
                ids.push(id);
                merged.push(Function { id, ..function.clone() });
            }
        }
    }
    functions::check(&merged).map_err(Denied::Functions)?;
    Ok((merged, ids))
}

/// Domains that share a cache answer their users with responses of each other's origins, so both must belong to one
/// account.
fn not_shared() -> BadFunctions {
    let problem = BadArgument::Value { name: "share_host", expected: "another domain of this account" };
    BadFunctions::Argument { function: "rewrite_host".to_owned(), problem }
}

/// Whether a domain has the function with this number in the table of functions.
pub(crate) fn has(domain: &Domain, number: u32) -> bool {
    let Some(kind) = functions::numbered(number) else { return false };
    domain.functions.list().iter().any(|function| function.name == kind.name)
}

/// The content of [`Denied::Functions`].
pub(crate) type Bad = BadFunctions;

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(id: Option<u64>, name: &str, args: &[(&str, &str)]) -> Wished {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Wished { id, function: Function { id: 0, name: name.to_owned(), args, parent: None } }
    }

    #[test]
    fn setting_adds_takes_the_place_of_what_there_can_be_once_and_changes_by_number() {
        let ttl = |path| wish(None, "path_based_ttl_set", &[("path", path), ("ttl", "60")]);
        let (first, ids) = merge(&[], &[wish(None, "range", &[("enable", "on")]), ttl("/a")], 1000).unwrap();
        assert_eq!(ids, [1000, 1001]);
        let again = [wish(None, "range", &[("enable", "off")]), ttl("/a"), ttl("/b"), wish(None, "of_tomorrow", &[])];
        let (second, ids) = merge(&first, &again, 1000).unwrap();
        assert_eq!(ids, [1000, 1001, 1002, 1003], "one range, one rule of those arguments, and two new ones");
        assert_eq!((second.len(), second[0].args[0].1.as_str()), (4, "off"));
        let by_id = wish(Some(1002), "path_based_ttl_set", &[("path", "/c"), ("ttl", "60")]);
        let (third, ids) = merge(&second, &[by_id], 5000).unwrap();
        assert_eq!((ids, third[2].args[0].1.as_str(), third.len()), (vec![1002], "/c", 4));
        let denied = merge(&third, &[wish(Some(7), "range", &[("enable", "on")])], 5000);
        assert!(matches!(denied, Err(Denied::NoFunction { id: 7, .. })));
        let denied = merge(&third, &[wish(Some(1002), "range", &[("enable", "on")])], 5000);
        assert!(matches!(denied, Err(Denied::NoFunction { .. })), "a number is of one function");
        assert!(matches!(merge(&third, &[wish(None, "gzip", &[])], 5000), Err(Denied::Functions(_))));
    }
}
