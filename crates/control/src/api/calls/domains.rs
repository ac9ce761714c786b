//! Calls about domains and their labels: from calls to verbs, and from results to replies.

use std::collections::BTreeSet;

use aliyun::{Call, CdnType, DomainDetail, DomainQuery, DomainStatus, DomainTls, Page, Reply, SearchType, SourceType};
use model::{Source, SourceKind};

use super::{skip, time};
use crate::app::{App, Denied, DomainChange, DomainView, Permission, Principal, Wanted, has};
use crate::state::domains::{self, Doing};

/// Executes a call about domains; `calls::answer` passes no others.
pub(super) async fn answer(
    app: &App,
    principal: &Principal,
    permission: Permission<'_>,
    call: Call,
) -> Result<Reply, Denied> {
    match call {
        Call::AddDomains(add) => {
            let detail = domains::DomainDetail {
                business: add.kind.map(CdnType::name).unwrap_or_default().to_owned(),
                source_types: types(&add.sources),
                last: None,
            };
            let sources = add.sources.into_iter().map(source).collect();
            let wanted = Wanted { names: add.names, coverage: add.coverage, sources, detail, labels: add.labels };
            app.add_domains(principal, permission, wanted).await?;
        }
        Call::ModifyDomains(modify) => {
            // Without origins nothing is changed, but ownership of the domains is still checked.
            match modify.sources {
                Some(sources) => {
                    let types = types(&sources);
                    let change = DomainChange::Sources(sources.into_iter().map(source).collect(), types);
                    app.change_domains(principal, permission, &modify.names, &change).await?;
                }
                None => {
                    for name in &modify.names {
                        app.domain(principal, permission, name)?;
                    }
                }
            }
        }
        Call::SetCoverage { name, coverage } => {
            app.change_domains(principal, permission, &[name], &DomainChange::Coverage(coverage)).await?;
        }
        Call::DeleteDomain(name) => app.remove_domain(principal, permission, &name).await?,
        Call::SwitchDomains { names, online } => {
            app.change_domains(principal, permission, &names, &DomainChange::Online(online)).await?;
        }
        Call::SetDomain(set) => {
            let change = DomainChange::TagHeader(set.tag_header);
            app.change_domains(principal, permission, &[set.name], &change).await?;
        }
        Call::SetLabels(set) => app.set_labels(principal, permission, &set.domains, &set.labels).await?,
        Call::RemoveLabels(remove) => {
            app.remove_labels(principal, permission, &remove.domains, remove.keys.as_deref()).await?;
        }
        Call::ProveName { name, how } => {
            return Ok(Reply::ProofContent(app.prove_name(principal, permission, &name, how).await?));
        }
        looking => return look(app, principal, permission, looking).await,
    }
    Ok(Reply::Done)
}

async fn look(app: &App, principal: &Principal, permission: Permission<'_>, call: Call) -> Result<Reply, Denied> {
    match call {
        Call::Domains(query) => {
            let all = app.domains(principal, permission)?;
            let labelled = app.labelled(principal, &query.labels).await?;
            let rows = all.iter().map(detail).filter(|domain| matches(&query, labelled.as_ref(), domain)).collect();
            Ok(page_of(rows, query.page))
        }
        Call::DomainsByFunction { number, page } => {
            let all = app.domains(principal, permission)?;
            Ok(page_of(all.iter().filter(|view| has(&view.domain, number)).map(detail).collect(), page))
        }
        Call::DomainDetail(name) => {
            let view = app.domain(principal, permission, &name)?;
            let chain = view.certificate.as_ref().map(|certificate| certificate.chain.clone());
            let mut detail = detail(&view);
            if let (Some(tls), Some(chain)) = (&mut detail.tls, chain) {
                tls.chain = chain;
            }
            if view.row.doing == Doing::Deleting {
                let nodes = app.not_deleted_by(view.row.revision).await?;
                detail.description =
                    if nodes.is_empty() { String::new() } else { format!("waiting for {}", nodes.join(", ")) };
            }
            Ok(Reply::DomainDetail(detail))
        }
        Call::Labels(query) => {
            let (rows, more) = app.labels(principal, permission, &query).await?;
            Ok(Reply::Labels { rows, more })
        }
        Call::LabelsOf(query) => Ok(Reply::LabelsOf(app.labels_of(principal, permission, &query).await?)),
        Call::LabelsOfAccount => Ok(Reply::LabelsOfAccount(app.labels_in_use(principal, permission).await?)),
        Call::Places => Ok(Reply::Places(app.places(principal, permission)?)),
        Call::Addresses(name) => {
            let addresses = app.second_tier(principal, permission, &name)?;
            Ok(Reply::Addresses { domain: name.to_string(), addresses })
        }
        Call::Cnames(names) => {
            let own = |name: &model::DomainName| Ok(app.domain(principal, permission, name)?.row.name.to_string());
            Ok(Reply::Cnames(names.iter().map(own).collect::<Result<_, Denied>>()?))
        }
        Call::ProofContent(name) => Ok(Reply::ProofContent(app.proof_content(principal, permission, &name)?)),
        _ => unreachable!("`calls::answer` hands over those about domains alone"),
    }
}

fn page_of(rows: Vec<DomainDetail>, page: Page) -> Reply {
    let total = rows.len() as u64;
    let rows = rows.into_iter().skip(skip(page) as usize).take(page.size as usize).collect();
    Reply::Domains { page, total, rows }
}

fn types(sources: &[aliyun::Source]) -> Vec<String> {
    sources.iter().map(|source| source.kind.name().to_owned()).collect()
}

fn source(source: aliyun::Source) -> Source {
    let kind = match source.kind {
        SourceType::Address => SourceKind::Address,
        SourceType::Oss => SourceKind::Bucket,
        SourceType::Domain | SourceType::Function | SourceType::Common => SourceKind::Domain,
    };
    Source {
        kind,
        content: source.content,
        port: source.port,
        scheme: source.scheme,
        priority: source.priority,
        weight: source.weight,
    }
}

fn detail(view: &DomainView) -> DomainDetail {
    let types = view.row.detail.source_types.iter().map(String::as_str).chain(std::iter::repeat(""));
    let sources = view.domain.sources.iter().zip(types).map(|(source, submitted)| aliyun::Source {
        kind: match (source.kind, submitted) {
            (SourceKind::Address, _) => SourceType::Address,
            (SourceKind::Bucket, _) => SourceType::Oss,
            (SourceKind::Domain, "fc_domain") => SourceType::Function,
            (SourceKind::Domain, "common") => SourceType::Common,
            (SourceKind::Domain, _) => SourceType::Domain,
        },
        content: source.content.clone(),
        port: source.port,
        scheme: source.scheme,
        priority: source.priority,
        weight: source.weight,
    });
    DomainDetail {
        name: view.row.name.to_string(),
        // Users' DNS is the operator's: we have no name that it could point to.
        cname: String::new(),
        kind: CdnType::named(&view.row.detail.business),
        coverage: view.domain.coverage,
        status: status(view),
        description: view.row.blocked.clone(),
        sources: sources.collect(),
        tag_header: view.domain.tag_header.clone(),
        tls: view
            .certificate
            .as_ref()
            .map(|certificate| DomainTls { name: certificate.name.clone(), chain: String::new() }),
        created_at: time(view.row.created_ms),
        modified_at: time(view.row.modified_ms),
    }
}

/// The state of a domain as users see it. Domains are not reviewed, and a configuration cannot fail on its way to
/// nodes, so two of the vendor's states do not occur: `checking` and `configure_failed`.
fn status(view: &DomainView) -> DomainStatus {
    let row = &view.row;
    match (row.doing, row.configured, view.domain.online) {
        (Doing::Deleting, _, _) => DomainStatus::Deleting,
        _ if !row.blocked.is_empty() => DomainStatus::CheckFailed,
        (Doing::Stopping, false, _) => DomainStatus::Stopping,
        (Doing::Configuring, false, _) => DomainStatus::Configuring,
        (_, true, true) => DomainStatus::Online,
        (_, true, false) => DomainStatus::Offline,
    }
}

/// Whether every filter of the query matches; `labelled` are the domains with the requested labels.
fn matches(query: &DomainQuery, labelled: Option<&BTreeSet<String>>, domain: &DomainDetail) -> bool {
    let name = query.name.as_ref().is_none_or(|(part, how)| match how {
        SearchType::Contains => domain.name.contains(part.as_str()),
        SearchType::Prefix => domain.name.starts_with(part.as_str()),
        SearchType::Suffix => domain.name.ends_with(part.as_str()),
        SearchType::Whole => domain.name == *part,
    });
    let checked = !matches!(domain.status, DomainStatus::CheckFailed);
    name && !query.elsewhere
        && labelled.is_none_or(|labelled| labelled.contains(&domain.name))
        && (checked || query.with_checking || query.status.is_some())
        && query.status.is_none_or(|status| status == domain.status)
        && (query.kinds.is_empty() || domain.kind.is_some_and(|kind| query.kinds.contains(&kind)))
        && query.coverage.is_none_or(|coverage| coverage == domain.coverage)
        && query.source.as_ref().is_none_or(|content| domain.sources.iter().any(|source| source.content == *content))
        && query.changed_from.is_none_or(|from| domain.modified_at >= from)
        && query.changed_until.is_none_or(|until| domain.modified_at < until)
}
