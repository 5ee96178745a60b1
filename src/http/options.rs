//! What a client may ask of its session in the query of the URL.
//!
//! Owns the options, their limits and how they are written. What a session makes of them is its own
//! business. Other parameters are ignored: clients have some of their own.

use std::fmt;
use std::time::Duration;

use super::query;
use crate::config::{read_duration, show_duration};
use crate::ws::engine::{End, MAX_REASON, may_be_sent};
use crate::ws::handshake::Rejection;
use crate::ws::session::{After, Closing, Ping, Script};

/// The longest greeting, in bytes.
const MAX_GREETING: usize = 1024;
/// The longest time of an option.
const MAX_TIME: Duration = Duration::from_secs(60 * 60);
/// The shortest time to a ping.
const MIN_PING: Duration = Duration::from_secs(1);
/// The most messages before a Close.
const MAX_MESSAGES: u64 = 1_000_000;

/// An option, for those who document it.
#[derive(Clone, Copy, Debug)]
pub struct Documented {
    /// Its name.
    pub name: &'static str,
    /// Its values: what is in capitals stands for something.
    pub value: &'static str,
    /// What the session does. Options stand in backquotes.
    pub meaning: &'static str,
    /// What is said to whoever gives it another value.
    refusal: &'static str,
}

/// Every option. A value is percent-encoded; a time is written as in the configuration.
pub const OPTIONS: [Documented; 5] = [
    Documented {
        name: "ping",
        value: "off|TIME",
        meaning: "Pings after a silence of exactly TIME, from 1s to 1h, or never: to measure how \
                  long a path tolerates silence. Without pings, the session ends after 1h. At most \
                  100 sessions at a time are pinged later than usual",
        refusal: "ping must be off, or a time from 1s to 1h",
    },
    Documented {
        name: "close",
        value: "CODE[,REASON]",
        meaning: "Closes by itself, at once or when `after` says, with a code that may be sent (1000 to \
                  1003, 1007 to 1014, 3000 to 4999) and a reason of at most 123 bytes",
        refusal: "close must be a code that may be sent (1000 to 1003, 1007 to 1014, 3000 to 4999); \
                  a comma and a reason of at most 123 bytes may follow it",
    },
    Documented {
        name: "after",
        value: "TIME|COUNT",
        meaning: "With `close`: closes so long after the handshake, 1h at most, or behind the echo of \
                  so many messages, 1 to 1000000",
        refusal: "after must be a time up to 1h, or a number of messages from 1 to 1000000, next to \
                  close",
    },
    Documented {
        name: "greeting",
        value: "TEXT",
        meaning: "Sends a text message of at most 1024 bytes before all else",
        refusal: "greeting must be a text of at most 1024 bytes",
    },
    Documented {
        name: "frames",
        value: "whole",
        meaning: "Answers each frame with one frame, however long, and never in fragments: for clients \
                  that take each fragment for a message. The frame is held until all of it has come. \
                  When `limits.buffer_budget` is used up, the session waits, and whichever has held \
                  memory longest, for longer than `timeouts.write`, is closed with 1013",
        refusal: "frames must be whole",
    },
];

/// Reads the options in a query; `None` if there are none.
///
/// # Errors
/// When an option has a value that it cannot have, is there twice, or is not `allowed`.
pub fn parse(query: &str, allowed: bool) -> Result<Option<Box<Script>>, Rejection> {
    let mut values = [None; OPTIONS.len()];
    for (name, value) in query::pairs(query) {
        let Some(at) = OPTIONS.iter().position(|option| option.name == name) else { continue };
        if !allowed {
            return Err(Rejection::OptionsOff);
        }
        if values[at].replace(value).is_some() {
            return Err(Rejection::BadOption("no option may be there twice"));
        }
    }
    if values == [None; OPTIONS.len()] {
        return Ok(None);
    }
    let [ping, close, after, greeting, frames] = values;
    let mut script = Script::default();
    if let Some(value) = ping {
        script.ping = read(0, value, self::ping)?;
    }
    if let Some(value) = close {
        let (code, reason) = read(1, value, self::close)?;
        let after = match after {
            Some(value) => read(2, value, self::after)?,
            None => After::Time(Duration::ZERO),
        };
        let end = End::Requested { code: code.into(), reason };
        script.close = Some(Closing { end, after });
    } else if after.is_some() {
        return Err(Rejection::BadOption(OPTIONS[2].refusal));
    }
    if let Some(value) = greeting {
        let short = |text: &str| (text.len() <= MAX_GREETING).then(|| text.into());
        script.greeting = Some(read(3, value, short)?);
    }
    if let Some(value) = frames {
        script.whole_frames = read(4, value, |value| (value == "whole").then_some(true))?;
    }
    Ok(Some(Box::new(script)))
}

/// Reads the value of the option with this number.
fn read<T>(
    number: usize,
    value: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Rejection> {
    query::decode(value)
        .and_then(|text| parse(&text))
        .ok_or(Rejection::BadOption(OPTIONS[number].refusal))
}

fn ping(value: &str) -> Option<Ping> {
    match value {
        "off" => Some(Ping::Off),
        time => read_time(time).filter(|time| *time >= MIN_PING).map(Ping::After),
    }
}

fn close(value: &str) -> Option<(u16, Box<str>)> {
    let (code, reason) = value.split_once(',').unwrap_or((value, ""));
    let digits = code.len() == 4 && code.bytes().all(|byte| byte.is_ascii_digit());
    let code = code.parse().ok().filter(|code| digits && may_be_sent(*code))?;
    (reason.len() <= MAX_REASON).then(|| (code, reason.into()))
}

fn after(value: &str) -> Option<After> {
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        let count = value.parse().ok().filter(|count| (1..=MAX_MESSAGES).contains(count));
        return count.map(After::Messages);
    }
    read_time(value).map(After::Time)
}

fn read_time(text: &str) -> Option<Duration> {
    read_duration(text).ok().filter(|time| *time <= MAX_TIME)
}

/// The options of a session, for the log: without the texts, which are the client's.
#[derive(Debug)]
pub(super) struct Shown<'a>(pub(super) &'a Script);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Script { ping, greeting, close, whole_frames } = self.0;
        let mut parts = Vec::new();
        match ping {
            Ping::Usual => {}
            Ping::Off => parts.push("ping=off".to_owned()),
            Ping::After(time) => parts.push(format!("ping={}", show_duration(*time))),
        }
        if let Some(greeting) = greeting {
            parts.push(format!("greeting={}B", greeting.len()));
        }
        if let Some(Closing { end, after }) = close {
            parts.extend(end.code().map(|code| format!("close={}", u16::from(code))));
            match after {
                After::Time(Duration::ZERO) => {}
                After::Messages(count) => parts.push(format!("after={count}")),
                After::Time(time) => parts.push(format!("after={}", show_duration(*time))),
            }
        }
        if *whole_frames {
            parts.push("frames=whole".to_owned());
        }
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged of the options in a query.
    fn shown(query: &str) -> Result<String, Rejection> {
        parse(query, true)
            .map(|script| script.map_or_else(String::new, |script| Shown(&script).to_string()))
    }

    #[test]
    fn good_values_are_read_and_strange_parameters_are_ignored() {
        for (query, meant) in [
            ("", ""),
            ("token=1&Ping=x&trace=y", ""),
            ("ping=off", "ping=off"),
            ("ping=1s", "ping=1s"),
            ("ping=1h", "ping=1h"),
            ("ping=1m+30s", "ping=1m 30s"),
            ("ping=%6fff", "ping=off"),
            ("close=1000", "close=1000"),
            ("close=4999,bye+%26+ciao,+ciao", "close=4999"),
            ("close=1013&after=3", "close=1013 after=3"),
            ("after=500ms&close=1013", "close=1013 after=500ms"),
            ("close=1000&after=1000000", "close=1000 after=1000000"),
            ("close=1000&after=1h", "close=1000 after=1h"),
            ("greeting=", "greeting=0B"),
            ("greeting=%C3%B6", "greeting=2B"),
            ("frames=whole", "frames=whole"),
            ("frames=%77hole&close=1000&after=2", "close=1000 after=2 frames=whole"),
            ("a&ping=2s&greeting=x&close=1000&after=1&b", "ping=2s greeting=1B close=1000 after=1"),
        ] {
            assert_eq!(shown(query).as_deref(), Ok(meant), "{query}");
        }
        let long = format!("close=3000,{}", "r".repeat(MAX_REASON));
        let script = parse(&long, true).unwrap().unwrap();
        assert_eq!(script.close.unwrap().end.reason().len(), MAX_REASON);
        let script = parse("close=4000,a+%2C,b", true).unwrap().unwrap();
        assert_eq!(script.close.unwrap().end.reason(), "a ,,b");
        let script = parse(&format!("greeting={}", "%41".repeat(MAX_GREETING)), true);
        assert_eq!(script.unwrap().unwrap().greeting.unwrap().len(), MAX_GREETING);
    }

    #[test]
    fn other_values_are_refused_with_what_is_allowed() {
        let reason = format!("close=1000,{}", "r".repeat(MAX_REASON + 1));
        let greeting = format!("greeting={}", "g".repeat(MAX_GREETING + 1));
        for (query, option) in [
            ("ping", 0),
            ("ping=", 0),
            ("ping=on", 0),
            ("ping=OFF", 0),
            ("ping=999ms", 0),
            ("ping=61m", 0),
            ("ping=30", 0),
            ("ping=-1s", 0),
            ("ping=99999999999999999999h", 0),
            ("ping=%ff", 0),
            ("close=", 1),
            ("close=999", 1),
            ("close=1004", 1),
            ("close=1005", 1),
            ("close=1006", 1),
            ("close=1015", 1),
            ("close=5000", 1),
            ("close=+1000", 1),
            ("close=01000", 1),
            ("close=1000,%", 1),
            ("close=1000,%C3", 1),
            (&reason, 1),
            ("close=1000&after=", 2),
            ("close=1000&after=0", 2),
            ("close=1000&after=1000001", 2),
            ("close=1000&after=3601s", 2),
            ("close=1000&after=x", 2),
            ("after=3", 2),
            ("greeting=%ff", 3),
            (&greeting, 3),
            ("frames", 4),
            ("frames=", 4),
            ("frames=Whole", 4),
            ("frames=whole+", 4),
        ] {
            let refused = Err(Rejection::BadOption(OPTIONS[option].refusal));
            assert_eq!(shown(query), refused, "{query}");
        }
        let twice = shown("ping=off&ping=1s");
        assert_eq!(twice, Err(Rejection::BadOption("no option may be there twice")));
    }

    #[test]
    fn where_options_are_off_each_of_them_is_refused_and_nothing_else() {
        assert_eq!(parse("token=1&trace=2", false), Ok(None));
        for Documented { name, .. } in OPTIONS {
            assert_eq!(parse(&format!("a=b&{name}"), false), Err(Rejection::OptionsOff), "{name}");
        }
    }
}
