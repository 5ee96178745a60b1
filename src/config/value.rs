//! The kinds of value a key can have, each with the message that explains it.
//!
//! Owns how a value is written in the file, and its range. It does not know which key it is for.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::net::listen::ListenAddr;
use crate::ws::handshake::{Subprotocols, is_token};

/// Reads a value that is a string, or complains with what was expected.
fn text<'de, D, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    struct Parse<F, T>(&'static str, F, PhantomData<T>);

    impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Parse<F, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Parse(expected, parse, PhantomData))
}

/// A duration such as `"10s"`, of at least `MIN` milliseconds and at most a day.
pub(super) struct Seconds<const MIN: u64>(Duration);

impl<'de, const MIN: u64> Deserialize<'de> for Seconds<MIN> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const MAX: Duration = Duration::from_secs(24 * 60 * 60);
        text(deserializer, "a duration with its unit in quotes, such as \"10s\"", |text| {
            let duration = humantime::parse_duration(text)
                .map_err(|error| format!("{text:?} is no duration such as \"10s\": {error}"))?;
            if duration < Duration::from_millis(MIN) || duration > MAX {
                return Err(format!("{text:?} is out of range: {MIN}ms to 24h"));
            }
            Ok(Self(duration))
        })
    }
}

impl<const MIN: u64> From<Seconds<MIN>> for Duration {
    fn from(value: Seconds<MIN>) -> Self {
        value.0
    }
}

/// A size such as `"1 MiB"`, from `MIN` to `MAX` bytes.
pub(super) struct ByteSize<const MIN: u64, const MAX: u64>(u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for ByteSize<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a size with its unit in quotes, such as \"1 MiB\"", |text| {
            let unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
            let size =
                text.parse::<bytesize::ByteSize>().ok().filter(|_| unit).ok_or_else(|| {
                    format!("{text:?} is no size such as \"1 MiB\", \"64 KiB\" or \"500 B\"")
                })?;
            if (MIN..=MAX).contains(&size.as_u64()) {
                return Ok(Self(size.as_u64()));
            }
            let [min, max] = [MIN, MAX].map(bytesize::ByteSize);
            Err(format!("{text:?} is out of range: {min} to {max}"))
        })
    }
}

impl<const MIN: u64, const MAX: u64> From<ByteSize<MIN, MAX>> for u64 {
    fn from(value: ByteSize<MIN, MAX>) -> Self {
        value.0
    }
}

impl<const MIN: u64, const MAX: u64> From<ByteSize<MIN, MAX>> for usize {
    fn from(value: ByteSize<MIN, MAX>) -> Self {
        Self::try_from(value.0).unwrap_or(Self::MAX)
    }
}

/// A number from `MIN` to `MAX`.
pub(super) struct Whole<const MIN: i64, const MAX: i64>(usize);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InRange<const MIN: i64, const MAX: i64>;

        impl<const MIN: i64, const MAX: i64> Visitor<'_> for InRange<MIN, MAX> {
            type Value = usize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number from {MIN} to {MAX}, without quotes")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<usize, E> {
                usize::try_from(number)
                    .ok()
                    .filter(|_| (MIN..=MAX).contains(&number))
                    .ok_or_else(|| E::custom(format!("{number} is out of range: {MIN} to {MAX}")))
            }
        }

        deserializer.deserialize_i64(InRange::<MIN, MAX>).map(Self)
    }
}

impl<const MIN: i64, const MAX: i64> From<Whole<MIN, MAX>> for usize {
    fn from(value: Whole<MIN, MAX>) -> Self {
        value.0
    }
}

/// The permissions of a file, in octal as for chmod(1).
pub(super) struct Mode(u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an octal mode in quotes, such as \"0660\"", |text| {
            u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .map(Self)
                .ok_or_else(|| format!("{text:?} is no octal mode from \"0\" to \"0777\""))
        })
    }
}

impl From<Mode> for u32 {
    fn from(value: Mode) -> Self {
        value.0
    }
}

/// An address to listen on.
pub(super) struct Addr(pub(super) ListenAddr);

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an address in quotes, such as \"127.0.0.1:8888\"", |text| {
            text.parse().map(Self).map_err(|error| format!("{text:?}: {error}"))
        })
    }
}

/// What stands before a text: short, because an empty message is answered with it.
pub(super) struct Prefix(Box<str>);

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The most bytes of a prefix.
        const MAX: usize = 1024;
        text(deserializer, "a text in quotes", |text| {
            if text.len() > MAX {
                return Err(format!("{} bytes are too many: {MAX} at most", text.len()));
            }
            Ok(Self(text.into()))
        })
    }
}

impl From<Prefix> for Box<str> {
    fn from(value: Prefix) -> Self {
        value.0
    }
}

/// The path of an endpoint: absolute, as it stands in a request, and not one of the service's own.
pub(super) struct EndpointPath(pub(super) String);

impl<'de> Deserialize<'de> for EndpointPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const RESERVED: [&str; 3] = ["/healthz", "/info", "/metrics"];
        // It stands in every session's line of the log.
        const MAX: usize = 256;
        text(deserializer, "a path in quotes, such as \"/socket\"", |text| {
            if !text.starts_with('/') {
                return Err(format!("{text:?} is relative: write \"/{text}\""));
            }
            if text.len() > MAX {
                return Err(format!("{} bytes are too many: {MAX} at most", text.len()));
            }
            if RESERVED.contains(&text) {
                return Err(format!("{text:?} is a path of the service itself: choose another"));
            }
            match text.parse::<PathAndQuery>() {
                Ok(parsed) if parsed.path() == text => Ok(Self(text.to_owned())),
                _ => Err(format!(
                    "{text:?} is not the path of a URL: leave out ?, # and blanks, and encode \
                     other characters with %"
                )),
            }
        })
    }
}

impl<'de> Deserialize<'de> for Subprotocols {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rule;

        impl<'de> Visitor<'de> for Rule {
            type Value = Subprotocols;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"any\", \"none\" or a list of names")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Subprotocols, E> {
                match text {
                    "any" => Ok(Subprotocols::Any),
                    "none" => Ok(Subprotocols::None),
                    _ => Err(E::custom(format!(
                        "{text:?} is neither \"any\" nor \"none\"; write [{text:?}] for a list"
                    ))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Subprotocols, A::Error> {
                let mut listed = Vec::new();
                while let Some(name) = names.next_element::<String>()? {
                    if !is_token(name.as_bytes()) {
                        let remedy = "use letters, digits and !#$%&'*+-.^_`|~";
                        return Err(A::Error::custom(format!("{name:?} is no token: {remedy}")));
                    }
                    listed.push(name);
                }
                Ok(Subprotocols::Only(listed))
            }
        }

        deserializer.deserialize_any(Rule)
    }
}
