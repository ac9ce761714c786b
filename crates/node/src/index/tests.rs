//! The index compared with the model's definitions. Variants of an object share its key, so entries apply to all of
//! them alike; objects are stored whole here, so slices play no part.

use http::HeaderValue;
use model::{Coverage, Pattern, Tag};
use proptest::prelude::*;

use super::regexes::PER_HOST_MAX;
use super::*;

const HOSTS: [&str; 3] = ["a.com", "b.com", "x.a.com"];
const PATHS: [&str; 10] = ["/", "/d/", "/d/e/", "/d/e/f", "/d/e?q=/d/", "/de/f", "/d", "/d/e/f?x", "/d?1", "/d/e/7?"];
const REGEXES: [&str; 8] = ["/.*", "/d.*", "/d/[^/]*", "/[^/]*/e/.*", "/d/e/[0-9].*", "/[a-z]", "/d?[0-9]", "/none"];
const DOMAINS: [&str; 3] = ["a.com", "b.com", ".a.com"];
const TAGS: [&str; 3] = ["t", "u", "v"];
const HEADERS: [Option<&str>; 2] = [None, Some("x-tags")];

fn domain(name: &str, tag_header: Option<&str>) -> Domain {
    let tag_header = tag_header.map(str::to_owned);
    Domain {
        name: DomainName::parse(name).unwrap(),
        coverage: Coverage::Global,
        sources: Vec::new(),
        online: true,
        tag_header,
        functions: model::Functions::default(),
    }
}

fn one_of<T: Clone + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(all)
}

fn scope() -> impl Strategy<Value = Scope> {
    let key = |host: &str, path: &str| UrlKey::new(host, path).unwrap();
    prop_oneof![
        (one_of(&HOSTS), one_of(&PATHS)).prop_map(move |(host, path)| Scope::File(key(host, path))),
        (one_of(&HOSTS), one_of(&["/", "/d/", "/d/e/"]))
            .prop_map(|(host, path)| Scope::Directory { host: host.into(), path: path.into() }),
        (one_of(&HOSTS), one_of(&PATHS)).prop_map(move |(host, path)| Scope::IgnoreParams {
            host: host.into(),
            path: key(host, path).path().into()
        }),
        (one_of(&HOSTS), one_of(&REGEXES))
            .prop_map(move |(host, path)| Scope::Regex(Pattern::parse(key(host, path)).unwrap())),
        (one_of(&DOMAINS), one_of(&TAGS)).prop_map(|(name, tag)| Scope::Tag {
            domain: DomainName::parse(name).unwrap(),
            tag: Tag::parse(tag).unwrap()
        }),
        one_of(&DOMAINS).prop_map(|name| Scope::Domain(DomainName::parse(name).unwrap())),
    ]
}

fn invalidation() -> impl Strategy<Value = Invalidation> {
    (scope(), one_of(&[Mode::Expire, Mode::Delete])).prop_map(|(scope, mode)| Invalidation { scope, mode })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        8 => prop::collection::vec(invalidation(), 1..4).prop_map(Entry::Invalidate),
        1 => one_of(&DOMAINS).prop_map(|name| Entry::DomainRemoved(DomainName::parse(name).unwrap())),
        1 => (one_of(&DOMAINS), one_of(&HEADERS)).prop_map(|(name, header)| Entry::Domain(domain(name, header))),
        1 => Just(Entry::Settings(model::Settings::default())),
    ]
}

/// The headers of a body: tags under either name; sometimes more than are told apart.
fn headers() -> impl Strategy<Value = Option<HeaderMap>> {
    let tags = prop::collection::vec((one_of(&["cache-tag", "surrogate-key", "x-tags"]), one_of(&TAGS)), 0..4);
    let headers = (tags, prop::bool::weighted(0.1)).prop_map(|(tags, many)| {
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, tag) in tags {
            headers.append(name, HeaderValue::from_static(tag));
        }
        if many {
            let value = "w,".repeat(model::tags::TAGS_PER_OBJECT_MAX + 1);
            headers.append("x-tags", HeaderValue::from_str(&value).unwrap());
        }
        headers
    });
    prop::option::weighted(0.9, headers)
}

/// How an entry covers a body by the model's definitions alone: the strongest mode, if any.
fn covers(entry: &Entry, before: Option<&Domain>, name: &DomainName, key: &UrlKey, tags: &Tags<'_>) -> Option<Mode> {
    match entry {
        Entry::Invalidate(all) => {
            let covering: Vec<Mode> =
                all.iter().filter(|one| one.scope.covers(name, key, tags)).map(|one| one.mode).collect();
            let any = covering.first().copied();
            if covering.contains(&Mode::Delete) { Some(Mode::Delete) } else { any }
        }
        Entry::DomainRemoved(removed) => removed.serves(key.host()).then_some(Mode::Delete),
        Entry::Domain(changed) => {
            let recast = before.is_none_or(|before| before.tag_header != changed.tag_header);
            (changed.name == *name && recast).then_some(Mode::Expire)
        }
        _ => None,
    }
}

/// An entry, and the earlier state of the domain it changes.
type Logged<'a> = (Revision, &'a Entry, Option<Domain>);

/// The log, with the earlier state of each domain that an entry changes, and the knowledge it adds up to.
fn with_before(log: &[Entry]) -> (Vec<Logged<'_>>, model::Knowledge) {
    let mut known = model::Knowledge::default();
    let mut all = Vec::new();
    for (revision, entry) in (1..).map(Revision).zip(log) {
        let before = match entry {
            Entry::Domain(domain) => known.domain(domain.name.as_str()).cloned(),
            _ => None,
        };
        all.push((revision, entry, before));
        known.apply(entry);
    }
    (all, known)
}

proptest! {
    #[test]
    fn index_agrees_with_looking_at_every_entry(
        log in prop::collection::vec(entry(), 0..30),
        looked_at in 0..30_usize,
        forgotten in 0..35_u64,
        stamp in (0..35_u64).prop_map(Revision),
        headers in headers(),
    ) {
        let index = Index::new(Revision::ZERO);
        let (log, known) = with_before(&log);
        let bodies = [("a.com", "a.com"), ("b.com", "b.com"), ("x.a.com", ".a.com")];
        let bodies = || bodies.iter().flat_map(|(host, name)| PATHS.iter().map(move |path| (UrlKey::new(host, path).unwrap(), *name)));
        for (at, (revision, entry, before)) in log.iter().enumerate() {
            index.add(*revision, entry, before.as_ref());
            if at == looked_at {
                // Results remembered here must not stand in for later entries.
                bodies().for_each(|(key, name)| {
                    index.need(Some(&domain(name, None)), &key, About::Body { stamp: Revision::ZERO, headers: None });
                });
            }
        }
        let floor = Revision(forgotten.min(log.len() as u64));
        index.forget(floor);
        for (key, name) in bodies() {
            let domain = known.domain(name).cloned().unwrap_or_else(|| domain(name, None));
            let tags = headers.as_ref().map_or(Tags::Any, |headers| Tags::of(headers, domain.tag_header.as_deref()));
            let covering: Vec<(Revision, Mode)> = log.iter().filter_map(|(revision, entry, before)| {
                Some((*revision, covers(entry, before.as_ref(), &domain.name, &key, &tags)?))
            }).collect();
            let newest = covering.iter().map(|(revision, _)| *revision).max();
            let need = index.need(Some(&domain), &key, About::Body { stamp, headers: headers.as_ref() });
            prop_assert_eq!(need.revision.max(stamp), fence::need(floor, newest).max(stamp), "{} {:?}", key, tags);
            let kept = covering.iter().any(|(at, mode)| *at > floor && *at > stamp && *mode == Mode::Delete);
            let all = covering.iter().any(|(at, mode)| *at > stamp && *mode == Mode::Delete);
            let says = need.mode(stamp) == Mode::Delete;
            // Forgotten entries may or may not still say *delete*; kept ones must.
            prop_assert!(says >= kept && says <= all, "{:?} {} {} {}", need, says, kept, all);

            // A fetch needs whatever could cover its response: any tag of the domain, and any regex of the host.
            let could_cover = |entry: &Entry, before: Option<&Domain>| match entry {
                Entry::Invalidate(all) => all.iter().any(|one| match &one.scope {
                    Scope::Regex(pattern) => pattern.host() == key.host(),
                    scope => scope.covers(&domain.name, &key, &Tags::Any),
                }),
                entry => covers(entry, before, &domain.name, &key, &Tags::Any).is_some(),
            };
            let newest = log.iter().filter(|(_, entry, before)| could_cover(entry, before.as_ref())).map(|(at, ..)| *at).max();
            let fetch = index.need(Some(&domain), &key, About::Fetch).revision;
            prop_assert_eq!(fetch, fence::need(floor, newest), "fetch of {}", key);
            prop_assert!(fetch >= need.revision, "a fetch that reaches it may bring a body that passes");
        }
    }

    #[test]
    fn regexes_without_room_are_kept_as_refreshes_of_their_host(
        more in 1..20_u64,
        stamp in (0..100_u64).prop_map(Revision),
        delete in 0..100_u64,
    ) {
        let index = Index::new(Revision::ZERO);
        let count = PER_HOST_MAX as u64 + more;
        for at in 1..=count {
            let pattern = Pattern::parse(UrlKey::new("a.com", &format!("/{at}/.*")).unwrap()).unwrap();
            let mode = if at == delete { Mode::Delete } else { Mode::Expire };
            let one = Invalidation { scope: Scope::Regex(pattern), mode };
            index.add(Revision(at), &Entry::Invalidate(vec![one]), None);
        }
        let domain = domain("a.com", None);
        for at in [1, more, more + 1, count, count + 1] {
            let key = UrlKey::new("a.com", &format!("/{at}/x")).unwrap();
            let need = index.need(Some(&domain), &key, About::Body { stamp, headers: None });
            let truth = Revision(if at <= count { at } else { 0 });
            let folded = Revision(more);
            prop_assert_eq!(need.revision.max(stamp), truth.max(folded).max(stamp), "{}", at);
            if Revision(delete) > stamp && (delete <= more || delete == at) && delete <= count {
                prop_assert_eq!(need.mode(stamp), Mode::Delete);
            }
        }
        let live: Vec<_> = index.kinds().into_iter().filter(|(_, live)| *live > 0).collect();
        prop_assert_eq!(live, [("kind=\"directory\"", 1), ("kind=\"regex\"", PER_HOST_MAX)]);
    }
}

#[test]
fn restart_forgets_a_higher_floor() {
    let index = Index::new(Revision(1_000));
    let scopes = [
        Scope::Directory { host: "a.com".into(), path: "/".into() },
        Scope::Regex(Pattern::parse(UrlKey::new("a.com", "/.*").unwrap()).unwrap()),
        Scope::Tag { domain: DomainName::parse("a.com").unwrap(), tag: Tag::parse("t").unwrap() },
    ];
    let all = scopes.map(|scope| Invalidation { scope, mode: Mode::Expire });
    index.add(Revision(1_001), &Entry::Invalidate(all.into()), None);
    let (domain, key) = (domain("a.com", None), UrlKey::new("a.com", "/x").unwrap());
    let about = About::Body { stamp: Revision::ZERO, headers: None };
    assert_eq!(index.need(Some(&domain), &key, about).revision, Revision(1_001));
    index.restart(Revision(3));
    assert_eq!((index.need(Some(&domain), &key, about).revision, index.len()), (Revision(3), 0));
}

#[test]
fn long_keys_are_found_like_short_ones() {
    let index = Index::new(Revision::ZERO);
    let domain = domain("a.com", None);
    for (at, length) in (1..).zip([1, KEY_BYTES_INLINE - 8, KEY_BYTES_INLINE, 4 * KEY_BYTES_INLINE]) {
        let name = "x".repeat(length);
        let file = UrlKey::new("a.com", &format!("/f/{name}")).unwrap();
        let below = UrlKey::new("a.com", &format!("/{name}/{name}")).unwrap();
        let directory = Scope::Directory { host: "a.com".into(), path: format!("/{name}/") };
        let scopes = [Scope::File(file.clone()), directory];
        let entry = scopes.map(|scope| Invalidation { scope, mode: Mode::Expire }).to_vec();
        index.add(Revision(at), &Entry::Invalidate(entry), None);
        let need = |key: &UrlKey| index.need(Some(&domain), key, About::Fetch).revision;
        assert_eq!(need(&file), Revision(at), "a file of {length}");
        assert_eq!(need(&below), Revision(at), "in a directory of {length}");
    }
}
