//! Reading a TOML document key by key, so that one mistake does not hide the next.
//!
//! Owns TOML, the positions of findings, and the report of unknown keys. It does not know which
//! keys there are: its caller names them.

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::Finding;

/// A byte offset in the file.
pub(super) type Position = usize;

/// The text of a file, and its findings so far.
pub(super) struct Document<'a> {
    text: &'a str,
    syntax: RefCell<Vec<(Position, String)>>,
    findings: RefCell<Vec<(Position, String)>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, syntax: RefCell::default(), findings: RefCell::default() }
    }

    /// Parses the text. Syntax errors are findings too, and the rest is still read.
    pub(super) fn parse(&self) -> Table<'_, 'a> {
        let (top, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.syntax.borrow_mut().push((at, format!("invalid TOML: {}", error.message())));
        }
        Table::new(self, "", Spanned::new(top.span(), top.into_inner()))
    }

    fn find(&self, at: Position, message: String) {
        self.findings.borrow_mut().push((at, message));
    }

    /// All findings, in the order of the file.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let finding = |(at, message)| locate(self.text, at, message);
        let mut all: Vec<Finding> = self.syntax.into_inner().into_iter().map(finding).collect();
        let broken: Vec<usize> = all.iter().map(|finding| finding.line).collect();
        // The remains of a broken line say nothing that its author meant.
        let values = self.findings.into_inner().into_iter().map(finding);
        all.extend(values.filter(|finding| !broken.contains(&finding.line)));
        all.sort_by_key(|finding| (finding.line, finding.column));
        all
    }
}

/// Converts an offset to line and column, both from 1, the column in characters.
fn locate(text: &str, at: Position, message: String) -> Finding {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Finding {
        line: before.matches('\n').count() + 1,
        column: before[start..].chars().count() + 1,
        message,
    }
}

/// A table of the document. Keys are taken out of it; [`Table::finish`] reports those left over.
pub(super) struct Table<'d, 'a> {
    document: &'d Document<'a>,
    /// As written above it, such as `[limits]`; empty for the top of the file.
    header: String,
    entries: Spanned<DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'d, 'a> Table<'d, 'a> {
    fn new(document: &'d Document<'a>, header: &str, entries: Spanned<DeTable<'a>>) -> Self {
        Self { document, header: header.to_owned(), entries, known: Vec::new() }
    }

    /// Takes the value of the key that is called `name` here, and `path` in full.
    pub(super) fn take(&mut self, name: &'static str, path: &'static str) -> Option<Entry<'d, 'a>> {
        let value = self.remove(name)?;
        Some(Entry { document: self.document, path, value })
    }

    /// Reports that a key is missing.
    pub(super) fn missing(&self, path: &str) {
        let begin = self.entries.span().start;
        self.document.find(begin, format!("{path} is missing; every {} needs it", self.header));
    }

    /// Takes a table; an empty one where the file has none.
    pub(super) fn table(&mut self, name: &'static str) -> Table<'d, 'a> {
        let header = format!("[{name}]");
        let empty = || Spanned::new(0..0, DeTable::new());
        let entries = self.remove(name).map_or_else(empty, |value| {
            let span = value.span();
            if let DeValue::Table(entries) = value.into_inner() {
                Spanned::new(span, entries)
            } else {
                let remedy = format!("{name} is a table; write {header} with its keys below");
                self.document.find(span.start, remedy);
                empty()
            }
        });
        Self::new(self.document, &header, entries)
    }

    /// Takes an array of tables.
    pub(super) fn tables(&mut self, name: &'static str) -> Vec<Table<'d, 'a>> {
        let Some(value) = self.remove(name) else { return Vec::new() };
        let header = format!("[[{name}]]");
        let wrong = |at| {
            self.document.find(at, format!("{name} is an array of tables; write {header}"));
        };
        let at = value.span().start;
        let DeValue::Array(elements) = value.into_inner() else {
            wrong(at);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in elements {
            let span = element.span();
            if let DeValue::Table(entries) = element.into_inner() {
                tables.push(Self::new(self.document, &header, Spanned::new(span, entries)));
            } else {
                wrong(span.start);
            }
        }
        tables
    }

    /// Reports each key that was not taken.
    pub(super) fn finish(self) {
        let Self { document, header, entries, known } = self;
        let within = if header.is_empty() { header } else { format!(" in {header}") };
        for (key, _) in entries.into_inner() {
            let (at, key) = (key.span().start, key.into_inner());
            let near = known
                .iter()
                .map(|known| (strsim::osa_distance(known, &key), *known))
                .min()
                .filter(|(distance, known)| *distance <= known.len() / 3);
            let remedy = match near {
                Some((_, near)) => format!("did you mean \"{near}\"?"),
                None => format!("valid keys: {}", known.join(", ")),
            };
            document.find(at, format!("unknown key {key:?}{within}; {remedy}"));
        }
    }

    fn remove(&mut self, name: &'static str) -> Option<Spanned<DeValue<'a>>> {
        self.known.push(name);
        self.entries.get_mut().remove(name)
    }
}

/// The value that the file gives a key.
pub(super) struct Entry<'d, 'a> {
    document: &'d Document<'a>,
    path: &'static str,
    value: Spanned<DeValue<'a>>,
}

impl<'a> Entry<'_, 'a> {
    /// Reads the value into `target`, through the type `T` that checks it. A bad value is reported
    /// and changes nothing.
    pub(super) fn set<T, V>(&self, target: &mut V)
    where
        T: DeserializeOwned + Into<V>,
    {
        if let Some(value) = self.read::<T>() {
            *target = value.into();
        }
    }

    /// Reads the value.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Option<T> {
        self.leaf(&self.value)
    }

    /// Reads a list; a single value stands for a list of one. Bad elements are reported and left
    /// out.
    pub(super) fn list<T: DeserializeOwned>(&self) -> Vec<(Position, T)> {
        let elements: Vec<_> = match self.value.get_ref() {
            DeValue::Array(elements) => elements.iter().collect(),
            _ => vec![&self.value],
        };
        let read = |element: &Spanned<DeValue<'a>>| {
            self.leaf(element).map(|value| (element.span().start, value))
        };
        elements.into_iter().filter_map(read).collect()
    }

    /// Whether the value is a list without elements.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Array(elements) if elements.is_empty())
    }

    /// Reports that the value is wrong.
    pub(super) fn find(&self, message: &str) {
        self.find_at(self.value.span().start, message);
    }

    /// Reports that a part of the value is wrong.
    pub(super) fn find_at(&self, at: Position, message: &str) {
        self.document.find(at, format!("{}: {message}", self.path));
    }

    fn leaf<T: DeserializeOwned>(&self, value: &Spanned<DeValue<'a>>) -> Option<T> {
        T::deserialize(ValueDeserializer::from(value.clone()))
            .map_err(|error| {
                let at = error.span().unwrap_or(value.span()).start;
                self.find_at(at, error.message());
            })
            .ok()
    }
}
