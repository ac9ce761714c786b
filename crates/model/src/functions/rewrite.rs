//! Rules that rewrite paths, and the paths that they can produce from those of a directory.
//!
//! # What always holds
//!
//! - What [`reached`] returns covers every path that the rules make of the paths in question; it may cover more.

use regex::bytes::Regex;

use super::args::BadArgument;
use super::headers::{MADE_BYTES_MAX, expand, expression, replaced, replacement};
use crate::key::UrlKey;

/// One rule that rewrites a path.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// The expression to find.
    source: Regex,
    /// The replacement; groups are written with delimiters, `${1}`.
    target: String,
    /// The query is matched as well.
    with_query: bool,
    /// Later rules are not tried if it matches.
    last: bool,
    /// The target replaces the whole path, not only the match.
    whole: bool,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Rewrite) -> bool {
        self.source.as_str() == other.source.as_str() && self.name() == other.name()
    }
}

impl Eq for Rewrite {}

/// A set of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// All paths with this prefix, which ends in `/`.
    Below(String),
    /// This path, with any query.
    Path(String),
}

impl Area {
    /// The deepest directory that contains every path starting with `text`.
    pub(super) fn holding(text: &str) -> Area {
        let directory = text.rfind('/').and_then(|at| text.get(..=at)).unwrap_or("/");
        Area::Below(directory.to_owned())
    }
}

impl Rewrite {
    /// A rule with `source`, the value of `argument`, and `target`, both as configured.
    pub(super) fn new(
        argument: &'static str,
        source: &str,
        target: &str,
        with_query: bool,
        last: bool,
        whole: bool,
    ) -> Result<Rewrite, BadArgument> {
        let source = expression(source, argument)?;
        Ok(Rewrite { source, target: replacement(target), with_query, last, whole })
    }

    /// A textual identity of the rule, which must not change between versions.
    pub(super) fn name(&self) -> String {
        let flags = (self.with_query, self.last, self.whole);
        format!("{:?} {:?} {flags:?}", self.source.as_str(), self.target)
    }

    /// Rewrites a path with its query; `None` if the rule does not match, or the result would be too long.
    pub fn of(&self, path: &str) -> Option<String> {
        let (looked_at, query) = match path.split_once('?') {
            Some((bare, query)) if !self.with_query => (bare, Some(query)),
            _ => (path, None),
        };
        let found = self.source.captures(looked_at.as_bytes())?;
        let mut made = Vec::new();
        if self.whole {
            expand(&found, &self.target, &mut made, MADE_BYTES_MAX)?;
        } else {
            made = replaced(&self.source, &self.target, false, looked_at.as_bytes())?;
        }
        // The path of a key is ASCII, and so is a target.
        let made = String::from_utf8_lossy(&made);
        let made = match query {
            Some(query) => format!("{made}{}{query}", if made.contains('?') { '&' } else { '?' }),
            None => made.into_owned(),
        };
        (made.len() <= MADE_BYTES_MAX.max(path.len())).then_some(made)
    }

    /// Whether later rules are skipped if it matches.
    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// Whether the rule obviously matches at the first byte or not at all.
    fn is_anchored(&self) -> bool {
        let rest = self.source.as_str().strip_prefix('^');
        rest.is_some_and(|rest| !rest.contains('|') && !rest.starts_with(['*', '?', '{']))
    }

    /// A prefix of every path that the rule can match, as far as it is obvious; empty if none is.
    fn lead(&self) -> &str {
        let Some(source) = self.source.as_str().strip_prefix('^').filter(|_| self.is_anchored()) else { return "" };
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'~' | b'%');
        let mut end = source.bytes().take_while(plain).count();
        // A quantifier after the last character may make that character optional.
        if source.as_bytes().get(end).is_some_and(|byte| matches!(byte, b'*' | b'?' | b'{')) {
            end = end.saturating_sub(1);
        }
        source.get(..end).unwrap_or("")
    }

    /// Whether the rule may match a path in `area`.
    fn may_speak_of(&self, area: &Area) -> bool {
        let lead = self.lead();
        match area {
            Area::Below(directory) => directory.starts_with(lead) || lead.starts_with(directory.as_str()),
            Area::Path(path) => path.starts_with(lead),
        }
    }

    /// A set that contains every path the rule can produce.
    fn makes(&self) -> Area {
        let source = self.source.as_str();
        if !self.whole && !self.is_anchored() {
            return Area::Below("/".to_owned());
        }
        let (mut literal, mut has_groups, mut rest) = (String::from("/"), false, self.target.as_str());
        rest = rest.strip_prefix('/').unwrap_or(rest);
        while let Some(at) = rest.find('$') {
            let (before, after) = rest.split_at(at);
            literal.push_str(before);
            match after.strip_prefix("$$") {
                Some(after) => {
                    literal.push('$');
                    rest = after;
                }
                None => {
                    has_groups = true;
                    rest = "";
                }
            }
        }
        literal.push_str(rest);
        if let Some((path, _)) = literal.split_once('?') {
            return Area::Path(path.to_owned());
        }
        let ends = self.whole || (source.ends_with('$') && !source.ends_with("\\$"));
        if ends && !has_groups { Area::Path(literal) } else { Area::holding(&literal) }
    }
}

/// Applies `rules` one after another to a path with its query.
pub(super) fn rewritten(rules: &[Rewrite], path: &str) -> String {
    let mut path = path.to_owned();
    for rule in rules {
        let Some(made) = rule.of(&path) else { continue };
        path = made;
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        if rule.is_last() {
            break;
        }
    }
    path
}

/// The areas that `rules` may move paths of `from` to; paths that stay in place are not included.
pub(super) fn reached<'a>(rules: impl Iterator<Item = &'a Rewrite>, from: &Area) -> Vec<Area> {
    let mut areas = Vec::new();
    for rule in rules {
        if rule.may_speak_of(from) || areas.iter().any(|area| rule.may_speak_of(area)) {
            let made = normalised(rule.makes());
            if !areas.contains(&made) {
                areas.push(made);
            }
        }
    }
    areas
}

/// Normalised as in keys.
fn normalised(area: Area) -> Area {
    let path =
        |path: &str| UrlKey::new("a", path).map_or_else(|_| path.to_owned(), |key| key.path_and_query().to_owned());
    match area {
        Area::Below(directory) => Area::Below(path(&directory)),
        Area::Path(one) => Area::Path(path(&one)),
    }
}
