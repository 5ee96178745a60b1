//! Apache's syntax: one directive a line, sections in angle brackets, with what is included in its
//! place.
//!
//! Owns `Include`, `Define` and the sections that a start decides: `<IfModule>`, `<IfDefine>`,
//! `<IfVersion>`. A file that Apache would refuse is read as far as it makes sense.
//!
//! Source: Apache's manual, "Configuration Files" and core.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::doctor::files::{Builder, Files, MAX_INCLUDES, Node, below, matching};
use crate::doctor::report::Place;

/// The longest value of a variable, in bytes.
const MAX_VALUE: usize = 4096;

/// How Apache was started.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// The folder that relative names are below, until `ServerRoot` says otherwise.
    pub root: PathBuf,
    /// The names given with `-D`.
    pub defined: Vec<String>,
}

/// Reads a configuration and all that it includes, as this start would.
pub(super) fn read(main: &Path, started: &Started, files: &mut Files) -> Vec<Node> {
    let text = files.read(main);
    let names = started.defined.iter().map(|name| (name.clone(), String::new()));
    let root = started.root.clone();
    let mut reader = Reader { root, defined: names.collect(), modules: BTreeSet::new() };
    reader.follow(parse(&text, main), files, 0)
}

struct Reader {
    root: PathBuf,
    defined: BTreeMap<String, String>,
    modules: BTreeSet<String>,
}

impl Reader {
    fn follow(&mut self, nodes: Vec<Node>, files: &mut Files, depth: usize) -> Vec<Node> {
        let mut all = Vec::new();
        for mut node in nodes {
            for arg in &mut node.args {
                *arg = self.with_values(arg);
            }
            match &*node.name.to_ascii_lowercase() {
                "include" | "includeoptional" if depth < MAX_INCLUDES => {
                    let named = matching(&self.root.join(node.arg(0)));
                    for file in named.into_iter().flat_map(below) {
                        let text = files.read(&file);
                        all.extend(self.follow(parse(&text, &file), files, depth + 1));
                    }
                    continue;
                }
                "serverroot" => self.root = node.arg(0).into(),
                "define" => {
                    self.defined.insert(node.arg(0).to_owned(), node.arg(1).to_owned());
                }
                "loadmodule" => {
                    self.modules.insert(node.arg(0).to_owned());
                }
                "ifmodule" | "ifdefine" | "ifversion" => {
                    if self.holds(&node) {
                        all.extend(self.follow(node.block.unwrap_or_default(), files, depth));
                    }
                    continue;
                }
                _ => {}
            }
            node.block = node.block.map(|block| self.follow(block, files, depth));
            all.push(node);
        }
        all
    }

    /// Whether what is in a section is read. Modules may be built in, so the lack of one is certain
    /// for nobody.
    fn holds(&self, section: &Node) -> bool {
        let (negated, name) = match section.arg(0).strip_prefix('!') {
            Some(name) => (true, name),
            None => (false, section.arg(0)),
        };
        if section.is("IfDefine") {
            return self.defined.contains_key(name) != negated;
        }
        !negated
    }

    /// A text with the values of what `Define` has defined.
    fn with_values(&self, text: &str) -> String {
        let mut whole = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, behind)) = after.split_once('}') else { break };
            whole.push_str(before);
            match self.defined.get(name) {
                Some(value) if value.len() + whole.len() <= MAX_VALUE => whole.push_str(value),
                _ => whole.extend(["${", name, "}"]),
            }
            rest = behind;
        }
        whole + rest
    }
}

/// The directives of one file.
#[must_use]
pub fn parse(text: &str, file: &Path) -> Vec<Node> {
    let mut builder = Builder::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let mut line = line.trim_start().to_owned();
        // Even a comment goes on behind a backslash.
        while line.ends_with('\\') {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push_str(next);
        }
        let line = line.trim();
        let place = Place { file: file.to_path_buf(), line: index + 1 };
        let node = |text: &str| {
            let mut words = words(text).into_iter();
            let place = place.clone();
            words.next().map(|name| Node { name, args: words.collect(), place, block: None })
        };
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with("</") {
            builder.close();
        } else if let Some(section) = line.strip_prefix('<') {
            let section = section.strip_suffix('>').unwrap_or(section);
            if let Some(node) = node(section) {
                builder.open(node);
            }
        } else if let Some(node) = node(line) {
            builder.add(node);
        }
    }
    builder.finish()
}

/// The words of a line; a backslash inside quotes keeps a quote.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(first) = chars.next() {
        let mut word = String::new();
        match first {
            space if space.is_whitespace() => continue,
            quote @ ('"' | '\'') => {
                while let Some(char) = chars.next() {
                    match char {
                        '\\' if chars.peek() == Some(&quote) => word.extend(chars.next()),
                        end if end == quote => break,
                        char => word.push(char),
                    }
                }
            }
            first => {
                word.push(first);
                while let Some(char) = chars.next_if(|char| !char.is_whitespace()) {
                    word.push(char);
                }
            }
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_sections_and_quotes_are_read_as_apache_reads_them() {
        let text =
            "# x \\\ny\nProxyPass \"/a b\" \\\n  ws://x 'q' a\"b\n<Location /x>\nA\n</Location>\nB";
        let nodes = parse(text, Path::new("x"));
        let one = |node: &Node| {
            let inner = node.children().iter().map(|it| it.name.clone()).collect::<Vec<_>>();
            format!("{}:{}{:?}{inner:?}", node.place.line, node.name, node.args)
        };
        let shown: Vec<_> = nodes.iter().map(one).collect();
        let expected = [
            r#"3:ProxyPass["/a b", "ws://x", "q", "a\"b"][]"#,
            r#"5:Location["/x"]["A"]"#,
            "8:B[][]",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_a_start_decides_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("httpd.conf");
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::create_dir(folder.path().join("d/2")).unwrap();
        std::fs::write(folder.path().join("d/1.conf"), "A ${x}${y}\n").unwrap();
        std::fs::write(folder.path().join("d/2/.b"), "E\n").unwrap();
        std::fs::write(folder.path().join("d/3.conf"), "F\n").unwrap();
        let text = "Define x 1\n<IfDefine !NO>\nInclude d/*.conf\n</IfDefine>\n\
                    <IfDefine NO>\nB\n</IfDefine>\n<IfModule mod_x.c>\nC\n</IfModule>\n\
                    <IfModule !mod_x.c>\nD\n</IfModule>\nInclude d\nIncludeOptional no/?\n";
        std::fs::write(&main, text).unwrap();
        let started = Started { root: folder.path().into(), defined: Vec::new() };
        let nodes = read(&main, &started, &mut Files::default());
        let shown: Vec<_> = nodes.iter().map(|it| format!("{} {}", it.name, it.arg(0))).collect();
        assert_eq!(shown, ["Define x", "A 1${y}", "F ", "C ", "A 1${y}", "E ", "F "]);
    }
}
