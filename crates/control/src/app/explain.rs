//! The verb that explains what a prefetch would do, and why. It writes nothing and charges nothing.

use aliyun::{Explained, ExplainedTarget};
use model::{Domain, Member, UrlKey};

use super::{App, Denied, Object, Permission, Prefetch, Principal, named};
use crate::known::Known;

impl App {
    /// What a prefetch of each of these objects would do. A domain's state that would cause a refusal is reported as a
    /// problem; a host that is not the account's is refused as usual.
    pub(crate) fn explain(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        objects: &[Object],
        prefetch: &Prefetch,
    ) -> Result<Vec<Explained>, Denied> {
        principal.may_look()?;
        let known = self.following.now();
        let names = named(&known, principal.account(), objects);
        principal.may(permission.action, names.into_iter().map(|name| permission.on(name)))?;
        objects.iter().map(|object| self.explain_one(&known, principal.account(), object, prefetch)).collect()
    }

    fn explain_one(
        &self,
        known: &Known,
        account: &str,
        object: &Object,
        prefetch: &Prefetch,
    ) -> Result<Explained, Denied> {
        let url = &object.key;
        let domain = known.knowledge.domain_for(url.host());
        let row = domain.and_then(|domain| known.domains.get(&domain.name)).filter(|row| row.account == account);
        let (Some(domain), Some(row)) = (domain, row) else { return Err(Denied::NoDomain(url.host().to_owned())) };
        let users_key = domain.functions.key(url);
        let key = if prefetch.verbatim { url.clone() } else { users_key.clone() };
        let targets = self.targets(known, &key, prefetch, domain);
        let mut problems = Vec::new();
        let mut problem = |is: bool, words: String| problems.extend(is.then_some(words));
        problem(!row.blocked.is_empty(), "the domain is blocked".to_owned());
        problem(!domain.online, "the domain is offline".to_owned());
        problem(!row.configured, "the domain is not configured on every node yet".to_owned());
        problem(targets.is_empty(), "no tier of a POP is meant by this area".to_owned());
        let dead = targets.iter().filter(|target| !target.owners.iter().any(|(_, connected)| *connected));
        for target in dead {
            problem(true, format!("no node of {}/{} is connected", target.pop, target.tier));
        }
        problem(key != users_key, other_key(&users_key));
        let mut origins: Vec<_> = domain.sources.iter().collect();
        origins.sort_by_key(|source| source.priority);
        Ok(Explained {
            url: object.text.clone(),
            domain: domain.name.to_string(),
            origin_path: origin_path(domain, url, &key),
            key: key.to_string(),
            users_key: users_key.to_string(),
            steps: steps(domain, url),
            origins: origins.into_iter().map(|source| format!("{}:{}", source.content, source.port)).collect(),
            variants: prefetch.variants.clone(),
            targets,
            problems,
        })
    }

    fn targets(&self, known: &Known, key: &UrlKey, prefetch: &Prefetch, domain: &Domain) -> Vec<ExplainedTarget> {
        let topology = &known.knowledge.topology;
        let connected = self.jobs.connected();
        let targets = topology.targets(prefetch.area.unwrap_or(domain.coverage), prefetch.warm).into_iter();
        let owner = |member: &Member| (member.name.to_string(), connected.contains(&member.name));
        targets
            .map(|group| ExplainedTarget {
                pop: group.pop.to_string(),
                tier: group.tier.to_string(),
                owners: topology.owners(&group, key.hash()).into_iter().map(owner).collect(),
            })
            .collect()
    }
}

/// The functions that make users' key of a URL, step by step.
fn steps(domain: &Domain, url: &UrlKey) -> Vec<(Vec<String>, String)> {
    let is_set = |name: &&&str| domain.functions.list().iter().any(|function| function.name == **name);
    let steps = domain.functions.rules().key.steps(url).into_iter();
    let named = |names: &[&str]| names.iter().filter(is_set).map(|name| (*name).to_owned()).collect();
    steps.map(|(names, key)| (named(names), key.to_string())).collect()
}

/// The path that nodes request from origins.
fn origin_path(domain: &Domain, url: &UrlKey, key: &UrlKey) -> String {
    let rules = domain.functions.rules();
    let visited = || rules.key.visited(&rules.key.unsigned(url.path_and_query()));
    let by_key = rules.fetch.by_key && domain.functions.key(url) == *key;
    rules.fetch.path(&if by_key { key.path_and_query().to_owned() } else { visited() })
}

/// The warning about an object that is stored under its URL although users' requests for it have this key.
pub(crate) fn other_key(users_key: &UrlKey) -> String {
    format!(
        "users' requests for it have the key {users_key}: they are not answered by this (QueryHashkey=true warms that)"
    )
}
