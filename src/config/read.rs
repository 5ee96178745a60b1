//! Reading a TOML document leaf by leaf, so that one mistake does not hide the next.
//!
//! Owns the positions of findings and the search for keys that nobody asked for. It does not know
//! which keys there are: who reads a table names them.

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Config, Finding};

/// A byte offset in the file.
pub(super) type Position = usize;

/// A file's text, and what was found wrong with it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    syntax: RefCell<Vec<(Position, String)>>,
    findings: RefCell<Vec<(Position, String)>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, syntax: RefCell::default(), findings: RefCell::default() }
    }

    /// Parses the text; syntax errors are findings too, and the rest is read all the same.
    pub(super) fn parse(&self) -> Table<'_, 'a> {
        let (top, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.syntax.borrow_mut().push((at, format!("not TOML: {}", error.message())));
        }
        Table::new(self, String::new(), Spanned::new(top.span(), top.into_inner()))
    }

    /// Notes that something is wrong.
    pub(super) fn find(&self, at: Position, message: impl Into<String>) {
        self.findings.borrow_mut().push((at, message.into()));
    }

    /// The configuration, if nothing was found.
    pub(super) fn into_result(self, config: Config) -> Result<Config, Vec<Finding>> {
        let place = |(at, message)| locate(self.text, at, message);
        let mut all: Vec<Finding> = self.syntax.into_inner().into_iter().map(place).collect();
        let broken: Vec<usize> = all.iter().map(|finding| finding.line).collect();
        // What a broken line seems to say is no finding of its own.
        let values = self.findings.into_inner().into_iter().map(place);
        all.extend(values.filter(|finding| !broken.contains(&finding.line)));
        all.sort_by_key(|finding| (finding.line, finding.column));
        if all.is_empty() { Ok(config) } else { Err(all) }
    }
}

/// Turns an offset into a line and a column, both from 1, the column in characters.
fn locate(text: &str, at: Position, message: String) -> Finding {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Finding {
        line: before.matches('\n').count() + 1,
        column: before[start..].chars().count() + 1,
        message,
    }
}

/// A table of the document. What is taken from it is gone; [`Table::finish`] complains of the rest.
pub(super) struct Table<'d, 'a> {
    document: &'d Document<'a>,
    name: String,
    entries: Spanned<DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'d, 'a> Table<'d, 'a> {
    fn new(document: &'d Document<'a>, name: String, entries: Spanned<DeTable<'a>>) -> Self {
        Self { document, name, entries, known: Vec::new() }
    }

    /// Reads a key into `target`, through the type `T` that checks it. Returns where its value
    /// stands, if there is a good one.
    pub(super) fn set<T, V>(&mut self, key: &'static str, target: &mut V) -> Option<Position>
    where
        T: DeserializeOwned + Into<V>,
    {
        let value = self.remove(key)?;
        let at = value.span().start;
        *target = self.leaf::<T>(key, value)?.into();
        Some(at)
    }

    /// Reads a key that must be there; `example` shows how.
    pub(super) fn required<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<(Position, T)> {
        let begin = self.entries.span().start;
        let Some(value) = self.remove(key) else {
            let remedy = format!("{} is missing: write {key} = {example}", self.path(key));
            self.document.find(begin, remedy);
            return None;
        };
        let at = value.span().start;
        self.leaf(key, value).map(|value| (at, value))
    }

    /// Reads a list; a single value stands for a list of one. Bad elements are left out.
    pub(super) fn list<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
    ) -> Option<Vec<(Position, T)>> {
        let value = self.remove(key)?;
        let span = value.span();
        let elements = match value.into_inner() {
            DeValue::Array(elements) => elements.into_iter().collect(),
            single => vec![Spanned::new(span.clone(), single)],
        };
        let read = |element: Spanned<DeValue<'a>>| {
            let at = element.span().start;
            self.leaf(key, element).map(|value| (at, value))
        };
        Some(elements.into_iter().filter_map(read).collect())
    }

    /// The same for a list that must not be empty.
    pub(super) fn filled<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
    ) -> Option<Vec<(Position, T)>> {
        if let Some(value) = self.entries.get_ref().get(key) {
            if matches!(value.get_ref(), DeValue::Array(elements) if elements.is_empty()) {
                let empty = format!("{}: the list is empty", self.path(key));
                self.document.find(value.span().start, empty);
            }
        }
        self.list(key)
    }

    /// Takes a table; an empty one where the file has none.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'d, 'a> {
        let empty = || Spanned::new(0..0, DeTable::new());
        let entries = self.remove(key).map_or_else(empty, |value| {
            let span = value.span();
            if let DeValue::Table(entries) = value.into_inner() {
                Spanned::new(span, entries)
            } else {
                let remedy = format!("{key} is a table: write [{key}] and its keys below");
                self.document.find(span.start, remedy);
                empty()
            }
        });
        Self::new(self.document, key.to_owned(), entries)
    }

    /// Takes an array of tables.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table<'d, 'a>> {
        let Some(value) = self.remove(key) else { return Vec::new() };
        let at = value.span().start;
        let wrong = |at| {
            self.document.find(at, format!("{key} is a list of tables: write [[{key}]]"));
        };
        let DeValue::Array(elements) = value.into_inner() else {
            wrong(at);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in elements {
            let span = element.span();
            if let DeValue::Table(entries) = element.into_inner() {
                let entries = Spanned::new(span, entries);
                tables.push(Self::new(self.document, key.to_owned(), entries));
            } else {
                wrong(span.start);
            }
        }
        tables
    }

    /// Complains of each key that nobody asked for.
    pub(super) fn finish(self) {
        let Self { document, name, entries, known } = self;
        for (key, _) in entries.into_inner() {
            let place = if name.is_empty() { String::new() } else { format!(" in [{name}]") };
            let (at, key) = (key.span().start, key.into_inner());
            let near = known
                .iter()
                .map(|known| (strsim::osa_distance(known, &key), *known))
                .min()
                .filter(|(distance, known)| *distance <= known.len() / 3);
            let remedy = match near {
                Some((_, near)) => format!("did you mean \"{near}\"?"),
                None => format!("there are {}", known.join(", ")),
            };
            document.find(at, format!("unknown key {key:?}{place}; {remedy}"));
        }
    }

    fn remove(&mut self, key: &'static str) -> Option<Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.entries.get_mut().remove(key)
    }

    fn leaf<T: DeserializeOwned>(&self, key: &str, value: Spanned<DeValue<'a>>) -> Option<T> {
        let at = value.span().start;
        T::deserialize(ValueDeserializer::from(value))
            .map_err(|error| {
                let at = error.span().map_or(at, |span| span.start);
                self.document.find(at, format!("{}: {}", self.path(key), error.message()));
            })
            .ok()
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}
