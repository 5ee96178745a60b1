//! The table of keys as a commented configuration file and as a section of a manual page, and that of
//! a probe's failures as another.
//!
//! Source: the macros of man(7).

use std::fmt::Write as _;

use wsecho::config::Config;
use wsecho::config::keys::{ENDPOINT, ENDPOINT_SUMMARY, KEYS, Key};
use wsecho::probe::failure::Failure;

/// Every key with its summary and default, commented out, for config/wsecho.toml.
pub fn configuration() -> String {
    let sections = KEYS.chunk_by(|one, next| one.section() == next.section());
    let blocks = sections.map(|keys| match keys[0].section() {
        "" => commented(keys),
        ENDPOINT => endpoints(keys),
        section => format!("[{section}]\n{}", commented(keys)),
    });
    blocks.collect::<Vec<_>>().join("\n")
}

fn commented(keys: &[Key]) -> String {
    let commented = |key: &Key| {
        let default = key.default.expect("only endpoints have keys without a default");
        format!("{}#{} = {default}\n", comment(key), key.name())
    };
    keys.iter().map(commented).collect::<Vec<_>>().join("\n")
}

fn comment(key: &Key) -> String {
    let restart = if key.needs_restart() { " (restart)" } else { "" };
    format!("{}# Type: {}{restart}\n", note(key.summary), key.kind())
}

/// A comment. Where there are quotes, backquotes would be too much.
fn note(text: &str) -> String {
    let mark = |(index, part): (usize, &str)| {
        let plain = index % 2 == 0 || part.contains('"');
        if plain { part.to_owned() } else { format!("`{part}`") }
    };
    let text: String = text.split('`').enumerate().map(mark).collect();
    wrap(&text, "# ", 100)
}

/// The default endpoints, with comments in the first of them.
fn endpoints(keys: &[Key]) -> String {
    let mut text = note(ENDPOINT_SUMMARY);
    for (index, endpoint) in Config::default().policy.endpoints.iter().enumerate() {
        text += if index == 0 { "#[[endpoint]]\n" } else { "\n#[[endpoint]]\n" };
        for key in keys {
            if index == 0 {
                text += &comment(key);
            }
            let value = match key.name() {
                "path" => format!("{:?}", endpoint.path),
                "prefix" => format!("{:?}", endpoint.prefix),
                _ => key.default.expect("not in the default endpoints").to_owned(),
            };
            writeln!(text, "#{} = {value}", key.name()).unwrap();
        }
    }
    text
}

/// Each failure of a probe, by stage, for wsecho-probe(1).
pub fn failures() -> String {
    let mut page = String::new();
    for failures in Failure::ALL.chunk_by(|one, next| one.stage() == next.stage()) {
        writeln!(page, ".SS {}", failures[0].stage().label()).unwrap();
        for failure in failures {
            let [meaning, remedy] =
                [failure.meaning(), failure.remedy()].map(|it| it.replace('-', "\\-"));
            writeln!(page, ".TP\n.B {}\n{meaning}\n{remedy}", failure.label()).unwrap();
        }
    }
    page
}

/// Every key with all that is known about it, for wsecho.toml(5).
pub fn manual() -> String {
    let mut page = String::new();
    for keys in KEYS.chunk_by(|one, next| one.section() == next.section()) {
        let (heading, summary) = match keys[0].section() {
            "" => ("Top of the file".to_owned(), ""),
            ENDPOINT => (format!("[[{ENDPOINT}]]"), ENDPOINT_SUMMARY),
            section => (format!("[{section}]"), ""),
        };
        write!(page, ".SS {heading}\n{}", paragraph(summary)).unwrap();
        for key in keys {
            writeln!(page, ".TP\n.B {}", key.name()).unwrap();
            page += &paragraph(key.summary);
            page += &key.details.split("\n\n").map(paragraph).collect::<Vec<_>>().join(".IP\n");
            page += &facts(key);
        }
    }
    page
}

fn facts(key: &Key) -> String {
    let default = key.default.map_or("none, required".to_owned(), literal);
    let occasion = if key.needs_restart() { "restart" } else { "reload" };
    let (kind, since) = (literal(&key.kind()), key.since);
    format!(
        ".br\nType: {kind}.\nDefault: {default}.\nTakes effect on {occasion}.\nSince {since}.\n"
    )
}

/// Escapes what troff would not print as it is.
fn literal(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('^', "\\(ha")
}

fn paragraph(text: &str) -> String {
    wrap(&roff(text), "", 80)
}

/// Prints in bold what is in backquotes. A reference to another page keeps its section roman.
fn roff(text: &str) -> String {
    let mut page = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 0 {
            page += part;
        } else if let Some((name, section)) = part.split_once('(') {
            write!(page, "\\fB{}\\fR({section}", literal(name)).unwrap();
        } else {
            write!(page, "\\fB{}\\fR", literal(part)).unwrap();
        }
    }
    page
}

/// Fills lines of at most `width` characters, each of which begins with `prefix`.
fn wrap(text: &str, prefix: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{prefix}{word}")),
        }
    }
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}
