//! What people write instead of TOML, and the line that they meant.
//!
//! Owns the guesses. Each is tried before it is suggested, so a suggestion that is followed works.
//! It knows the sections, and leaves the keys to who judges a guess.

use super::field::Draft;
use super::keys::KEYS;
use super::read::Document;
use super::{examine, header};

/// What to write instead of a line that is not TOML, below this header.
pub(super) fn remedy(line: &str, above: &str) -> Option<String> {
    if judge(line, above) == Outcome::Valid {
        return Some("something above is not closed: look for a missing \"]\" or quote".to_owned());
    }
    let header = line.trim().strip_prefix('[').and_then(|line| line.split_once("] "));
    if header.is_some_and(|(_, rest)| !rest.trim_start().starts_with('#')) {
        return Some("put what follows the header on a line of its own".to_owned());
    }
    let mut wrong = None;
    for candidate in candidates(line) {
        match judge(&candidate, above) {
            Outcome::Valid => return Some(format!("write: {candidate}")),
            Outcome::Wrong(message) => wrong = wrong.or(Some(message)),
            Outcome::Broken => {}
        }
    }
    // At least its value is known: what is wrong with that comes next anyway.
    wrong
}

/// What a line is by itself.
#[derive(PartialEq, Eq)]
enum Outcome {
    Valid,
    /// TOML, but this is wrong with it.
    Wrong(String),
    Broken,
}

fn judge(line: &str, above: &str) -> Outcome {
    let is_header = line.starts_with('[');
    let text = if is_header { line.to_owned() } else { format!("{above}\n{line}") };
    let document = Document::new(&text);
    examine(&document, &mut Draft::default());
    if document.is_broken() {
        return Outcome::Broken;
    }
    let at = if is_header { 1 } else { 2 };
    // Of a header it is enough that there is such a section.
    let found = document.into_findings(|_, _| None).into_iter().find(|finding| finding.line == at);
    match found {
        Some(finding) if !is_header => Outcome::Wrong(finding.message),
        _ => Outcome::Valid,
    }
}

/// What a line may have been meant to be, the most probable first.
fn candidates(line: &str) -> Vec<String> {
    let line: String = line.chars().filter(|c| !is_invisible(*c)).map(straight).collect();
    let line = line.trim();
    for mark in ["//", ";", "--", "/*", "<!--"] {
        if let Some(comment) = line.strip_prefix(mark) {
            let comment = comment.trim_end_matches(['*', '/', '>', '-']).trim();
            return vec![format!("# {comment}")];
        }
    }
    let line = without_comment(line).trim_end_matches([';', ',', '\\', ' ', '\t']);
    let name = line.trim_matches(['[', ']', ' ', ':', '{', '=']);
    if let Some(key) = KEYS.iter().find(|key| !key.section().is_empty() && key.section() == name) {
        return vec![header(key.section())];
    }
    let Some((key, value)) = assignment(line) else { return Vec::new() };
    values(value).into_iter().map(|value| format!("{key} = {value}")).collect()
}

/// Typographic quotes, as word processors and web pages have them.
fn straight(c: char) -> char {
    match c {
        '“' | '”' | '„' | '«' | '»' | '‘' | '’' | '‚' => '"',
        c if c.is_whitespace() => ' ',
        c => c,
    }
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}')
        || (c.is_control() && c != '\t')
}

/// The part of a line before a comment of whatever language.
fn without_comment(line: &str) -> &str {
    const MARKS: [&str; 5] = ["#", "//", ";", "-- ", "/*"];
    let mut quote = None;
    for (at, c) in line.char_indices() {
        if quote.is_some() {
            quote = quote.filter(|open| *open != c);
        } else if matches!(c, '"' | '\'') {
            quote = Some(c);
        } else if line[..at].ends_with([' ', ';'])
            && MARKS.iter().any(|it| line[at..].starts_with(it))
        {
            return line[..at].trim_end();
        }
    }
    line
}

/// The key and the value of a line, whatever stands between them.
fn assignment(line: &str) -> Option<(String, &str)> {
    let line = ["export ", "set "].iter().find_map(|it| line.strip_prefix(it)).unwrap_or(line);
    let end = line.find(['=', ':']).or_else(|| line.find([' ', '\t']))?;
    let (key, value) = line.split_at(end);
    let key = key.trim().trim_matches(['"', '\'']).replace([' ', '-'], "_");
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let value = value.trim_start_matches(['=', ':', ' ', '\t']).trim();
    let is_whole = !key.is_empty() && !value.is_empty();
    (is_whole && key.chars().all(is_key)).then_some((key, value))
}

/// What a value may have been meant to be.
fn values(value: &str) -> Vec<String> {
    let bare = value.trim_matches(['"', '\'']);
    let mut all = vec![value.to_owned()];
    match bare.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => all.push("true".to_owned()),
        "false" | "no" | "off" | "0" => all.push("false".to_owned()),
        _ => {}
    }
    all.extend(quoted(bare));
    let digits = bare.replace([',', '_', '\'', ' '], "");
    all.push(match digits.trim_start_matches(['0', '+']) {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    });
    let listed =
        value.strip_prefix('[').map_or(value, |rest| rest.strip_suffix(']').unwrap_or(rest));
    let items = listed.split([',', ' ']).map(|item| item.trim_matches(['"', '\'']));
    let items: Option<Vec<String>> = items.filter(|item| !item.is_empty()).map(quoted).collect();
    all.extend(items.map(|items| format!("[{}]", items.join(", "))));
    all
}

/// A string in TOML. One that has both backslashes and single quotes is nobody's slip.
fn quoted(text: &str) -> Option<String> {
    if !text.contains(['"', '\\']) {
        return Some(format!("\"{text}\""));
    }
    (!text.contains('\'')).then(|| format!("'{text}'"))
}
