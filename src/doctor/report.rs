//! What the doctor found, as plain data, and the two forms in which it is printed.
//!
//! Owns the names in the JSON, described by docs/doctor.schema.json: they do not change, more may
//! come. It escapes what came from files and programs. It does not know how anything was found.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::ops::logging::one_line;

/// The longest text that is shown, in characters: a token of a proxy's configuration may be longer.
const MAX_TEXT: usize = 1024;

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

/// One thing that is wrong, or good to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// Its stable name.
    pub label: &'static str,
    /// Where it is written, if it is in a file.
    pub place: Option<Place>,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What fixes it, with the command.
    pub fix: String,
    /// The lines that are missing, ready to be pasted.
    pub lines: Vec<String>,
}

/// Something that could not be looked at, which is no fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchecked {
    /// What was to be checked.
    pub what: String,
    /// Why it was not: the tool or the right that is missing.
    pub why: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What works, but should be known.
    pub advice: Vec<Finding>,
    /// What could not be checked.
    pub unchecked: Vec<Unchecked>,
    /// The URLs through which an echo came back.
    pub echoed: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.findings.is_empty()
    }

    /// Records something that could not be checked.
    pub(super) fn skip(&mut self, what: impl Into<String>, why: &(impl ToString + ?Sized)) {
        let skipped = Unchecked { what: what.into(), why: why.to_string() };
        if !self.unchecked.contains(&skipped) {
            self.unchecked.push(skipped);
        }
    }

    /// Adds what a look at one of several services found, but for what another has shown already.
    pub(super) fn absorb(&mut self, look: impl FnOnce(&mut Self)) {
        let mut part = Self::default();
        look(&mut part);
        part.findings.retain(|it| !self.findings.contains(it));
        part.advice.retain(|it| !self.advice.contains(it));
        self.findings.append(&mut part.findings);
        self.advice.append(&mut part.advice);
        for Unchecked { what, why } in part.unchecked {
            self.skip(what, &why);
        }
    }

    /// For people: a paragraph for each finding, or one line where all is well.
    #[must_use]
    pub fn terminal(&self) -> String {
        let mut text = String::new();
        for (mark, list) in [("✗", &self.findings), ("-", &self.advice)] {
            for Finding { place, what, why, fix, lines, label } in list {
                let at = place.as_ref().map_or(String::new(), |Place { file, line }| {
                    format!("{}:{line}: ", file.display())
                });
                // A string takes whatever is written.
                let _ = writeln!(text, "{mark} {} ({label})", shown(&format!("{at}{what}")));
                for sentence in [why, fix].into_iter().filter(|text| !text.is_empty()) {
                    let _ = writeln!(text, "  {}", shown(sentence));
                }
                for line in lines {
                    let _ = writeln!(text, "      {}", shown(line));
                }
                text.push('\n');
            }
        }
        for Unchecked { what, why } in &self.unchecked {
            let _ = writeln!(text, "? not checked: {}: {}", shown(what), shown(why));
        }
        let echoes = match &self.echoed[..] {
            [] => String::new(),
            urls => format!(": echoes through {}", shown(&urls.join(", "))),
        };
        let _ = match self.findings.len() {
            0 => writeln!(text, "All well{echoes}."),
            1 => writeln!(text, "1 finding{echoes}."),
            many => writeln!(text, "{many} findings{echoes}."),
        };
        text
    }

    /// For programs: one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let unchecked = |it: &Unchecked| json!({ "what": shown(&it.what), "why": shown(&it.why) });
        let value = json!({
            "healthy": self.is_healthy(),
            "version": env!("CARGO_PKG_VERSION"),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "advice": self.advice.iter().map(finding).collect::<Vec<_>>(),
            "unchecked": self.unchecked.iter().map(unchecked).collect::<Vec<_>>(),
            "echoed": self.echoed.iter().map(|url| shown(url)).collect::<Vec<_>>(),
        });
        format!("{value}\n")
    }
}

fn finding(it: &Finding) -> Value {
    json!({
        "label": it.label,
        "file": it.place.as_ref().map(|place| shown(&place.file.display().to_string())),
        "line": it.place.as_ref().map(|place| place.line),
        "what": shown(&it.what),
        "why": shown(&it.why),
        "fix": shown(&it.fix),
        "lines": it.lines.iter().map(|line| shown(line)).collect::<Vec<_>>(),
    })
}

/// A text from a file or a tool.
fn shown(text: &str) -> String {
    one_line(text, MAX_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_host_takes_one_line() {
        let report = Report { echoed: vec!["ws://127.0.0.1:8888/".into()], ..Report::default() };
        assert_eq!(report.terminal(), "All well: echoes through ws://127.0.0.1:8888/.\n");
    }

    #[test]
    fn text_from_a_file_can_neither_garble_a_terminal_nor_fill_it() {
        let what = format!("\u{1b}[2J\n{}", "x".repeat(5_000));
        let report =
            Report { findings: vec![Finding { what, ..Finding::default() }], ..Report::default() };
        for text in [report.terminal(), report.json()] {
            assert!(!text.contains('\u{1b}') && text.len() < 3_000, "{text}");
        }
        assert_eq!(report.json().lines().count(), 1);
    }
}
