//! A report for people: a line per stage, then the verdict, and what to do next.
//!
//! Owns the layout: at most 100 columns, what is seen before what it means.

mod measured;

use std::fmt::Write as _;
use std::time::Duration;

pub use self::measured::sparkline;
use super::{
    Agreed, Answer, Attempt, Closed, Ending, Http2, Outcome, Report, Stage, Tls, days, expired,
};
use crate::probe::failure::Failed;

/// The widest line that is wrapped.
const WIDTH: usize = 100;

/// The column of the facts.
const FACTS: usize = 25;

/// How much is printed, and in which form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether the terminal shows colours.
    pub colour: bool,
    /// Whether both heads are shown.
    pub verbose: bool,
    /// Whether only the verdict is.
    pub quiet: bool,
}

/// Prints a report.
#[must_use]
pub fn print(report: &Report, style: Style) -> String {
    let mut out = String::new();
    if style.quiet {
        let verdict = match &report.failed {
            None => healthy(report).join(" "),
            Some(failed) => short(failed),
        };
        return format!("{}: {verdict}\n", report.url);
    }
    for redirect in &report.redirects {
        line(&mut out, &redirect.url);
        line(&mut out, &format!("  {} to {}", redirect.status, redirect.location));
    }
    line(&mut out, &report.url);
    for step in &report.steps {
        let facts = facts(report, step.stage);
        let (mark, facts) = match step.outcome {
            Outcome::Passed => (style.paint("32", "✓"), facts),
            Outcome::Failed => (style.paint("31", "✗"), facts),
            Outcome::Omitted(why) => ("-".to_owned(), why.to_owned()),
        };
        let shown = match (step.stage, step.outcome) {
            (Stage::Echo, Outcome::Passed) => report.round_trip(),
            (Stage::Close, Outcome::Passed) => report.closed.as_ref().map(|closed| closed.took),
            (Stage::Http2, Outcome::Passed) => {
                report.http2.as_ref().and_then(|http2| http2.round_trip)
            }
            _ => step.took,
        };
        let time = shown.map(milliseconds).unwrap_or_default();
        let stage = format!("  {mark} {:8} {time:>10}  ", step.stage.label());
        let facts = wrapped(&facts, WIDTH - FACTS).join(&format!("\n{:FACTS$}", ""));
        line(&mut out, (stage + &facts).trim_end());
    }
    for (name, figure, facts) in measured::lines(&report.measured) {
        let facts = wrapped(&facts, WIDTH - FACTS).join(&format!("\n{:FACTS$}", ""));
        line(&mut out, &format!("    {name:8} {figure:>10}  {facts}"));
    }
    if style.verbose {
        heads(&mut out, report);
    }
    out.push('\n');
    match &report.failed {
        None => healthy(report).iter().for_each(|text| paragraph(&mut out, text)),
        Some(failed) => unhealthy(&mut out, failed),
    }
    if report.failed.is_some() && !report.warnings.is_empty() {
        out.push('\n');
    }
    for warning in &report.warnings {
        paragraph(&mut out, &format!("Warning: {warning}"));
    }
    out
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// A time as people compare them.
#[must_use]
pub fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    // On loopback one digit would show nothing.
    let digits = if milliseconds < 1.0 { 2 } else { 1 };
    format!("{milliseconds:.digits$} ms")
}

/// What was found at a stage.
fn facts(report: &Report, stage: Stage) -> String {
    match stage {
        Stage::Resolve => {
            report.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        Stage::Tcp => tcp(report),
        Stage::Tls => report.tls.as_ref().map(tls).unwrap_or_default(),
        Stage::Http => report.answer.as_ref().map(answer).unwrap_or_default(),
        Stage::Upgrade => report.agreed.as_ref().map(agreed).unwrap_or_default(),
        Stage::Echo => echo(report),
        Stage::Ping => String::new(),
        Stage::Close => report.closed.as_ref().map(closed).unwrap_or_default(),
        Stage::Http2 => report.http2.as_ref().map(http2).unwrap_or_default(),
    }
}

fn tcp(report: &Report) -> String {
    let Some((used, others)) = report.attempts.split_last() else { return String::new() };
    let shown = |attempt: &Attempt| match &attempt.error {
        None => format!("{}: {}", attempt.to, milliseconds(attempt.took)),
        Some(error) => format!("{}: {error}", attempt.to),
    };
    let mut text = if used.error.is_none() { used.to.clone() } else { shown(used) };
    if !others.is_empty() {
        let others: Vec<_> = others.iter().map(shown).collect();
        let _ = write!(text, " ({})", others.join("; "));
    }
    match &report.tunnel {
        Some(proxy) => format!("{text}, through the HTTP proxy {proxy}"),
        None => text,
    }
}

fn tls(tls: &Tls) -> String {
    let mut facts = vec![tls.version.clone()];
    facts.extend(tls.alpn.clone());
    if let Some(leaf) = tls.chain.first() {
        facts.push(leaf.names.first().unwrap_or(&leaf.subject).clone());
        let left = || format!("{} left", days(leaf.days_left));
        facts.push(expired(leaf.days_left).unwrap_or_else(left));
    }
    if !tls.verified {
        facts.push("not verified".to_owned());
    }
    facts.join(", ")
}

fn answer(answer: &Answer) -> String {
    let mut text = format!("{} {}", answer.status, answer.reason);
    for (name, value) in &answer.from {
        let _ = write!(text, ", {name}: {value}");
    }
    text
}

fn agreed(agreed: &Agreed) -> String {
    let mut text = "accept value correct".to_owned();
    if agreed.extensions.is_some() {
        text += ", permessage-deflate agreed";
    }
    if let Some(subprotocol) = &agreed.subprotocol {
        let _ = write!(text, ", subprotocol {subprotocol}");
    }
    text
}

fn echo(report: &Report) -> String {
    let mut facts: Vec<_> = report.round_trips.iter().map(|trip| trip.message.to_owned()).collect();
    if let Some(prefix) = &report.prefix {
        facts.push(format!("text prefixed with {prefix:?}"));
    }
    if report.greeting.is_some() {
        facts.push("after a greeting".to_owned());
    }
    facts.join(", ")
}

fn closed(closed: &Closed) -> String {
    let answered = match closed.answered {
        Some(code) => code.to_string(),
        None => "no code".to_owned(),
    };
    let end = match closed.end {
        Ending::Fin => "",
        Ending::Reset => ", then a reset",
        Ending::LeftOpen => ", connection left open",
    };
    format!("{} answered with {answered}{end}", closed.sent)
}

fn http2(http2: &Http2) -> String {
    match http2.status {
        Some(status) => format!("extended CONNECT: {status}"),
        None => String::new(),
    }
}

/// The verdict on a healthy path, and what was measured on it.
fn healthy(report: &Report) -> Vec<String> {
    let trip = report.round_trip().map(milliseconds).unwrap_or_default();
    let insecure = if report.insecure { ", but the certificate was not verified" } else { "" };
    let works = format!("WebSockets work on this path: {trip} round trip{insecure}.");
    [works].into_iter().chain(measured::verdicts(&report.measured)).collect()
}

/// The verdict on one that is not, on one line.
fn short(failed: &Failed) -> String {
    match failed.diagnosis() {
        Some((text, label)) => {
            let first = text.lines().next().unwrap_or_default();
            format!("{first} ({label}, as wsecho itself says)")
        }
        None => format!("{} ({})", failed.seen, failed.failure.label()),
    }
}

/// The verdict on one that is not: what was seen, what that means, and what to do next.
fn unhealthy(out: &mut String, failed: &Failed) {
    let Failed { failure, seen, quote, .. } = failed;
    if let Some((text, label)) = failed.diagnosis() {
        text.lines().for_each(|text| paragraph(out, text));
        return line(out, &format!("\n({label}, as wsecho itself says)"));
    }
    paragraph(out, seen);
    if let Some(quote) = quote {
        out.push('\n');
        for quoted in quote.lines().flat_map(|quoted| wrapped(quoted, WIDTH - 4)) {
            line(out, format!("  | {quoted}").trim_end());
        }
        out.push('\n');
    }
    paragraph(out, failure.meaning());
    paragraph(out, failure.remedy());
    line(out, &format!("\n({})", failure.label()));
}

fn heads(out: &mut String, report: &Report) {
    let Some(heads) = &report.heads else { return };
    for (mark, lines) in [('>', &heads.request), ('<', &heads.answer)] {
        out.push('\n');
        for text in lines {
            line(out, &cut(&format!("  {mark} {text}"), WIDTH));
        }
    }
}

fn paragraph(out: &mut String, text: &str) {
    for text in wrapped(text, WIDTH) {
        line(out, &text);
    }
}

/// Text broken at spaces, in lines of at most so many characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(last) if last.chars().count() + 1 + word.chars().count() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(cut(word, width)),
        }
    }
    lines
}

/// A line of at most so many characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}
