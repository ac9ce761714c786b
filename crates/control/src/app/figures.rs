//! The verbs that show figures.

use std::collections::BTreeMap;

use aliyun::{FigureQuery, UrlQuery};
use model::DomainName;
use model::figures::{Class, Regional, Visits};

use super::{App, Denied, Permission, Principal};
use crate::state::figures::Grain;

impl App {
    /// The figures of domains of the account for each bucket of a window; buckets without requests are empty.
    pub(crate) async fn figures(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        query: &FigureQuery,
    ) -> Result<Vec<(u64, Regional)>, Denied> {
        self.may_see(principal, permission, &query.domains)?;
        let grain = match query.window.interval {
            300 => Grain::FiveMinutes,
            3_600 => Grain::Hour,
            _ => Grain::Day,
        };
        let buckets: Vec<u64> = query.window.buckets(self.clock.now()).collect();
        let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else { return Ok(Vec::new()) };
        let counted = self.state.figures(principal.account(), &query.domains, grain, *first, last + 1).await?;
        Ok(buckets.into_iter().map(|bucket| (bucket, counted.get(&bucket).cloned().unwrap_or_default())).collect())
    }

    /// The most requested URLs of domains of the account in the hours of a window.
    pub(crate) async fn top_urls(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        query: &UrlQuery,
    ) -> Result<Vec<(Class, Visits)>, Denied> {
        self.may_see(principal, permission, &query.domains)?;
        let from = Grain::Hour.bucket(crate::state::millis(query.start) / 1000);
        let to = crate::state::millis(query.end).div_ceil(1000);
        let hours = self.state.figure_urls(principal.account(), &query.domains, query.origins, from, to).await?;
        let mut sums: BTreeMap<(Class, String), (u64, u64)> = BTreeMap::new();
        for (class, visits) in hours.iter().flat_map(|sketch| sketch.visits()) {
            let sum = sums.entry((class, visits.url.clone())).or_default();
            *sum = (sum.0.saturating_add(visits.requests), sum.1.saturating_add(visits.bytes));
        }
        let visits = |((class, url), (requests, bytes))| (class, Visits { url, requests, bytes });
        Ok(sums.into_iter().map(visits).collect())
    }

    /// Fails unless every domain is the account's and the caller may see it. Without domains it needs permission for
    /// all.
    fn may_see(&self, principal: &Principal, permission: Permission<'_>, domains: &[String]) -> Result<(), Denied> {
        principal.may_look()?;
        if domains.is_empty() {
            return principal.may(permission.action, [permission.on("*")]);
        }
        principal.may(permission.action, domains.iter().map(|domain| permission.on(domain)))?;
        let known = self.following.now();
        let own = |name: &str| {
            let name = DomainName::parse(name).ok();
            name.and_then(|name| known.domains.get(&name)).is_some_and(|row| row.account == principal.account())
        };
        match domains.iter().find(|domain| !own(domain)) {
            Some(other) => Err(Denied::NoDomain(other.clone())),
            None => Ok(()),
        }
    }
}
