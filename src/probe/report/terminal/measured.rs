//! The measurements in a report for people.
//!
//! Owns their lines and sentences: what was seen first, then whose limit it probably is, and what
//! would confirm that.

use std::fmt::Write as _;
use std::time::Duration;

use super::milliseconds;
use crate::config::{show_duration, show_size};
use crate::probe::report::measured::{Count, Cut, Idle, Limit, Load, Measured, Pace, Size};

/// The marks of a sparkline, from the shortest to the longest; a lost one has its own.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const LOST: char = '×';

/// The last round trips as bars that begin at zero; at most so many.
#[must_use]
pub fn sparkline(round_trips: &[Option<Duration>], width: usize) -> String {
    let shown = &round_trips[round_trips.len().saturating_sub(width)..];
    let longest = shown.iter().flatten().max().map_or(1, Duration::as_nanos).max(1);
    let bar = |trip: &Duration| (trip.as_nanos() * 7).div_ceil(longest) as usize;
    shown.iter().map(|trip| trip.as_ref().map_or(LOST, |trip| BARS[bar(trip).min(7)])).collect()
}

/// Each measurement: its name, its figure, and what else was seen.
pub(super) fn lines(measured: &Measured) -> Vec<(&'static str, String, String)> {
    let mut lines = Vec::new();
    if let Some(count) = &measured.count {
        let median = count.percentile(50).map(milliseconds).unwrap_or_default();
        lines.push(("count", median, round_trips(count)));
        lines.push(("", String::new(), sparkline(&count.round_trips, 75)));
    }
    if let Some(size) = &measured.size {
        let seen = match &size.refused {
            None => "comes back; no larger one was tried".to_owned(),
            Some(refused) => {
                format!("comes back; {} bytes: {}", grouped(&refused.bytes), cut(&refused.how))
            }
        };
        lines.push(("max-size", show_size(size.largest_bytes as u64), seen));
    }
    if let Some(idle) = &measured.idle {
        let (time, seen) = match &idle.limit {
            Limit::None => (idle.lived, "and still open".to_owned()),
            Limit::Cut { after, how, .. } => (*after, format!("then {}", cut(how))),
            Limit::Dropped { by, how, .. } => {
                (idle.lived, format!("still open; after {}, {}", seconds(*by), on_sending(how)))
            }
            Limit::Spoken { after } => (*after, "then the server sends something".to_owned()),
        };
        lines.push(("idle", seconds(time), seen));
    }
    if let Some(load) = &measured.load {
        lines.push(("load", format!("{:.0}/s", load.rate()), carried(load)));
        let opened = format!(
            "{} connections opened in {}, {:.0}/s",
            load.connections,
            milliseconds(load.opening),
            load.handshake_rate()
        );
        lines.push(("", String::new(), opened));
        if let Some(spread) = load.latency {
            let heads = spread.all().map(|(name, _)| format!("{name:>9}"));
            lines.push(("", String::new(), format!("ms       {}", heads.concat())));
        }
        for (name, spread) in [("latency", load.latency), ("send lag", load.lag)] {
            let Some(spread) = spread else { continue };
            let times = spread.all().map(|(_, time)| format!("{:>9}", precise(time)));
            lines.push(("", String::new(), format!("{name:9}{}", times.concat())));
        }
    }
    lines
}

/// What was sent, and how much of it came back.
fn carried(load: &Load) -> String {
    let mut text = format!("{} messages of {} bytes", grouped(&load.echoed), grouped(&load.bytes));
    if load.echoed < load.sent {
        let _ = write!(text, " of {} sent", grouped(&load.sent));
    }
    let _ = write!(text, " in {}", seconds(load.took));
    match load.pace {
        Pace::Closed { in_flight } => {
            let _ = write!(text, ", {in_flight} in flight on each connection");
        }
        Pace::Open { rate } => {
            let _ = write!(text, ", {}/s due", grouped(&rate));
        }
    }
    if load.interrupted {
        text += ", interrupted";
    }
    text
}

/// Milliseconds where microseconds count.
fn precise(time: Duration) -> String {
    let digits = if time < Duration::from_millis(10) { 3 } else { 1 };
    format!("{:.digits$}", time.as_secs_f64() * 1000.0)
}

fn round_trips(count: &Count) -> String {
    let mut text = format!("{} {}, {} lost", count.round_trips.len(), count.what, count.lost());
    if count.lost() > 0 {
        let _ = write!(text, " ({:.1} %)", count.lost_percent());
    }
    for (name, percent) in [("min", 0), ("median", 50), ("p99", 99), ("max", 100)] {
        if let Some(time) = count.percentile(percent) {
            let _ = write!(text, ", {name} {}", milliseconds(time));
        }
    }
    text
}

/// What came instead.
fn cut(how: &Cut) -> String {
    match how {
        Cut::Close { code, reason } => {
            let code = code
                .map_or("a Close frame without a code".to_owned(), |code| format!("Close {code}"));
            if reason.is_empty() { code } else { format!("{code}, \"{reason}\"") }
        }
        Cut::Fin => "FIN, without a Close frame".to_owned(),
        Cut::Reset => "RST, without a Close frame".to_owned(),
        Cut::Unacknowledged => "no acknowledgement".to_owned(),
        Cut::Broken(text) => format!("an error ({text})"),
        Cut::Unanswered => "no answer in time".to_owned(),
        Cut::Altered => "something else came back".to_owned(),
    }
}

/// What came of a ping after a silence.
fn on_sending(how: &Cut) -> String {
    match how {
        Cut::Unacknowledged => "a ping is not even acknowledged".to_owned(),
        Cut::Unanswered => "a ping is acknowledged, but not answered".to_owned(),
        how => format!("a ping is answered with {}", cut(how)),
    }
}

/// The sentences of the verdict.
pub(super) fn verdicts(measured: &Measured) -> Vec<String> {
    let size = measured.size.as_ref().map(size);
    let idle = measured.idle.iter().flat_map(idle);
    let load = measured.load.iter().flat_map(load);
    size.into_iter().chain(idle).chain(load).collect()
}

fn load(load: &Load) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(latency) = load.latency {
        sentences.push(format!(
            "Under load, {} messages/s came back: half of them within {} ms, 99 % within {} ms.",
            grouped(&format!("{:.0}", load.rate())),
            precise(latency.p50),
            precise(latency.p99)
        ));
    }
    match (load.pace, load.latency, load.lag) {
        (Pace::Closed { .. }, ..) => sentences.push(
            "This is throughput, not the latency that users see at a given rate: here a stall delays \
             only the messages in flight, with --rate every message that was due."
                .to_owned(),
        ),
        // Then these times say little about the server.
        (Pace::Open { .. }, Some(latency), Some(lag)) if lag.p99 > latency.p99 / 2 => {
            sentences.push(format!(
                "The probe itself sent late (99 % within {} ms), and these times include that: give it a \
                 core of its own, or lower --rate.",
                precise(lag.p99)
            ));
        }
        (Pace::Open { .. }, ..) => {}
    }
    sentences
}

fn size(size: &Size) -> String {
    let largest = format!("{} bytes", grouped(&size.largest_bytes));
    let Some(refused) = &size.refused else {
        return format!("Messages of up to {largest} make the round trip.");
    };
    let who = match &refused.how {
        Cut::Close { code: Some(1009), reason } if reason.starts_with("wsecho: ") => {
            "wsecho itself refuses larger ones: `limits.max_message_size` there.".to_owned()
        }
        Cut::Close { code: Some(1009), .. } => {
            let who = if refused.probably.is_empty() {
                String::new()
            } else {
                format!(" Probably {}: that is the default there.", either(refused.probably))
            };
            format!(
                "The server, or a proxy that reads messages, refuses larger ones (1009).{who} \
                 Raise its limit and probe again."
            )
        }
        Cut::Close { code: Some(1011), .. } => {
            "The server fails at larger ones (1011): its log says why.".to_owned()
        }
        Cut::Close { .. } => "Larger ones end the WebSocket with this Close frame.".to_owned(),
        Cut::Fin | Cut::Reset | Cut::Unacknowledged | Cut::Broken(_) => {
            "Larger ones end the connection without a Close frame: probably a proxy or firewall in \
             between, or a server that crashes. A probe of the backend itself tells which."
                .to_owned()
        }
        Cut::Unanswered => {
            "Larger ones get stuck: probably something in between holds them back. A probe of the \
             backend itself tells."
                .to_owned()
        }
        Cut::Altered => "Larger ones come back changed or cut short.".to_owned(),
    };
    format!("The largest message that makes the round trip has {largest}. {who}")
}

fn idle(idle: &Idle) -> Vec<String> {
    let lived = seconds(idle.lived);
    let (seen, probably) = match &idle.limit {
        Limit::None => (format!("A silent connection lives for at least {lived}."), None),
        Limit::Cut { after, how: Cut::Close { .. }, .. } => {
            let after = seconds(*after);
            let seen = format!(
                "Silent connections are ended with a Close frame after {after}: by the server, or by \
                 a proxy that speaks WebSocket."
            );
            (seen, None)
        }
        Limit::Cut { after, probably, .. } => {
            let after = seconds(*after);
            let seen = format!(
                "Something on the path ends silent connections after {after}, without a Close frame."
            );
            (seen, Some(probably))
        }
        Limit::Dropped { by, how, probably } => {
            let by = seconds(*by);
            let who = match how {
                Cut::Unacknowledged => {
                    "drops them without a word, as a firewall or NAT does: neither side is told."
                }
                Cut::Unanswered => {
                    "still acknowledges what is sent, but does not pass it on: a proxy that has lost \
                     its backend."
                }
                _ => "has forgotten them, and says so only when something is sent.",
            };
            let seen = format!(
                "Connections that are silent for {lived} live, for {by} they do not: something on the \
                 path {who}"
            );
            (seen, Some(probably))
        }
        Limit::Spoken { after } => {
            let after = seconds(*after);
            let seen = format!(
                "The server sends something after {after} of silence, so no longer one can be measured \
                 with it, and none occurs as long as it does."
            );
            (seen, None)
        }
    };
    let mut sentences = vec![seen];
    if let Some(probably) = probably.filter(|probably| !probably.is_empty()) {
        sentences.push(format!(
            "Probably {}: that is the default there. Change it and probe again; if the time moves, that \
             was it.",
            either(probably)
        ));
    }
    if let (Some(pause), Some(ping)) = (idle.safe_pause(), idle.ping_interval()) {
        sentences.push(format!(
            "Send something at least every {} s; with wsecho, `timeouts.ping_interval = \"{}\"` does.",
            pause.as_secs_f64(),
            show_duration(ping)
        ));
    }
    if idle.accidents > 0 {
        sentences.push(format!(
            "{} of the connections ended sooner than others that were silent for longer.",
            idle.accidents
        ));
    }
    sentences
}

fn either(products: &[&str]) -> String {
    match products {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        all => all.concat(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A number with a comma before each three digits.
fn grouped(number: &impl ToString) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
