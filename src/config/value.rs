//! The kinds of value a key can have, each with the message that explains it.
//!
//! Owns how a value is written in the file, and its range. It does not know which key it is for.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::net::field::is_token;
use crate::net::listen::ListenAddr;
use crate::proxy::client_addr::TrustedPeer;
use crate::ws::handshake::{Origin, Origins, Subprotocols};

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

impl<const MIN: i64, const MAX: i64> From<Whole<MIN, MAX>> for Option<usize> {
    fn from(value: Whole<MIN, MAX>) -> Self {
        Some(value.0)
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

/// Whose word is believed.
pub(super) struct Peer(pub(super) TrustedPeer);

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a network in quotes, such as \"10.0.0.0/8\", or \"unix\"", |text| {
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

/// Reads a value that is one of two words, or a list of what `parse` understands.
fn word_or_list<'de, D, T, I>(
    deserializer: D,
    words: [(&'static str, T); 2],
    what: &'static str,
    parse: fn(&str) -> Result<I, String>,
    list: fn(Vec<I>) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    struct WordOrList<T, I> {
        words: [(&'static str, T); 2],
        what: &'static str,
        parse: fn(&str) -> Result<I, String>,
        list: fn(Vec<I>) -> T,
    }

    impl<'de, T, I> Visitor<'de> for WordOrList<T, I> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let [(one, _), (other, _)] = &self.words;
            write!(f, "\"{one}\", \"{other}\" or a list of {}", self.what)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let [(one, _), (other, _)] = &self.words;
            let wrong = format!(
                "{text:?} is neither \"{one}\" nor \"{other}\"; write [{text:?}] for a list"
            );
            let mut words = self.words.into_iter();
            words.find(|(word, _)| *word == text).map(|(_, value)| value).ok_or(E::custom(wrong))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
            let mut listed = Vec::new();
            while let Some(item) = items.next_element::<String>()? {
                listed.push((self.parse)(&item).map_err(A::Error::custom)?);
            }
            Ok((self.list)(listed))
        }
    }

    deserializer.deserialize_any(WordOrList { words, what, parse, list })
}

impl<'de> Deserialize<'de> for Subprotocols {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |name: &str| {
            if is_token(name.as_bytes()) {
                return Ok(name.to_owned());
            }
            Err(format!("{name:?} is no token: use letters, digits and !#$%&'*+-.^_`|~"))
        };
        let words = [("any", Self::Any), ("none", Self::None)];
        word_or_list(deserializer, words, "names", parse, Self::Only)
    }
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse =
            |text: &str| text.parse::<Origin>().map_err(|error| format!("{text:?}: {error}"));
        let words = [("any", Self::Any), ("same-host", Self::SameHost)];
        word_or_list(deserializer, words, "origins", parse, Self::Only)
    }
}
