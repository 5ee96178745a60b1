//! Arbitrary queries of URLs.
//!
//! Both the property test and the fuzzer call [`any_query`] with raw bytes.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use wsecho::http::options::{OPTIONS, parse};
use wsecho::ws::engine::{End, may_be_sent};
use wsecho::ws::handshake::Rejection;
use wsecho::ws::session::{After, Closing, Ping, Script};

/// The pieces such queries are made of, so that many turn out valid.
const PIECES: [&str; 32] = [
    "&",
    "&",
    "&",
    "=",
    ",",
    "+",
    "%",
    "%c3",
    "%C3%B6",
    "%77",
    "ping",
    "ping=",
    "ping=off",
    "close",
    "close=",
    "close=1000",
    "after=",
    "greeting=",
    "frames=",
    "frames=whole",
    "whole",
    "trace=0123456789abcdef",
    "1s",
    "1h",
    "61m",
    "500ms",
    "3",
    "1000000",
    "1005",
    "4999",
    "99999999999999999999",
    "token",
];

/// Any query: nothing panics, whatever is accepted is within its limits, and each option is refused
/// where options are off.
pub fn any_query(data: &[u8]) {
    // Once the bytes have run out, every choice is the first one, so this cannot fail.
    let _ = try_any_query(&mut Unstructured::new(data));
}

fn try_any_query(u: &mut Unstructured<'_>) -> Result<()> {
    let mut query = String::new();
    while !u.is_empty() {
        match u.int_in_range(0..=PIECES.len() * 9 / 8)? {
            piece if piece < PIECES.len() => query.push_str(PIECES[piece]),
            _ => query.push(u.arbitrary()?),
        }
    }
    let named = |pair: &str| {
        let name = pair.split('=').next();
        OPTIONS.iter().any(|option| Some(option.name) == name)
    };
    let any = query.split('&').any(named);
    match parse(&query, true) {
        Ok(script) => {
            assert_eq!(script.is_some(), any, "{query:?}");
            if let Some(script) = script {
                within_limits(&script, &query);
            }
        }
        Err(rejection) => {
            assert!(any && matches!(rejection, Rejection::BadOption(_)), "{query:?}");
        }
    }
    let refused = Err(Rejection::OptionsOff);
    assert_eq!(parse(&query, false), if any { refused } else { Ok(None) }, "{query:?}");
    Ok(())
}

fn within_limits(script: &Script, query: &str) {
    let hour = Duration::from_secs(3600);
    if let Ping::After(time) = script.ping {
        assert!((Duration::from_secs(1)..=hour).contains(&time), "{query:?}");
    }
    assert!(script.greeting.as_ref().is_none_or(|text| text.len() <= 1024), "{query:?}");
    if let Some(Closing { end, after }) = &script.close {
        let End::Requested { code, reason } = end else { panic!("{query:?}: {end:?}") };
        assert!(may_be_sent((*code).into()) && reason.len() <= 123, "{query:?}");
        match after {
            After::Time(time) => assert!(*time <= hour, "{query:?}"),
            After::Messages(count) => assert!((1..=1_000_000).contains(count), "{query:?}"),
        }
    }
    assert!(!script.whole_frames || query.contains("frames="), "{query:?}");
}
