//! nginx's syntax: words, quotes, comments and blocks, with what is included in its place.
//!
//! Owns the tokens. A file that nginx would refuse is read as far as it makes sense. It does not know
//! directives, but `include`, and the blocks of Lua, which are another language.
//!
//! Source: `ngx_conf_read_token`.

use std::path::Path;

use crate::doctor::files::{Builder, Files, MAX_INCLUDES, Node, matching};
use crate::doctor::report::Place;

/// Reads a configuration and all that it includes; relative names are below the folder of `main`.
pub(super) fn read(main: &Path, files: &mut Files) -> Vec<Node> {
    let text = files.read(main);
    let folder = main.parent().unwrap_or(Path::new("/"));
    included(parse(&text, main), folder, files, 0)
}

/// Puts the directives of included files in the place of `include`.
fn included(nodes: Vec<Node>, folder: &Path, files: &mut Files, depth: usize) -> Vec<Node> {
    let mut all = Vec::new();
    for mut node in nodes {
        if node.name == "include" && node.block.is_none() && depth < MAX_INCLUDES {
            for file in matching(&folder.join(node.arg(0))) {
                let text = files.read(&file);
                all.extend(included(parse(&text, &file), folder, files, depth + 1));
            }
        } else {
            node.block = node.block.map(|block| included(block, folder, files, depth));
            all.push(node);
        }
    }
    all
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// The directives of one file.
#[must_use]
pub fn parse(text: &str, file: &Path) -> Vec<Node> {
    let mut builder = Builder::new();
    let mut words: Vec<String> = Vec::new();
    let mut begun = 1;
    let mut tokens = Tokens { rest: text, line: 1 };
    while let Some((line, token)) = tokens.next() {
        if words.is_empty() {
            begun = line;
        }
        let node = |words: &mut Vec<String>| {
            let mut words = std::mem::take(words).into_iter();
            let place = Place { file: file.to_path_buf(), line: begun };
            words.next().map(|name| Node { name, args: words.collect(), place, block: None })
        };
        match token {
            Token::Word(word) => words.push(word),
            Token::End => node(&mut words).into_iter().for_each(|node| builder.add(node)),
            Token::Open => {
                let is_lua = words.first().is_some_and(|name| name.ends_with("_by_lua_block"));
                if is_lua {
                    tokens.skip_block();
                    words.clear();
                } else if let Some(node) = node(&mut words) {
                    builder.open(node);
                }
            }
            Token::Close => {
                words.clear();
                builder.close();
            }
        }
    }
    builder.finish()
}

struct Tokens<'a> {
    rest: &'a str,
    line: usize,
}

impl Tokens<'_> {
    /// The next character.
    fn take(&mut self) -> Option<char> {
        let char = self.rest.chars().next()?;
        self.rest = &self.rest[char.len_utf8()..];
        self.line += usize::from(char == '\n');
        Some(char)
    }

    /// The next token, and the line on which it begins.
    fn next(&mut self) -> Option<(usize, Token)> {
        loop {
            let line = self.line;
            let token = match self.take()? {
                ';' => Token::End,
                '{' => Token::Open,
                '}' => Token::Close,
                '#' => {
                    while !matches!(self.take()?, '\n') {}
                    continue;
                }
                space if space.is_ascii_whitespace() => continue,
                quote @ ('"' | '\'') => Token::Word(self.quoted(quote)),
                first => Token::Word(self.word(first)),
            };
            return Some((line, token));
        }
    }

    fn quoted(&mut self, quote: char) -> String {
        let mut word = String::new();
        while let Some(char) = self.take() {
            match char {
                '\\' => word.extend(self.escaped()),
                end if end == quote => break,
                char => word.push(char),
            }
        }
        word
    }

    /// What stands behind a backslash: only some characters lose it.
    fn escaped(&mut self) -> Vec<char> {
        match self.take() {
            Some(char @ ('"' | '\'' | '\\')) => vec![char],
            Some('t') => vec!['\t'],
            Some('r') => vec!['\r'],
            Some('n') => vec!['\n'],
            Some(char) => vec!['\\', char],
            None => Vec::new(),
        }
    }

    fn word(&mut self, first: char) -> String {
        let mut word = String::new();
        let mut next = Some(first);
        loop {
            match next {
                Some('\\') => word.extend(self.escaped()),
                Some(char) => word.push(char),
                None => return word,
            }
            // `${name}` does not begin a block.
            let named = word.ends_with('$');
            match self.rest.chars().next() {
                Some('{') if named => {}
                Some(end) if end.is_ascii_whitespace() || matches!(end, ';' | '{') => return word,
                _ => {}
            }
            next = self.take();
        }
    }

    /// Leaves out a block whose begin has been taken.
    fn skip_block(&mut self) {
        let mut depth = 1usize;
        while let Some(char) = self.take() {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in one line, each directive with its line.
    fn shown(nodes: &[Node]) -> String {
        let one = |node: &Node| {
            let words = [std::slice::from_ref(&node.name), &node.args].concat().join("|");
            let block =
                node.block.as_ref().map_or(String::new(), |it| format!("{{{}}}", shown(it)));
            format!("{}:{words}{block}", node.place.line)
        };
        nodes.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_quotes_comments_and_blocks_are_read_as_nginx_reads_them() {
        for (text, expected) in [
            ("a b;\nc {\n d 'e f' \"g\\\"h\";\n}", "1:a|b 2:c{3:d|e f|g\"h}"),
            ("# x; {\na #b;\n c;", "2:a|c"),
            ("a ${b}c{d}", "1:a|${b}c{}"),
            ("a ~ \"^/x{2}$\" { b; }", "1:a|~|^/x{2}${1:b}"),
            ("a b#c;", "1:a|b#c"),
            ("a '';", "1:a|"),
            (r"a \.x\;y;", r"1:a|\.x\;y"),
            ("content_by_lua_block { if x then { y } end; } a;", "1:a"),
            ("a; } b;", "1:a 1:b"),
            ("a { b; c", "1:a{1:b}"),
            ("", ""),
        ] {
            assert_eq!(shown(&parse(text, Path::new("x"))), expected, "{text}");
        }
    }
}
