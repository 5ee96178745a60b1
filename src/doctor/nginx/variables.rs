//! What nginx's variables are for a WebSocket handshake, as far as the configuration tells.
//!
//! Owns `set`, `map`, and the two headers of the client that matter. A variable that only the request
//! can tell stays as it is written.

use std::cell::Cell;
use std::collections::HashMap;

use super::locations::matches;
use crate::doctor::files::Node;
use crate::doctor::report::Place;

/// The most values that are followed.
const MAX_VALUES: usize = 16;
/// How deep variables may refer to others.
const MAX_DEPTH: usize = 6;
/// The longest value, in bytes.
const MAX_LENGTH: usize = 4096;
/// The most variables that are looked up for one word.
const MAX_LOOKUPS: usize = 50;

/// The variables of one server.
pub(super) struct Variables<'a> {
    /// What `set` gives each, in any block of the server.
    set: HashMap<&'a str, Vec<&'a str>>,
    maps: HashMap<&'a str, &'a Node>,
    /// How many look-ups are left for the word at hand.
    left: Cell<usize>,
}

impl<'a> Variables<'a> {
    /// Those that the blocks of a server set, at any depth, and those mapped beside it.
    pub(super) fn new(server: &'a [Node], http: &'a [Node]) -> Self {
        let maps = http.iter().filter(|node| node.name == "map");
        let maps = maps.filter_map(|node| Some((node.arg(1).strip_prefix('$')?, node)));
        let mut set = HashMap::new();
        collect(server, &mut set);
        Self { set, maps: maps.collect(), left: Cell::new(0) }
    }

    /// Everything that a word can be.
    pub(super) fn values(&self, word: &str) -> Vec<String> {
        self.left.set(MAX_LOOKUPS);
        self.expanded(word, 0)
    }

    fn expanded(&self, word: &str, depth: usize) -> Vec<String> {
        let mut begun = vec![String::new()];
        let mut rest = word;
        while let Some((before, name, after)) = next_variable(rest) {
            let values = self.variable(name, depth);
            let longer = |text: &String| -> Vec<String> {
                values.iter().map(|value| [text, before, value].concat()).collect()
            };
            begun = begun.iter().flat_map(longer).take(MAX_VALUES).collect();
            begun.retain(|text| text.len() <= MAX_LENGTH);
            rest = after;
        }
        begun.into_iter().map(|text| text + rest).collect()
    }

    fn variable(&self, name: &str, depth: usize) -> Vec<String> {
        let as_written = || vec![format!("${name}")];
        match name {
            "http_upgrade" => return vec!["websocket".to_owned()],
            "http_connection" => return vec!["Upgrade".to_owned()],
            _ if depth == MAX_DEPTH || self.left.get() == 0 => return as_written(),
            _ => self.left.set(self.left.get() - 1),
        }
        if let Some(map) = self.maps.get(name) {
            return self.mapped(map, depth);
        }
        let set = self.set.get(name).into_iter().flatten();
        let values = set.flat_map(|value| self.expanded(value, depth + 1));
        let values: Vec<_> = values.take(MAX_VALUES).collect();
        if values.is_empty() { as_written() } else { values }
    }

    /// What a map makes of its source: one value if that is known, otherwise any.
    fn mapped(&self, map: &Node, depth: usize) -> Vec<String> {
        let sources = self.expanded(map.arg(0), depth + 1);
        let is_special = |node: &&Node| ["hostnames", "volatile"].contains(&&*node.name);
        let entries = || map.children().iter().filter(|node| !is_special(node));
        let chosen: Vec<&str> = match &sources[..] {
            [source] if !source.contains('$') => {
                let exact = entries().find(|it| it.name.eq_ignore_ascii_case(source));
                let regex = || entries().find(|it| fits(&it.name, source));
                let default = || entries().find(|it| it.name == "default");
                vec![exact.or_else(regex).or_else(default).map_or("", |node| node.arg(0))]
            }
            _ => entries().map(|node| node.arg(0)).take(MAX_VALUES).collect(),
        };
        let values = chosen.into_iter().flat_map(|value| self.expanded(value, depth + 1));
        values.take(MAX_VALUES).collect()
    }

    /// The map that a word is a variable of, and the line that it lacks if it has no default.
    pub(super) fn map_of(&self, word: &str) -> Option<(Place, &'static str)> {
        let map = self.maps.get(word.strip_prefix('$')?)?;
        Some((map.place.clone(), "default upgrade;"))
    }
}

fn collect<'a>(nodes: &'a [Node], set: &mut HashMap<&'a str, Vec<&'a str>>) {
    for node in nodes {
        if let ("set", Some(name)) = (&*node.name, node.arg(0).strip_prefix('$')) {
            set.entry(name).or_default().push(node.arg(1));
        }
        collect(node.children(), set);
    }
}

/// Whether a key of a map is a regular expression that matches.
fn fits(key: &str, source: &str) -> bool {
    key.strip_prefix('~').is_some_and(|pattern| {
        let any_case = pattern.starts_with('*');
        matches(pattern.trim_start_matches('*'), any_case, source)
    })
}

/// What precedes the first variable, its name, and what follows it.
fn next_variable(text: &str) -> Option<(&str, &str, &str)> {
    let is_of_a_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let mut from = 0;
    while let Some(at) = text[from..].find('$').map(|at| at + from) {
        let rest = &text[at + 1..];
        if let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            return Some((&text[..at], name, after));
        }
        let end = rest.find(|char| !is_of_a_name(char)).unwrap_or(rest.len());
        if end > 0 {
            return Some((&text[..at], &rest[..end], &rest[end..]));
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::doctor::nginx::parse;

    #[test]
    fn a_variable_is_what_a_handshake_makes_of_it() {
        let map = |block: &str| format!("map $http_upgrade $c {{ {block} }}");
        for (text, word, expected) in [
            (map("default upgrade; '' close;"), "$c", &["upgrade"][..]),
            (map("'' close;"), "$c", &[""]),
            (map("~*^web upgrade; default close;"), "x${c}", &["xupgrade"]),
            (map("websocket $http_connection;"), "$c", &["Upgrade"]),
            ("set $b 127.0.0.1; set $d $b:1;".to_owned(), "http://$d/", &["http://127.0.0.1:1/"]),
            ("map $host $b { a 1; default 2; }".to_owned(), "$b", &["1", "2"]),
            ("set $a $b; set $b $a;".to_owned(), "$a", &["$a"]),
            (String::new(), "$host$", &["$host$"]),
        ] {
            let nodes = parse(&text, Path::new("x"));
            let variables = Variables::new(&nodes, &nodes);
            assert_eq!(variables.values(word), expected, "{word} in {text}");
        }
    }
}
