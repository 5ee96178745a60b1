//! Which location takes a path.
//!
//! Owns the kinds of locations and their order. It does not know what is in them.
//!
//! Source: ngx_http_core_module, `location`.

use regex_lite::RegexBuilder;

use crate::doctor::files::Node;

/// How a location compares.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `=`
    Exact,
    Prefix,
    /// `^~`: no regular expression after it.
    Final,
    /// `~`
    Regex,
    /// `~*`
    AnyCase,
    /// `@`
    Named,
}

pub(super) fn kind(location: &Node) -> (Kind, &str) {
    match location.arg(0) {
        "=" => (Kind::Exact, location.arg(1)),
        "^~" => (Kind::Final, location.arg(1)),
        "~" => (Kind::Regex, location.arg(1)),
        "~*" => (Kind::AnyCase, location.arg(1)),
        name if name.starts_with('@') => (Kind::Named, name),
        // Without the space that separates them.
        text => match text.split_at_checked(1) {
            Some(("=", rest)) => (Kind::Exact, rest),
            Some(("^", rest)) if rest.starts_with('~') => (Kind::Final, &rest[1..]),
            Some(("~", rest)) if rest.starts_with('*') => (Kind::AnyCase, &rest[1..]),
            Some(("~", rest)) => (Kind::Regex, rest),
            _ => (Kind::Prefix, text),
        },
    }
}

/// Whether a regular expression matches; what only PCRE understands is taken to do so.
pub(super) fn matches(pattern: &str, any_case: bool, text: &str) -> bool {
    let regex = RegexBuilder::new(pattern).case_insensitive(any_case).size_limit(1 << 20).build();
    regex.map_or(true, |regex| regex.is_match(text))
}

/// The location that takes a path.
pub(super) fn select<'a>(nodes: &'a [Node], path: &str) -> Option<&'a Node> {
    let locations = || nodes.iter().filter(|node| node.name == "location");
    let of = |node: &'a Node| (node, kind(node));
    if let Some((node, _)) = locations().map(of).find(|(_, it)| it.0 == Kind::Exact && it.1 == path)
    {
        return Some(node);
    }
    let prefixes = locations().map(of).filter(|(_, (kind, prefix))| {
        matches!(kind, Kind::Prefix | Kind::Final) && path.starts_with(prefix)
    });
    let longest = prefixes.max_by_key(|(_, (_, prefix))| prefix.len());
    if let Some((node, (kind, _))) = longest {
        let inner = select(node.children(), path);
        if inner.is_some() || kind == Kind::Final {
            return inner.or(Some(node));
        }
    }
    let regex = locations().map(of).find(|(_, (kind, pattern))| match kind {
        Kind::Regex | Kind::AnyCase => matches(pattern, *kind == Kind::AnyCase, path),
        _ => false,
    });
    match regex {
        Some((node, _)) => select(node.children(), path).or(Some(node)),
        None => longest.map(|(node, _)| node),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::doctor::nginx::parse;

    #[test]
    fn the_location_is_the_one_that_nginx_would_take() {
        let text = "location / { 1; } location = /a { 2; } location /a { 3; } location ^~ /b { 4; }
            location ~ ^/(b|c)$ { 5; } location ~*D { 6; } location /e { location /e/f { 7; } }
            location /c/ { 8; }";
        let nodes = parse(text, Path::new("x"));
        for (path, expected) in [
            ("/", "1"),
            ("/a", "2"),
            ("/ab", "3"),
            ("/b", "4"),
            ("/c", "5"),
            ("/xd", "6"),
            ("/e/f/g", "7"),
            ("/c/x", "8"),
            ("x", ""),
        ] {
            let chosen = select(&nodes, path).and_then(|node| node.children().first());
            assert_eq!(chosen.map_or("", |node| &node.name), expected, "{path}");
        }
    }
}
