//! Configuration files that include others: directives in blocks, each with its file and line.
//!
//! Owns what nginx and Apache have in common: the tree, patterns in the names of files, and the
//! bounds on size and depth. It does not know a syntax.

use std::io;
use std::path::{Path, PathBuf};

use super::host;
use super::report::Place;

/// The most files that one configuration may have.
const MAX_FILES: usize = 2_000;
/// The most bytes in all of them.
const MAX_BYTES: usize = 16 << 20;
/// The most files that are said not to be readable.
const MAX_UNREAD: usize = 20;
/// How deep includes may nest.
pub(super) const MAX_INCLUDES: usize = 10;
/// How deep blocks may nest; what is deeper is left out.
pub(super) const MAX_BLOCKS: usize = 40;
/// The most directives of one file; what comes after them is left out.
const MAX_DIRECTIVES: usize = 100_000;
/// The most names that are looked at in one folder, and that fit one pattern.
const MAX_NAMES: usize = 10_000;
/// The most folders that are looked into for one pattern.
const MAX_FOLDERS: usize = 1_000;

/// A directive, with what is in its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What follows the name.
    pub args: Vec<String>,
    /// Where it begins.
    pub place: Place,
    /// The directives in its block, if it has one.
    pub block: Option<Vec<Node>>,
}

impl Node {
    /// An argument, or nothing.
    #[must_use]
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", |arg| arg)
    }

    /// The directives in its block.
    #[must_use]
    pub fn children(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Whether it has this name, in any case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Collects the directives of a text; the syntax says where blocks begin and end.
pub(super) struct Builder {
    open: Vec<Node>,
    top: Vec<Node>,
    /// Blocks that are open and left out.
    ignored: usize,
    count: usize,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), top: Vec::new(), ignored: 0, count: 0 }
    }

    pub(super) fn add(&mut self, node: Node) {
        self.count += 1;
        if self.ignored == 0 && self.count <= MAX_DIRECTIVES {
            let list = self.open.last_mut().and_then(|open| open.block.as_mut());
            list.unwrap_or(&mut self.top).push(node);
        }
    }

    pub(super) fn open(&mut self, node: Node) {
        if self.ignored > 0 || self.open.len() == MAX_BLOCKS {
            self.ignored += 1;
        } else {
            self.open.push(Node { block: Some(Vec::new()), ..node });
        }
    }

    pub(super) fn close(&mut self) {
        if self.ignored > 0 {
            self.ignored -= 1;
        } else if let Some(node) = self.open.pop() {
            self.add(node);
        }
    }

    /// All directives; blocks that are still open end here.
    pub(super) fn finish(mut self) -> Vec<Node> {
        self.ignored = 0;
        while !self.open.is_empty() {
            self.close();
        }
        self.top
    }
}

/// Reads the files of one configuration, and remembers those that it could not read.
#[derive(Debug, Default)]
pub struct Files {
    count: usize,
    bytes: usize,
    /// The first files that could not be read, and why.
    pub unread: Vec<(PathBuf, String)>,
}

impl Files {
    /// The text of a file; empty if it cannot be read.
    pub(super) fn read(&mut self, path: &Path) -> String {
        self.count += 1;
        let read = if self.count > MAX_FILES || self.bytes > MAX_BYTES {
            Err(io::Error::other("the configuration is larger than what is read"))
        } else {
            host::read(path)
        };
        match read {
            Ok(text) => {
                self.bytes += text.len();
                text
            }
            Err(error) => {
                if self.unread.len() < MAX_UNREAD {
                    self.unread.push((path.to_path_buf(), error.to_string()));
                }
                String::new()
            }
        }
    }
}

/// The files that a pattern names, in the order in which both programs read them.
pub(super) fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern {
        let text = part.to_string_lossy();
        if !text.contains(['*', '?', '[']) {
            for path in &mut found {
                path.push(part);
            }
            continue;
        }
        let mut next = Vec::new();
        for folder in found.iter().take(MAX_FOLDERS) {
            let all = host::names(folder, MAX_NAMES).unwrap_or_default();
            let fitting = all.into_iter().filter(|name| {
                let name = name.to_string_lossy();
                (!name.starts_with('.') || text.starts_with('.')) && fits(&name, &text)
            });
            let room = MAX_NAMES - next.len();
            next.extend(fitting.take(room).map(|name| folder.join(name)));
        }
        found = next;
    }
    found
}

/// A file, or all those in a folder, however deep, in the order in which Apache reads them.
pub(super) fn below(path: PathBuf) -> Vec<PathBuf> {
    let (mut found, mut left, mut folders) = (Vec::new(), vec![path], 0);
    while let Some(path) = left.pop() {
        // A link may lead back to where it is.
        if folders < MAX_FOLDERS && path.is_dir() {
            folders += 1;
            let all = host::names(&path, MAX_NAMES - left.len().min(MAX_NAMES)).unwrap_or_default();
            left.extend(all.iter().rev().map(|name| path.join(name)));
        } else {
            found.push(path);
        }
    }
    found
}

/// Whether a name fits a pattern of a shell: `*`, `?` and `[a-z]`.
fn fits(name: &str, pattern: &str) -> bool {
    let (name, pattern): (Vec<char>, Vec<char>) =
        (name.chars().collect(), pattern.chars().collect());
    let (mut at, mut with) = (0, 0);
    // Where the last star stood, and what it has swallowed up to.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        let one = pattern.get(with).and_then(|sign| match sign {
            '?' => Some(with + 1),
            '[' => {
                let end = with + 2 + pattern.get(with + 2..)?.iter().position(|it| *it == ']')?;
                in_class(name[at], &pattern[with + 1..end]).then_some(end + 1)
            }
            sign => (*sign == name[at] && *sign != '*').then_some(with + 1),
        });
        if let Some(next) = one {
            (at, with) = (at + 1, next);
        } else if pattern.get(with) == Some(&'*') {
            star = Some((with, at));
            with += 1;
        } else if let Some((begun, eaten)) = star {
            star = Some((begun, eaten + 1));
            (at, with) = (eaten + 1, begun + 1);
        } else {
            return false;
        }
    }
    pattern[with..].iter().all(|sign| *sign == '*')
}

fn in_class(char: char, class: &[char]) -> bool {
    let (negated, class) = match class {
        ['!' | '^', rest @ ..] => (true, rest),
        all => (false, all),
    };
    let mut rest = class;
    let mut found = false;
    while let [first, behind @ ..] = rest {
        rest = if let ['-', last, after @ ..] = behind {
            found |= (*first..=*last).contains(&char);
            after
        } else {
            found |= *first == char;
            behind
        };
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_patterns_of_a_shell() {
        for (name, pattern, expected) in [
            ("a.conf", "*.conf", true),
            ("a.conf.bak", "*.conf", false),
            ("a.conf", "?.con*", true),
            ("b.conf", "[a-c].conf", true),
            ("d.conf", "[!a-c].conf", true),
            ("b.conf", "[^a-c].conf", false),
            ("", "*", true),
            ("aab", "*ab", true),
            ("a", "[", false),
        ] {
            assert_eq!(fits(name, pattern), expected, "{name} {pattern}");
        }
    }

    #[test]
    fn blocks_nest_only_so_deep() {
        let mut builder = Builder::new();
        let place = Place { file: PathBuf::new(), line: 1 };
        let node = Node { name: "a".into(), args: Vec::new(), place, block: None };
        for _ in 0..100_000 {
            builder.open(node.clone());
        }
        for _ in 0..100_000 {
            builder.close();
        }
        builder.add(node);
        let mut depth = 0;
        let nodes = builder.finish();
        let mut inner = &nodes[0];
        while let Some(next) = inner.children().first() {
            (inner, depth) = (next, depth + 1);
        }
        assert_eq!((nodes.len(), depth), (2, MAX_BLOCKS - 1));
    }
}
