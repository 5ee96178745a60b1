//! Which location takes a path.
//!
//! Owns the kinds of locations and their order. It does not know what is in them.
//!
//! Source: ngx_http_core_module, `location`.

use std::collections::HashMap;

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

/// The locations of a block, by how they are found.
pub(super) struct Locations<'a> {
    exact: HashMap<&'a str, &'a Node>,
    prefixes: HashMap<&'a str, (Kind, &'a Node)>,
    /// In their order, each with whether it ignores case.
    regexes: Vec<(&'a str, bool, &'a Node)>,
}

impl<'a> Locations<'a> {
    pub(super) fn of(nodes: &'a [Node]) -> Self {
        let (mut exact, mut prefixes) = (HashMap::new(), HashMap::new());
        let mut regexes = Vec::new();
        for node in nodes.iter().filter(|node| node.name == "location") {
            match kind(node) {
                (Kind::Exact, path) => {
                    exact.entry(path).or_insert(node);
                }
                (kind @ (Kind::Prefix | Kind::Final), prefix) => {
                    prefixes.insert(prefix, (kind, node));
                }
                (Kind::Regex, pattern) => regexes.push((pattern, false, node)),
                (Kind::AnyCase, pattern) => regexes.push((pattern, true, node)),
                (Kind::Named, _) => {}
            }
        }
        Self { exact, prefixes, regexes }
    }

    /// The location that takes a path.
    pub(super) fn select(&self, path: &str) -> Option<&'a Node> {
        let inner = |node: &'a Node| Locations::of(node.children()).select(path);
        if let Some(node) = self.exact.get(path) {
            return Some(node);
        }
        let mut lengths = (0..=path.len()).rev();
        let longest = lengths.find_map(|length| self.prefixes.get(path.get(..length)?)).copied();
        if let Some((kind, node)) = longest {
            let inner = inner(node);
            if inner.is_some() || kind == Kind::Final {
                return inner.or(Some(node));
            }
        }
        let mut regexes = self.regexes.iter();
        match regexes.find(|(pattern, any_case, _)| matches(pattern, *any_case, path)) {
            Some((_, _, node)) => inner(node).or(Some(node)),
            None => longest.map(|(_, node)| node),
        }
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
            let chosen =
                Locations::of(&nodes).select(path).and_then(|node| node.children().first());
            assert_eq!(chosen.map_or("", |node| &node.name), expected, "{path}");
        }
    }
}
