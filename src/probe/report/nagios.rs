//! A report for Nagios, Icinga and whatever else runs their plugins: one line, figures, a state.
//!
//! Owns the names of the figures, and the limits that an administrator sets on them.
//!
//! Source: the Nagios plugin development guidelines.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use super::measured::{Measurement, Spread};
use super::terminal::{self, Style};
use super::{Report, Stage};
use crate::config::{read_duration, read_size};

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

/// The figures, in the order in which they are printed.
static FIGURES: [Figure; 21] = [
    Figure::time("rtt", Report::round_trip),
    Figure::time("time", |report| Some(report.took)),
    Figure::time("resolve", |report| stage(report, Stage::Resolve)),
    Figure::time("tcp", |report| stage(report, Stage::Tcp)),
    Figure::time("tls", |report| stage(report, Stage::Tls)),
    Figure::time("http", |report| stage(report, Stage::Http)),
    Figure::time("echo", |report| stage(report, Stage::Echo)),
    Figure::time("ping", |report| stage(report, Stage::Ping)),
    Figure::time("close", |report| stage(report, Stage::Close)),
    Figure::time("http2", |report| stage(report, Stage::Http2)),
    Figure { label: DAYS, of: Of::Days(Report::days_left), part_of: None },
    Figure::measured("count_median", Measurement::Count, Of::Time(|it| count(it, 50))),
    Figure::measured("count_p99", Measurement::Count, Of::Time(|it| count(it, 99))),
    Figure::measured("count_max", Measurement::Count, Of::Time(|it| count(it, 100))),
    Figure::measured(
        "count_lost",
        Measurement::Count,
        Of::Percent(|it| Some(it.measured.count.as_ref()?.lost_percent())),
    ),
    Figure::measured(
        "max_size",
        Measurement::MaxSize,
        Of::Bytes(|it| Some(it.measured.size.as_ref()?.largest_bytes as u64)),
    ),
    Figure::measured(
        "idle",
        Measurement::Idle,
        Of::Silence(|it| Some(it.measured.idle.as_ref()?.survived())),
    ),
    Figure::measured(
        "load_rate",
        Measurement::Load,
        Of::PerSecond(|it| Some(it.measured.load.as_ref()?.rate())),
    ),
    Figure::measured("load_p50", Measurement::Load, Of::Time(|it| Some(latency(it)?.p50))),
    Figure::measured("load_p99", Measurement::Load, Of::Time(|it| Some(latency(it)?.p99))),
    Figure::measured("load_max", Measurement::Load, Of::Time(|it| Some(latency(it)?.max))),
];

const DAYS: &str = "days";

fn stage(report: &Report, stage: Stage) -> Option<Duration> {
    report.step(stage)?.took
}

fn count(report: &Report, percent: usize) -> Option<Duration> {
    report.measured.count.as_ref()?.percentile(percent)
}

fn latency(report: &Report) -> Option<Spread> {
    report.measured.load.as_ref()?.latency
}

/// A figure.
#[derive(Debug)]
struct Figure {
    /// Its name: unique in 19 characters, the number of a URL in front included.
    label: &'static str,
    of: Of,
    /// The measurement that it is part of, without which it is not printed.
    part_of: Option<Measurement>,
}

/// What a report has for a figure, by the unit in which it is printed.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// In seconds; the less, the better.
    Time(fn(&Report) -> Option<Duration>),
    /// In seconds; the more, the better.
    Silence(fn(&Report) -> Option<Duration>),
    /// Without a unit, as Nagios has none for days; the more, the better.
    Days(fn(&Report) -> Option<i64>),
    /// The less, the better.
    Percent(fn(&Report) -> Option<f64>),
    /// The more, the better.
    Bytes(fn(&Report) -> Option<u64>),
    /// Without a unit; the more, the better.
    PerSecond(fn(&Report) -> Option<f64>),
}

impl Figure {
    const fn time(label: &'static str, of: fn(&Report) -> Option<Duration>) -> Self {
        Self { label, of: Of::Time(of), part_of: None }
    }

    const fn measured(label: &'static str, measurement: Measurement, of: Of) -> Self {
        Self { label, of, part_of: Some(measurement) }
    }

    fn is_shown(&self, report: &Report) -> bool {
        self.part_of.is_none_or(|part_of| report.measured.asked.contains(&part_of))
    }

    #[expect(clippy::cast_precision_loss, reason = "exact for ages, and for what fits into memory")]
    fn value(&self, report: &Report) -> Option<f64> {
        match self.of {
            Of::Time(of) | Of::Silence(of) => of(report).map(|time| time.as_secs_f64()),
            Of::Days(of) => of(report).map(|days| days as f64),
            Of::Percent(of) | Of::PerSecond(of) => of(report),
            Of::Bytes(of) => of(report).map(|bytes| bytes as f64),
        }
    }

    /// Whether a limit is the least that is good, and not the most.
    fn is_least(&self) -> bool {
        !matches!(self.of, Of::Time(_) | Of::Percent(_))
    }

    /// A value as people read it.
    fn shown(&self, value: f64) -> String {
        match self.of {
            Of::Time(_) => terminal::milliseconds(Duration::from_secs_f64(value)),
            Of::Silence(_) => format!("{value:.1} s"),
            Of::Days(_) => value.to_string(),
            Of::Percent(_) => format!("{value:.1} %"),
            Of::Bytes(_) => format!("{value} B"),
            Of::PerSecond(_) => format!("{value:.0}/s"),
        }
    }

    /// A value with the unit that Nagios knows.
    fn performance(&self, value: f64) -> String {
        match self.of {
            Of::Time(_) | Of::Silence(_) => format!("{value:.6}s"),
            Of::Days(_) => value.to_string(),
            Of::Percent(_) => format!("{value:.3}%"),
            Of::Bytes(_) => format!("{value}B"),
            Of::PerSecond(_) => format!("{value:.1}"),
        }
    }

    /// The least and the greatest value that it can have, as far as there are any.
    fn ends(&self, report: &Report) -> String {
        match self.of {
            Of::Days(_) => String::new(),
            Of::Percent(_) => ";0;100".to_owned(),
            _ if self.label == "time" => format!(";0;{}", report.timeout.as_secs_f64()),
            _ => ";0".to_owned(),
        }
    }

    /// The value of a limit on it.
    #[expect(clippy::cast_precision_loss, reason = "as of a value")]
    fn read(&self, text: &str) -> Result<f64, String> {
        match self.of {
            Of::Time(_) | Of::Silence(_) => read_duration(text).map(|time| time.as_secs_f64()),
            Of::Days(_) => {
                let days = text.parse::<u32>().map_err(|_| "write whole days, such as days=14")?;
                Ok(f64::from(days))
            }
            Of::Percent(_) => {
                let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
                percent
                    .filter(|percent| (0.0..=100.0).contains(percent))
                    .ok_or_else(|| format!("write 0% to 100%, such as {}=0.5%", self.label))
            }
            Of::Bytes(_) => read_size(text).map(|bytes| bytes as f64),
            Of::PerSecond(_) => {
                let rate = text.parse::<u32>().map_err(|_| {
                    format!("write a whole number per second, such as {}=1000", self.label)
                })?;
                Ok(f64::from(rate))
            }
        }
    }
}

/// A limit on a figure: at most so much of a time or a loss, at least so much of what should be large.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    figure: &'static Figure,
    at: f64,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, at) = text.split_once('=').unwrap_or((text, ""));
        let Some(figure) = FIGURES.iter().find(|it| it.label == name) else {
            let names: Vec<_> = FIGURES.iter().map(|it| it.label).collect();
            let names = names.join(", ");
            return Err(format!("write NAME=LIMIT, with one of these names: {names}"));
        };
        Ok(Self { figure, at: figure.read(at)? })
    }
}

impl Limit {
    fn is_passed(self, value: f64) -> bool {
        if self.figure.is_least() { value < self.at } else { value > self.at }
    }

    /// The range of values that are good.
    fn range(self) -> String {
        if self.figure.is_least() { format!("{}:", self.at) } else { self.at.to_string() }
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
    /// A figure that has a limit but is not measured, because its measurement was not asked for: its
    /// name, and that measurement.
    pub(in crate::probe) fn unmeasured(
        &self,
        asked: &[Measurement],
    ) -> Option<(&'static str, Measurement)> {
        let parts = self.warn.iter().chain(&self.crit).map(|limit| limit.figure);
        let mut parts = parts.filter_map(|figure| Some((figure.label, figure.part_of?)));
        parts.find(|(_, part_of)| !asked.contains(part_of))
    }

    fn warn(&self, figure: &'static Figure) -> Option<Limit> {
        let days = Limit { figure, at: DEFAULT_DAYS };
        limit(&self.warn, figure).or((figure.label == DAYS).then_some(days))
    }

    /// The worst state that figures alone give a report, and the figure and limit that do.
    fn judge(&self, report: &Report) -> Option<(State, Limit, f64)> {
        let passed = |state, limit: Option<Limit>| {
            let limit = limit?;
            let value = limit.figure.value(report)?;
            limit.is_passed(value).then_some((state, limit, value))
        };
        let crit = |figure| passed(State::Critical, limit(&self.crit, figure));
        let warn = |figure| passed(State::Warning, self.warn(figure));
        FIGURES.iter().find_map(crit).or_else(|| FIGURES.iter().find_map(warn))
    }
}

fn limit(limits: &[Limit], figure: &Figure) -> Option<Limit> {
    limits.iter().rev().find(|it| it.figure.label == figure.label).copied()
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
        for figure in FIGURES.iter().filter(|figure| figure.is_shown(report)) {
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
        let direction = if figure.is_least() { "below" } else { "above" };
        let (value, at) = (figure.shown(value), figure.shown(at));
        text = format!("{} is {value}, {direction} {at}: {text}", figure.label);
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
fn performance(figure: &'static Figure, report: &Report, limits: &Limits) -> String {
    let range = |limit: Option<Limit>| limit.map(Limit::range).unwrap_or_default();
    let (warn, crit) = (range(limits.warn(figure)), range(limit(&limits.crit, figure)));
    let value = figure.value(report).map_or("U".to_owned(), |value| figure.performance(value));
    format!("{}={value};{warn};{crit}{}", figure.label, figure.ends(report))
}
