//! Reading a TOML document key by key, so that one mistake does not hide the next.
//!
//! Owns TOML, the positions of findings, and the report of unknown keys. It does not know which
//! keys there are: its caller names them.

use std::cell::RefCell;
use std::collections::HashSet;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::Finding;
use super::lines::{Lines, Position};

/// The text of a file, and its findings so far.
pub(super) struct Document<'a> {
    lines: Lines<'a>,
    syntax: RefCell<Vec<(Position, String)>>,
    findings: RefCell<Vec<(Position, String)>>,
    given: RefCell<Vec<Given<'a>>>,
}

/// A key that the file gives a value.
#[derive(Clone)]
pub(super) struct Given<'a> {
    pub(super) path: &'static str,
    /// Which of the tables in an array it is in; 0 elsewhere.
    pub(super) table: usize,
    /// As it is written, in TOML.
    pub(super) value: &'a str,
    pub(super) line: usize,
    at: Position,
    is_valid: bool,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            lines: Lines::new(text),
            syntax: RefCell::default(),
            findings: RefCell::default(),
            given: RefCell::default(),
        }
    }

    /// Parses the text. Syntax errors are findings too, and the rest is still read.
    pub(super) fn parse(&self) -> Table<'_, 'a> {
        let (top, errors) = DeTable::parse_recoverable(self.lines.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.syntax.borrow_mut().push((at, error.message().to_owned()));
        }
        Table::new(self, "", 0, Spanned::new(top.span(), top.into_inner()))
    }

    /// Whether there are syntax errors.
    pub(super) fn is_broken(&self) -> bool {
        !self.syntax.borrow().is_empty()
    }

    fn find(&self, at: Position, message: String) {
        self.findings.borrow_mut().push((at, message));
    }

    /// The value that is given to a key in a table.
    fn value_of(&self, (path, table): (&'static str, usize)) -> Option<Given<'a>> {
        let given = self.given.borrow();
        given.iter().find(|given| given.path == path && given.table == table).cloned()
    }

    /// Every key that is given, in the order of reading.
    pub(super) fn given(&self) -> Vec<Given<'a>> {
        self.given.borrow().clone()
    }

    /// All findings, in the order of the file. `remedy` gets each line that is not TOML and the
    /// header above it.
    pub(super) fn into_findings(
        self,
        remedy: impl Fn(&str, &str) -> Option<String>,
    ) -> Vec<Finding> {
        let Self { lines, syntax, findings, .. } = self;
        let mut syntax: Vec<Finding> = syntax
            .into_inner()
            .into_iter()
            .map(|(at, message)| lines.locate(at, message))
            .collect();
        // What follows the first error of a line says nothing that its author meant.
        syntax.sort_by_key(|finding| (finding.line, finding.column));
        syntax.dedup_by_key(|finding| finding.line);
        let broken: HashSet<usize> = syntax.iter().map(|finding| finding.line).collect();
        let again = lines.repeated(&syntax);
        for finding in &mut syntax {
            let (line, header) = (lines.line(finding.line), lines.header(finding.line));
            let remedy = match again.get(&finding.line) {
                Some(0) => Some("keep one of the two".to_owned()),
                Some(first) if line.trim_start().starts_with('[') => {
                    Some(format!("{} begins in line {first}; add to it there", line.trim()))
                }
                Some(first) => Some(format!("the other is in line {first}; keep one of the two")),
                None => remedy(line, header.map_or("", |header| lines.line(header))),
            };
            finding.message = match (remedy, finding.message.split(", expected").next()) {
                (Some(remedy), Some(wrong)) => format!("invalid TOML: {wrong}; {remedy}"),
                _ => format!("invalid TOML: {}", finding.message),
            };
        }
        let values =
            findings.into_inner().into_iter().map(|(at, message)| lines.locate(at, message));
        // Nor do the keys below a broken header.
        let is_sound = |line: &usize| {
            !broken.contains(line) && lines.header(*line).is_none_or(|it| !broken.contains(&it))
        };
        let mut all: Vec<Finding> = values.filter(|finding| is_sound(&finding.line)).collect();
        all.append(&mut syntax);
        all.sort_by_key(|finding| (finding.line, finding.column));
        all
    }
}

/// Reports that values do not fit together: at the first of these keys that is given, unless one of
/// them is wrong by itself. Each key comes with its table; the first document that has it counts.
pub(super) fn find_relation<'d, 'a: 'd>(
    documents: &(impl Iterator<Item = &'d Document<'a>> + Clone),
    keys: &[(&'static str, usize)],
    message: &str,
) {
    let find = |key| documents.clone().find_map(|it| it.value_of(key).map(|given| (it, given)));
    let found: Vec<_> = keys.iter().filter_map(|key| find(*key)).collect();
    if found.iter().all(|(_, given)| given.is_valid)
        && let Some((document, given)) = found.first()
    {
        document.find(given.at, format!("{}: {message}", given.path));
    }
}

/// A table of the document. Keys are taken out of it; [`Table::finish`] reports those left over.
pub(super) struct Table<'d, 'a> {
    document: &'d Document<'a>,
    /// As written above it, such as `[limits]`; empty for the top of the file.
    header: String,
    /// Which of the tables in an array it is.
    index: usize,
    entries: Spanned<DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'d, 'a> Table<'d, 'a> {
    fn new(
        document: &'d Document<'a>,
        header: &str,
        index: usize,
        entries: Spanned<DeTable<'a>>,
    ) -> Self {
        Self { document, header: header.to_owned(), index, entries, known: Vec::new() }
    }

    /// Takes the value of the key that is called `name` here, and `path` in full.
    pub(super) fn take(&mut self, name: &'static str, path: &'static str) -> Option<Entry<'d, 'a>> {
        let value = self.remove(name)?;
        let span = value.span();
        let lines = &self.document.lines;
        let mut given = self.document.given.borrow_mut();
        given.push(Given {
            path,
            table: self.index,
            value: lines.text.get(span.clone()).unwrap_or_default(),
            line: lines.number(span.start),
            at: span.start,
            is_valid: true,
        });
        Some(Entry { document: self.document, path, given: given.len() - 1, value })
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
        Self::new(self.document, &header, 0, entries)
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
                tables.push(Self::new(
                    self.document,
                    &header,
                    tables.len(),
                    Spanned::new(span, entries),
                ));
            } else {
                wrong(span.start);
            }
        }
        tables
    }

    /// Reports each key that was not taken. `home` is the header below which a key belongs, empty for
    /// the top of the file.
    pub(super) fn finish(self, home: impl Fn(&str) -> Option<String>) {
        let Self { document, header, entries, known, .. } = self;
        let within = if header.is_empty() { header } else { format!(" in {header}") };
        for (key, _) in entries.into_inner() {
            let (at, key) = (key.span().start, key.into_inner());
            let near = known
                .iter()
                .map(|known| (strsim::osa_distance(known, &like_ours(&key)), *known))
                .min()
                .filter(|(distance, known)| *distance <= known.len() / 3);
            let remedy = match (near, home(&key)) {
                (Some((0, near)), _) => format!("write \"{near}\""),
                (_, Some(home)) if home.is_empty() => {
                    "it belongs at the top of the file, above every [section]".to_owned()
                }
                (_, Some(home)) => format!("it belongs below {home}"),
                (Some((_, near)), None) => format!("did you mean \"{near}\"?"),
                (None, None) => format!("valid keys: {}", known.join(", ")),
            };
            document.find(at, format!("unknown key {key:?}{within}; {remedy}"));
        }
    }

    fn remove(&mut self, name: &'static str) -> Option<Spanned<DeValue<'a>>> {
        self.known.push(name);
        self.entries.get_mut().remove(name)
    }
}

/// A key in the spelling of ours.
fn like_ours(key: &str) -> String {
    key.to_lowercase().replace('-', "_")
}

/// The value that the file gives a key.
pub(super) struct Entry<'d, 'a> {
    document: &'d Document<'a>,
    path: &'static str,
    /// Its place among those given.
    given: usize,
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
        self.document.given.borrow_mut()[self.given].is_valid = false;
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
