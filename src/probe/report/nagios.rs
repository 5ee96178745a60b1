//! A report for Nagios, Icinga and whatever else runs their plugins: one line, figures, a state.
//!
//! Owns the names of the figures, and the limits that an administrator sets on them.
//!
//! Source: the Nagios plugin development guidelines.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use super::terminal::{self, Style};
use super::{Report, Stage};
use crate::config::read_duration;

/// The most characters of a line before its figures: old versions of NRPE cut all of it at 1 KB.
const MAX_TEXT: usize = 400;
/// From when on a certificate that expires is worth a warning, unless `--warn` says otherwise.
const DEFAULT_DAYS: f64 = 14.0;

/// The state of a check; the exit code of a plugin is its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// All is well.
    Ok = 0,
    /// A limit of `--warn` is passed.
    Warning = 1,
    /// WebSockets do not work, or a limit of `--crit` is passed.
    Critical = 2,
    /// Nothing was probed.
    Unknown = 3,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    /// All stages, in seconds.
    Time,
    /// The median round trip, in seconds.
    RoundTrip,
    /// One stage, in seconds.
    Stage(Stage),
    /// Until the first certificate expires.
    Days,
}

impl Figure {
    const ALL: [Self; 11] = [
        Self::RoundTrip,
        Self::Time,
        Self::Stage(Stage::Resolve),
        Self::Stage(Stage::Tcp),
        Self::Stage(Stage::Tls),
        Self::Stage(Stage::Http),
        Self::Stage(Stage::Echo),
        Self::Stage(Stage::Ping),
        Self::Stage(Stage::Close),
        Self::Stage(Stage::Http2),
        Self::Days,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::RoundTrip => "rtt",
            Self::Stage(stage) => stage.label(),
            Self::Days => "days",
        }
    }

    fn of(self, report: &Report) -> Option<f64> {
        let time = match self {
            Self::Time => Some(report.took),
            Self::RoundTrip => report.round_trip(),
            Self::Stage(stage) => report.step(stage)?.took,
            Self::Days => {
                let days = report.tls.as_ref()?.chain.iter().map(|it| it.days_left).min()?;
                #[expect(clippy::cast_precision_loss, reason = "exact for ages")]
                return Some(days as f64);
            }
        };
        time.map(|time| time.as_secs_f64())
    }

    /// A value as people read it.
    fn shown(self, value: f64) -> String {
        if self == Self::Days {
            value.to_string()
        } else {
            terminal::milliseconds(Duration::from_secs_f64(value))
        }
    }
}

/// A limit on a figure: at most so much of a time, at least so many days.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    figure: Figure,
    at: f64,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, at) = text.split_once('=').unwrap_or((text, ""));
        let Some(figure) = Figure::ALL.into_iter().find(|it| it.label() == name) else {
            let names = Figure::ALL.map(Figure::label).join(", ");
            return Err(format!("write NAME=LIMIT, with one of these names: {names}"));
        };
        let at = if figure == Figure::Days {
            let days = at.parse::<u32>().map_err(|_| "write whole days, such as days=14")?;
            f64::from(days)
        } else {
            read_duration(at)?.as_secs_f64()
        };
        Ok(Self { figure, at })
    }
}

impl Limit {
    fn is_passed(self, value: f64) -> bool {
        if self.figure == Figure::Days { value < self.at } else { value > self.at }
    }

    /// The range of values that are good.
    fn range(self) -> String {
        if self.figure == Figure::Days { format!("{}:", self.at) } else { self.at.to_string() }
    }
}

/// The limits of `--warn` and `--crit`. Of several on one figure, the last counts.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Beyond these it is a warning.
    pub warn: Vec<Limit>,
    /// Beyond these it is critical.
    pub crit: Vec<Limit>,
}

impl Limits {
    fn warn(&self, figure: Figure) -> Option<Limit> {
        let days = Limit { figure: Figure::Days, at: DEFAULT_DAYS };
        limit(&self.warn, figure).or((figure == Figure::Days).then_some(days))
    }

    /// The worst state that figures alone give a report, and the figure and limit that do.
    fn judge(&self, report: &Report) -> Option<(State, Limit, f64)> {
        let passed = |state, limit: Option<Limit>| {
            let limit = limit?;
            let value = limit.figure.of(report)?;
            limit.is_passed(value).then_some((state, limit, value))
        };
        let crit = |figure| passed(State::Critical, limit(&self.crit, figure));
        let warn = |figure| passed(State::Warning, self.warn(figure));
        let figures = || Figure::ALL.into_iter();
        figures().find_map(crit).or_else(|| figures().find_map(warn))
    }
}

fn limit(limits: &[Limit], figure: Figure) -> Option<Limit> {
    limits.iter().rev().find(|it| it.figure == figure).copied()
}

/// Prints reports. With several, the first line sums them up and has the figures of all, because
/// whatever follows a second `|` would be taken for figures; each gets a line of its own below.
#[must_use]
pub fn print(reports: &[Report], limits: &Limits) -> (String, State) {
    let judged: Vec<_> = reports.iter().map(|report| judge(report, limits)).collect();
    let worst = judged.iter().map(|(state, _)| *state).max().unwrap_or(State::Unknown);
    let count = |state| judged.iter().filter(|(found, _)| *found == state).count();
    let (text, below) = if let [(_, line)] = &judged[..] {
        (line.clone(), String::new())
    } else {
        let [critical, warning, ok] = [State::Critical, State::Warning, State::Ok].map(count);
        let below = judged.iter().map(|(state, line)| format!("{}: {line}\n", state.name()));
        (format!("{critical} critical, {warning} warning, {ok} ok"), below.collect())
    };
    let mut figures = String::new();
    for (index, report) in reports.iter().enumerate() {
        let number = if reports.len() == 1 { String::new() } else { format!("{}_", index + 1) };
        for figure in Figure::ALL {
            let _ = write!(figures, " {number}{}", performance(figure, report, limits));
        }
    }
    (format!("WEBSOCKET {}: {text} |{figures}\n{below}", worst.name()), worst)
}

/// What a plugin prints that could not do its work.
#[must_use]
pub fn unknown(why: &str) -> String {
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("WEBSOCKET UNKNOWN: {}\n", plain(&why))
}

/// The state of a report, and its line.
fn judge(report: &Report, limits: &Limits) -> (State, String) {
    let verdict = terminal::print(report, Style { quiet: true, ..Style::default() });
    let mut text = verdict.trim_end().to_owned();
    for warning in &report.warnings {
        let _ = write!(text, " But: {warning}");
    }
    let passed = limits.judge(report);
    if let Some((_, Limit { figure, at }, value)) = passed {
        let direction = if figure == Figure::Days { "below" } else { "above" };
        let (value, at) = (figure.shown(value), figure.shown(at));
        text = format!("{} is {value}, {direction} {at}: {text}", figure.label());
    }
    let state = match (&report.failed, passed) {
        (Some(_), _) => State::Critical,
        (None, Some((state, ..))) => state,
        (None, None) => State::Ok,
    };
    (state, plain(&text))
}

/// Text of one line that cannot be taken for figures.
fn plain(text: &str) -> String {
    let one = text.replace('|', "¦").replace(['\r', '\n'], " ");
    if one.chars().count() <= MAX_TEXT {
        return one;
    }
    one.chars().take(MAX_TEXT - 1).chain(['…']).collect()
}

/// One figure: `label=value[unit];warn;crit;min;max`. What was not measured is `U`, so that a graph
/// always gets the same figures.
fn performance(figure: Figure, report: &Report, limits: &Limits) -> String {
    let range = |limit: Option<Limit>| limit.map(Limit::range).unwrap_or_default();
    let (warn, crit) = (range(limits.warn(figure)), range(limit(&limits.crit, figure)));
    let value = match (figure, figure.of(report)) {
        (_, None) => "U".to_owned(),
        (Figure::Days, Some(days)) => days.to_string(),
        (_, Some(time)) => format!("{time:.6}s"),
    };
    let ends = match figure {
        Figure::Days => String::new(),
        Figure::Time => format!(";0;{}", report.timeout.as_secs_f64()),
        _ => ";0".to_owned(),
    };
    format!("{}={value};{warn};{crit}{ends}", figure.label())
}
