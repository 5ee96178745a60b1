//! Text from the network as it stands in a report: cut, and without anything that a terminal obeys.
//!
//! Owns how much of it is shown. What is to be escaped is what log lines escape, too.

use crate::ops::logging::one_line;

/// The longest line of text from the network in a report, in characters.
const MAX_LINE: usize = 256;
/// The most lines of a body in a report.
const MAX_LINES: usize = 24;

/// A line of text from the network, which cannot break the line or garble a terminal.
pub fn printable(bytes: &[u8]) -> String {
    one_line(String::from_utf8_lossy(bytes).trim(), MAX_LINE)
}

/// The start of bytes that may be no text, as one line.
pub fn printable_start(bytes: &[u8]) -> String {
    const MOST: usize = 60;
    let start = printable(&bytes[..bytes.len().min(MOST)]);
    if bytes.len() > MOST { start + "…" } else { start }
}

/// Text of several lines from the network, each of them [`printable`].
pub fn printable_lines(bytes: &[u8]) -> String {
    let lines = bytes.split(|byte| *byte == b'\n').take(MAX_LINES);
    let lines: Vec<_> = lines
        .map(|line| {
            let indent = line.iter().take_while(|byte| **byte == b' ').count().min(8);
            " ".repeat(indent) + &printable(line)
        })
        .collect();
    lines.join("\n").trim_end().to_owned()
}
