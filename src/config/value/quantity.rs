//! Durations and sizes: whole numbers with a unit.
//!
//! Owns the units. Each has one spelling: of two, such as `M` and `m`, somebody always means the
//! other thing. It does not know ranges.

use std::time::Duration;

/// The units of a duration in milliseconds, and how else people write them.
const TIMES: [(&str, u64, &[&str]); 4] = [
    ("ms", 1, &["msec", "msecs", "millisecond", "milliseconds"]),
    ("s", 1000, &["sec", "secs", "second", "seconds"]),
    ("m", 60_000, &["min", "mins", "minute", "minutes"]),
    ("h", 3_600_000, &["hr", "hrs", "hour", "hours"]),
];

/// The units of a size, in bytes.
const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a duration such as `10s` or `1m 30s`.
///
/// # Errors
/// What to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (mut sum, mut is_spelt) = (Duration::ZERO, true);
    let mut meant = Vec::new();
    for (number, unit) in quantities(text) {
        let lower = unit.to_lowercase();
        let known = TIMES
            .iter()
            .find(|(name, _, others)| lower == *name || others.contains(&lower.as_str()));
        let (Some((name, millis, _)), Some(whole)) = (known, whole(number)) else {
            return Err(no_duration(text));
        };
        sum = sum.saturating_add(Duration::from_millis(whole.saturating_mul(*millis)));
        is_spelt &= unit == *name;
        meant.push(format!("{number}{name}"));
    }
    match is_spelt {
        _ if meant.is_empty() => Err(no_duration(text)),
        true => Ok(sum),
        false => Err(format!("{text:?} is not a duration; write \"{}\"", meant.join(" "))),
    }
}

/// A whole number. One that is too large is the largest: who knows the range refuses it.
fn whole(number: &str) -> Option<u64> {
    let is_whole = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    is_whole.then(|| number.parse().unwrap_or(u64::MAX))
}

fn no_duration(text: &str) -> String {
    format!("{text:?} is not a duration; write whole numbers of ms, s, m or h, such as \"10s\"")
}

/// Reads a size such as `64 KiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let no_size = |remedy: String| format!("{text:?} is not a size; write {remedy}");
    let [(number, unit)] = quantities(text)[..] else {
        return Err(no_size(example()));
    };
    let Some(whole) = whole(number) else {
        return Err(no_size(example()));
    };
    if let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) {
        return Ok(whole.saturating_mul(*bytes));
    }
    let letter = unit.chars().next().map(|letter| letter.to_ascii_uppercase());
    Err(no_size(match letter {
        None | Some('B') => format!("\"{number} B\""),
        // To some, M means 1,000,000 bytes, to others 1,048,576.
        Some('K') => format!("\"{number} KiB\" or \"{number} kB\""),
        Some(letter @ ('M' | 'G' | 'T')) => {
            format!("\"{number} {letter}iB\" or \"{number} {letter}B\"")
        }
        Some(_) => example(),
    }))
}

fn example() -> String {
    let units: Vec<&str> = SIZES.iter().map(|(name, _)| *name).collect();
    format!("a whole number with one of {}, such as \"1 MiB\"", units.join(", "))
}

/// Writes a duration as it is read.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (name, millis, _) in TIMES.iter().rev() {
        if rest >= *millis {
            parts.push(format!("{}{name}", rest / millis));
            rest %= millis;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Writes a size, as [`size`] reads it, in the largest unit of powers of 1024 that is exact.
pub(crate) fn show_size(bytes: u64) -> String {
    let is_exact = |(_, unit): &&(&str, u64)| unit.is_power_of_two() && bytes.is_multiple_of(*unit);
    match SIZES.iter().rev().find(is_exact) {
        Some((name, unit)) if bytes > 0 => format!("{} {name}", bytes / unit),
        _ => format!("{bytes} B"),
    }
}

/// The numbers of a text, each with the unit behind it; none if there is anything else.
fn quantities(text: &str) -> Vec<(&str, &str)> {
    let mut rest = text.trim();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (number, unit, tail) = first_quantity(rest);
        if number.is_empty() {
            return Vec::new();
        }
        all.push((number, unit));
        rest = tail;
    }
    all
}

fn first_quantity(text: &str) -> (&str, &str, &str) {
    let split = |text, is_part: fn(char) -> bool| {
        let text: &str = text;
        text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
    };
    let (number, rest) = split(text, |c| c.is_ascii_digit() || c == '.');
    let (unit, rest) = split(rest.trim_start(), char::is_alphabetic);
    (number, unit, rest.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_has_one_spelling_and_others_are_answered_with_it() {
        for (text, read) in [
            ("500ms", Ok(500)),
            ("10s", Ok(10_000)),
            ("10 s", Ok(10_000)),
            ("1m 30s", Ok(90_000)),
            ("1m30s", Ok(90_000)),
            ("24h", Ok(86_400_000)),
            ("9999999999999999h", Ok(u64::MAX)),
            ("99999999999999999999h", Ok(u64::MAX)),
            ("99999999999999999999 hours", Err("write \"99999999999999999999h\"")),
            ("1 hour", Err("write \"1h\"")),
            ("1M", Err("write \"1m\"")),
            ("5 minutes 3 SEC", Err("write \"5m 3s\"")),
            ("1.5s", Err("whole numbers of ms, s, m or h")),
            ("10", Err("whole numbers of ms, s, m or h")),
            ("1d", Err("whole numbers of ms, s, m or h")),
            ("", Err("whole numbers of ms, s, m or h")),
            ("s", Err("whole numbers of ms, s, m or h")),
            ("-1s", Err("whole numbers of ms, s, m or h")),
        ] {
            match (duration(text), read) {
                (Ok(time), Ok(millis)) => assert_eq!(time, Duration::from_millis(millis), "{text}"),
                (Err(said), Err(remedy)) => assert!(said.contains(remedy), "{text}: {said}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
        for (text, read) in [
            ("125 B", Ok(125)),
            ("64KiB", Ok(65_536)),
            ("64 kB", Ok(64_000)),
            ("1 TiB", Ok(1 << 40)),
            ("99999999999999999999 MiB", Ok(u64::MAX)),
            ("99999999999999999999", Err("write \"99999999999999999999 B\"")),
            ("1M", Err("write \"1 MiB\" or \"1 MB\"")),
            ("1m", Err("write \"1 MiB\" or \"1 MB\"")),
            ("64 KB", Err("write \"64 KiB\" or \"64 kB\"")),
            ("64 kib", Err("write \"64 KiB\" or \"64 kB\"")),
            ("1048576", Err("write \"1048576 B\"")),
            ("100 bytes", Err("write \"100 B\"")),
            ("1.5 MiB", Err("a whole number with one of B, kB,")),
            ("1 MiB 3 B", Err("a whole number with one of B, kB,")),
            ("big", Err("a whole number with one of B, kB,")),
        ] {
            match (size(text), read) {
                (Ok(size), Ok(bytes)) => assert_eq!(size, bytes, "{text}"),
                (Err(said), Err(remedy)) => assert!(said.contains(remedy), "{text}: {said}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for millis in [0, 1, 999, 1000, 1500, 90_000, 3_600_001, 86_400_000, 86_399_999] {
            let time = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(time)), Ok(time), "{}", show_duration(time));
        }
        for bytes in [0, 1, 125, 1023, 1024, 1_000_000, 1 << 20, 3 << 30, 1 << 40] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes), "{}", show_size(bytes));
        }
        assert_eq!(show_duration(Duration::from_secs(86_400)), "24h");
        assert_eq!(show_size(1 << 20), "1 MiB");
    }
}
