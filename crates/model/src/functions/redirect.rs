//! Rewrites and redirects of requested URLs: another URL of the same site is served instead, or the user is redirected.

use super::args::{Args, BadArgument};
use super::rewrite::Rewrite;

/// Longest target, in bytes.
const TARGET_BYTES_MAX: usize = 1024;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlRule {
    /// The URLs it matches, and what they become.
    pub rewrite: Rewrite,
    /// The status of the redirect; `None` for a rewrite, which serves the target itself.
    pub status: Option<u16>,
}

/// The redirect for a request for `path`, which has a query and no signature: its status and location, a path or a URL
/// of another site. A redirect to `path` itself is skipped, as it would loop.
pub fn sent_to(rules: &[UrlRule], path: &str) -> Option<(u16, String)> {
    let mut visited = path.to_owned();
    for rule in rules {
        let Some(made) = rule.rewrite.of(&visited) else { continue };
        match rule.status {
            Some(status) if made != path => return Some((status, made)),
            Some(_) => {}
            None => {
                visited = if made.starts_with('/') { made } else { format!("/{made}") };
                if rule.rewrite.is_last() {
                    break;
                }
            }
        }
    }
    None
}

/// Reads host_redirect.
pub(super) fn rule(args: &Args<'_>) -> Result<UrlRule, BadArgument> {
    args.only(&["regex", "replacement", "flag", "rewrite_method"])?;
    let source = args.required("regex", "a regular expression")?;
    let (with_query, last, sends) = match args.get("flag") {
        None | Some("null") => (false, false, false),
        Some("break") => (false, true, false),
        Some("enhance_break") => (true, true, false),
        Some("redirect") => (false, false, true),
        Some("enhance_redirect") => (true, false, true),
        Some(_) => {
            let expected = "break, redirect, enhance_break, enhance_redirect, or nothing";
            return Err(BadArgument::Value { name: "flag", expected });
        }
    };
    let status = match args.get("rewrite_method") {
        None => 302,
        Some(_) => match args.one_of("rewrite_method", &["302", "303", "307"])? {
            "303" => 303,
            "307" => 307,
            _ => 302,
        },
    };
    let expected = match sends {
        true => "a path that begins with /, or an http or https URL",
        false => "a path that begins with / and has no fragment",
    };
    let target = args.required("replacement", expected)?;
    let away = sends && (target.starts_with("http://") || target.starts_with("https://"));
    let plain = target.len() <= TARGET_BYTES_MAX && target.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain || !(away || target.starts_with('/')) || (!sends && target.contains('#')) {
        return Err(BadArgument::Value { name: "replacement", expected });
    }
    let rewrite = Rewrite::new("regex", source, target, with_query, last, true)?;
    Ok(UrlRule { rewrite, status: sends.then_some(status) })
}
