//! Logging: where records go, what they look like, and how network text gets into them.
//!
//! Owns tracing-subscriber, the format of a line, and [`Untrusted`], the one type through which
//! bytes from a peer may reach a log. It does not know what is logged.
//!
//! Sources: sd-daemon(3) for the `<N>` prefixes; journald of EL 7.0 to 7.4 splits lines at 2,048
//! bytes, so every record is one line below that.

mod limiter;

use std::env;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Deserialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{self as layer, FmtContext};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::limiter::Limiter;

/// The longest line, in bytes, its newline included.
const MAX_LINE: usize = 2047;
/// Records that may wait for a slow reader of stderr; beyond that, new ones are lost.
const QUEUE: usize = 8192;

/// The least severe level that is logged: `log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The service cannot do its job.
    Error,
    /// An administrator should look at this. A peer alone can never cause it.
    Warn,
    /// One line per session, and the life cycle of the service.
    #[default]
    Info,
    /// Why something was decided.
    Debug,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
        }
    }
}

/// The format of a record: `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `journal` if stderr is connected to journald, otherwise `text`.
    #[default]
    Auto,
    /// With the time; on a terminal with colour.
    Text,
    /// With the `<N>` priority for journald, which adds the time itself.
    Journal,
    /// One JSON object per line.
    Json,
}

/// Text from a peer, made safe to log: escaped so that it stays on its line and in its field, and
/// cut to 256 bytes.
///
/// Control characters, quotes, backslashes, the invisible marks that reorder text (UAX #9), U+2028
/// and U+2029 are escaped; bytes that are not UTF-8 become U+FFFD.
#[derive(Clone, Copy, Debug)]
pub struct Untrusted<'a>(pub &'a [u8]);

impl Untrusted<'_> {
    /// The most bytes one value takes in a log line.
    pub const MAX: usize = 256;
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CUT: char = '…';
        let mut escaped = String::with_capacity(self.0.len().min(Self::MAX));
        // No character shrinks when escaped, so nothing beyond this many bytes can show.
        for character in String::from_utf8_lossy(&self.0[..self.0.len().min(Self::MAX + 1)]).chars()
        {
            let before = escaped.len();
            if needs_escape(character) || matches!(character, '"' | '\\') {
                escaped.extend(character.escape_default());
            } else {
                escaped.push(character);
            }
            if escaped.len() > Self::MAX - CUT.len_utf8() {
                escaped.truncate(before);
                escaped.push(CUT);
                break;
            }
        }
        f.write_str(&escaped)
    }
}

/// Whether a character could break a line, or change how the rest of it is displayed.
fn needs_escape(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// A text in one line of at most `max` characters, without anything that a terminal obeys.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == max {
            line.push('…');
            break;
        }
        if needs_escape(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Whether stderr is the stream socket that journald listens on.
///
/// systemd 219 does not set `JOURNAL_STREAM` (new in 231), so the name of the peer has to do.
fn stderr_is_the_journal() -> bool {
    let peer = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stderr| UnixStream::from(stderr).peer_addr());
    peer.is_ok_and(|peer| {
        peer.as_pathname().is_some_and(|path| path.as_os_str() == "/run/systemd/journal/stdout")
    })
}

/// Prints a fatal error on stderr, line by line, in the format of the log once that has started.
pub fn print_error(message: &impl fmt::Display) {
    let style = STYLE.get();
    let journal = style.is_none() && stderr_is_the_journal();
    for line in message.to_string().lines() {
        let line = match style {
            Some(Style::Json(json)) => {
                let mut time = String::new();
                // A string takes whatever is written.
                let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
                let record =
                    serde_json::json!({ "timestamp": time, "level": "ERROR", "message": line });
                json.named(&record.to_string())
            }
            Some(Style::Line(Line::Journal)) => format!("<3>{line}"),
            None if journal => format!("<3>{line}"),
            Some(Style::Line(Line::Text { .. })) | None => format!("wsecho: {line}"),
        };
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Keeps a failing process alive until journald has read its last line.
///
/// journald 219 finds the unit of a line through its process: if that is gone, `journalctl -u` does
/// not show the line.
pub fn linger() {
    /// Measured on EL 7: 9 of 25 reasons were missing without it, none with it.
    const LOOKUP: Duration = Duration::from_millis(100);
    if stderr_is_the_journal() {
        std::thread::sleep(LOOKUP);
    }
}

/// What the log looks like, from its start on.
static STYLE: OnceLock<Style> = OnceLock::new();

/// The running log, flushed on drop.
pub struct Logging {
    level: reload::Handle<LevelFilter, tracing_subscriber::Registry>,
    lost: Lost,
    _worker: WorkerGuard,
}

impl Logging {
    /// Starts logging to stderr, panics included.
    ///
    /// Records pass through a bounded queue, and are lost if the reader of stderr stalls: logging
    /// must never block a session. `instance` is the name that every record carries, unless it is
    /// empty or journald names the unit.
    ///
    /// # Panics
    /// If called twice in one process.
    #[must_use]
    pub fn start(format: Format, level: Level, instance: &str) -> Self {
        let failed = Arc::<AtomicUsize>::default();
        let (writer, worker) = NonBlockingBuilder::default()
            .buffered_lines_limit(QUEUE)
            .lossy(true)
            .thread_name("log")
            .finish(Stderr(Arc::clone(&failed)));
        let lost = Lost { queue: Some(writer.error_counter()), failed };
        let (filter, level) = reload::Layer::new(LevelFilter::from(level));
        let layer = layer::layer().with_writer(writer);
        let registry = tracing_subscriber::registry().with(filter);
        match STYLE.get_or_init(|| Style::of(format, instance)) {
            Style::Line(line) => registry.with(layer.event_format(line)).init(),
            Style::Json(json) => {
                let layer = layer.fmt_fields(format::JsonFields::new());
                registry.with(layer.event_format(json)).init();
            }
        }
        std::panic::set_hook(Box::new(|panic| {
            tracing::error!(cause = %panic, "panic: please report this");
        }));
        Self { level, lost, _worker: worker }
    }

    /// The counter of lost lines.
    #[must_use]
    pub fn lost(&self) -> Lost {
        self.lost.clone()
    }

    /// Changes the level, from the next record on.
    pub fn set_level(&self, level: Level) {
        self.level.reload(LevelFilter::from(level)).expect("the subscriber lives with the process");
    }
}

/// Counts lines lost because the queue to stderr was full, or because writing to it failed. Without a
/// log there are none.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    queue: Option<ErrorCounter>,
    failed: Arc<AtomicUsize>,
}

impl Lost {
    /// How many have been lost since the start.
    #[must_use]
    pub fn count(&self) -> usize {
        let queue = self.queue.as_ref().map_or(0, ErrorCounter::dropped_lines);
        queue + self.failed.load(Ordering::Relaxed)
    }
}

/// Stderr, with one line per write. Counts the writes that fail: the reader is gone, or the disk is
/// full.
struct Stderr(Arc<AtomicUsize>);

impl io::Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`Format`], once it is known where stderr leads.
#[derive(Debug)]
enum Style {
    Line(Line),
    Json(Json),
}

impl Style {
    fn of(format: Format, instance: &str) -> Self {
        match format {
            Format::Json => Self::Json(Json::of(instance)),
            Format::Journal => Self::Line(Line::Journal),
            Format::Auto if stderr_is_the_journal() => Self::Line(Line::Journal),
            Format::Auto | Format::Text => {
                let colour = io::stderr().is_terminal() && wants_colour(|name| env::var_os(name));
                Self::Line(Line::Text { colour, instance: instance.into() })
            }
        }
    }
}

/// The two formats for people.
#[derive(Debug)]
enum Line {
    /// Without the name of the instance: journald has that of its unit.
    Journal,
    Text {
        colour: bool,
        instance: Box<str>,
    },
}

/// Whether the user of a terminal wants colour, by the conventions of no-color.org and terminfo(5).
pub(crate) fn wants_colour(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty())
        && variable("TERM").is_none_or(|terminal| terminal != "dumb")
}

impl<S, N> FormatEvent<S, N> for &'static Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(256);
        let level = *event.metadata().level();
        let mut fields = Fields::default();
        match self {
            Line::Journal => {
                let priority = match level {
                    tracing::Level::ERROR => 3,
                    tracing::Level::WARN => 4,
                    tracing::Level::INFO => 6,
                    tracing::Level::DEBUG | tracing::Level::TRACE => 7,
                };
                write!(line, "<{priority}>")?;
            }
            Line::Text { colour, instance } => {
                SystemTime.format_time(&mut format::Writer::new(&mut line))?;
                let (on, off) = match (colour, level) {
                    (false, _) => ("", ""),
                    (true, tracing::Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
                    (true, tracing::Level::WARN) => ("\x1b[33m", "\x1b[0m"),
                    (true, _) => ("\x1b[2m", "\x1b[0m"),
                };
                write!(line, " {on}{level:>5}{off} ")?;
                // First, so that it is never cut.
                if !instance.is_empty() {
                    fields.add("instance", instance);
                }
            }
        }
        event.record(&mut fields);
        line.extend([fields.message, fields.rest]);
        cut(&mut line, MAX_LINE - 1);
        writeln!(writer, "{line}")
    }
}

/// Records as JSON objects, each with the name of the instance.
#[derive(Debug)]
struct Json {
    format: format::Format<format::Json>,
    /// What ends an object.
    end: String,
}

impl Json {
    fn of(instance: &str) -> Self {
        let format = format::format().json().flatten_event(true).with_current_span(false);
        let end = match instance {
            "" => "}".to_owned(),
            name => format!(",\"instance\":{}}}", serde_json::Value::from(name)),
        };
        Self { format: format.with_span_list(false).with_target(false), end }
    }

    /// An object with the name added to it.
    fn named(&self, object: &str) -> String {
        let open = object.trim_end().strip_suffix('}').unwrap_or(object);
        [open, &self.end].concat()
    }
}

impl<S> FormatEvent<S, format::JsonFields> for &'static Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, format::JsonFields>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = String::with_capacity(256);
        self.format.format_event(context, format::Writer::new(&mut object), event)?;
        writeln!(writer, "{}", self.named(&object))
    }
}

/// A message and its fields as `message key=value key="two words"`.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = one_line(&format!("{value:?}"), usize::MAX);
        match field.name() {
            "message" => self.message = text,
            name => self.add(name, &text),
        }
    }
}

impl Fields {
    fn add(&mut self, name: &str, text: &str) {
        let quote = if text.is_empty() || text.contains([' ', '=']) { "\"" } else { "" };
        self.rest.extend([" ", name, "=", quote, text, quote]);
    }
}

/// Cuts a line to at most `max` bytes, between characters.
pub(crate) fn cut(line: &mut String, max: usize) {
    if line.len() > max {
        line.truncate((0..=max).rfind(|&at| line.is_char_boundary(at)).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_text_stays_on_its_line_and_in_its_field() {
        let cases: [(&[u8], &str); 7] = [
            (b"plain", "plain"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            (b"a\r\nb\x1b[31m", r"a\r\nb\u{1b}[31m"),
            (b"\" x=1", "\\\" x=1"),
            ("\u{202e}abc\u{2028}".as_bytes(), r"\u{202e}abc\u{2028}"),
            ("\u{9b}31m".as_bytes(), r"\u{9b}31m"),
            (b"\xff<3>", "\u{fffd}<3>"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(Untrusted(bytes).to_string(), shown, "{bytes:?}");
        }
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        for (variables, wanted) in [
            (&[][..], true),
            (&[("NO_COLOR", ""), ("TERM", "xterm")], true),
            (&[("NO_COLOR", "1")], false),
            (&[("TERM", "dumb")], false),
        ] {
            let found = |name: &str| variables.iter().find(|(variable, _)| *variable == name);
            let wants = wants_colour(|name| found(name).map(|(_, value)| value.into()));
            assert_eq!(wants, wanted, "{variables:?}");
        }
    }

    #[test]
    fn network_text_is_cut_to_256_bytes() {
        for bytes in [vec![b'a'; 300], vec![0; 300], "\u{20ac}".repeat(100).into_bytes()] {
            let shown = Untrusted(&bytes).to_string();
            assert!(shown.len() <= Untrusted::MAX, "{} bytes", shown.len());
            assert!(shown.ends_with('…'), "{shown}");
        }
        assert_eq!(Untrusted(&[b'a'; 253]).to_string().len(), 253, "what fits is left as it is");
    }
}
