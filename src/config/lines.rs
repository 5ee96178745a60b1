//! The text of a file: its encoding, and the line and column of each of its bytes.
//!
//! It does not know TOML.

use std::collections::HashMap;

use super::Finding;

/// A byte offset in the file.
pub(super) type Position = usize;

/// Decodes a file.
pub(super) fn utf8(file: &[u8]) -> Result<&str, Finding> {
    if file.starts_with(b"\xff\xfe") || file.starts_with(b"\xfe\xff") {
        let message = "the file is UTF-16; save it as UTF-8".to_owned();
        return Err(Finding { variable: None, line: 1, column: 1, message });
    }
    std::str::from_utf8(file).map_err(|error| {
        let (before, rest) = file.split_at(error.valid_up_to());
        let message = format!(
            "byte 0x{:02X} is not UTF-8; save the file as UTF-8 (`iconv -f ISO-8859-1 -t UTF-8` \
             converts Latin-1)",
            rest[0]
        );
        let before = std::str::from_utf8(before).unwrap_or_default();
        Lines::new(before).locate(before.len(), message)
    })
}

/// A text by its lines, which count from 1.
pub(super) struct Lines<'a> {
    pub(super) text: &'a str,
    starts: Vec<Position>,
    /// For each line, the header at or above it; 0 is none.
    headers: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let starts: Vec<Position> =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut lines = Self { text, starts, headers: Vec::new() };
        let mut header = 0;
        for number in 1..=lines.starts.len() {
            if lines.line(number).trim_start().starts_with('[') {
                header = number;
            }
            lines.headers.push(header);
        }
        lines
    }

    pub(super) fn number(&self, at: Position) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    pub(super) fn line(&self, number: usize) -> &'a str {
        let end = self.starts.get(number).map_or(self.text.len(), |next| next - 1);
        &self.text[self.starts[number - 1]..end]
    }

    pub(super) fn header(&self, number: usize) -> Option<usize> {
        Some(self.headers[number - 1]).filter(|header| *header > 0)
    }

    /// Converts an offset to line and column, the column from 1 in characters.
    pub(super) fn locate(&self, at: Position, message: String) -> Finding {
        let line = self.number(at);
        let before = self.text.get(self.starts[line - 1]..at).unwrap_or_default();
        Finding { variable: None, line, column: before.chars().count() + 1, message }
    }

    /// The lines that define something again, each with the line that did so before, or 0 if that
    /// is written in another way.
    pub(super) fn repeated(&self, syntax: &[Finding]) -> HashMap<usize, usize> {
        let again = syntax.iter().filter(|finding| finding.message == "duplicate key");
        let mut again: HashMap<usize, usize> = again.map(|finding| (finding.line, 0)).collect();
        if again.is_empty() {
            return again;
        }
        let mut all = HashMap::new();
        for number in 1..=self.starts.len() {
            let key = self.line(number).split('=').next().unwrap_or_default().trim();
            let header = self.header(number).map(|header| self.line(header).trim());
            let first = *all.entry((header, key)).or_insert(number);
            if first != number {
                again.entry(number).and_modify(|before| *before = first);
            }
        }
        again
    }
}
