//! The kinds of value that a key can have: syntax, range, and the message for a bad value.
//!
//! It does not know which keys there are.

pub(super) mod quantity;
mod word;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, Visitor};

use self::quantity::{show_duration, show_size};
pub(super) use self::word::Word;
use crate::net::addr::ListenAddr;
use crate::proxy::client_addr::TrustedPeer;

/// A value as it is written in the file.
pub(super) trait Value: DeserializeOwned {
    /// Its type and range, as wsecho.toml(5) states them.
    fn kind() -> String;
}

impl Value for bool {
    fn kind() -> String {
        "true or false".to_owned()
    }
}

/// Reads a string; any other type is refused with what was expected.
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

/// The items of a list that are in one text; what is wrong with it if it is none.
fn items<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<&str>, String> {
    let Err(wrong) = parse(text) else { return Ok(vec![text]) };
    let items: Vec<&str> = text.split([',', ';', ' ']).filter(|it| !it.is_empty()).collect();
    match items.iter().find_map(|item| parse(item).err()) {
        None if items.len() > 1 => Ok(items),
        Some(first) if text.contains([',', ';']) => Err(first),
        _ => Err(wrong),
    }
}

/// Reads one item of a list. Several in one text are answered with the list.
fn item<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    parse(text).map_err(|wrong| match items(text, parse) {
        Ok(items) => format!("{text:?} is several; write {items:?}"),
        Err(_) => wrong,
    })
}

/// A duration such as `"10s"`, of at least `MIN` milliseconds and at most a day.
pub(super) struct Seconds<const MIN: u64>(Duration);

impl<'de, const MIN: u64> Deserialize<'de> for Seconds<MIN> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a duration in quotes with its unit, such as \"10s\"", |text| {
            let duration = quantity::duration(text)?;
            if duration < Duration::from_millis(MIN) || duration > Self::MAX {
                return Err(format!("{text:?} is out of range ({})", Self::range()));
            }
            Ok(Self(duration))
        })
    }
}

impl<const MIN: u64> Seconds<MIN> {
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);

    fn range() -> String {
        let [min, max] = [Duration::from_millis(MIN), Self::MAX].map(show_duration);
        format!("{min} to {max}")
    }
}

impl<const MIN: u64> Value for Seconds<MIN> {
    fn kind() -> String {
        format!("duration from {}", Self::range())
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
        text(deserializer, "a size in quotes with its unit, such as \"1 MiB\"", |text| {
            let size = quantity::size(text)?;
            if (MIN..=MAX).contains(&size) {
                return Ok(Self(size));
            }
            Err(format!("{text:?} is out of range ({})", Self::range()))
        })
    }
}

impl<const MIN: u64, const MAX: u64> ByteSize<MIN, MAX> {
    fn range() -> String {
        let [min, max] = [MIN, MAX].map(show_size);
        format!("{min} to {max}")
    }
}

impl<const MIN: u64, const MAX: u64> Value for ByteSize<MIN, MAX> {
    fn kind() -> String {
        format!("size from {}", Self::range())
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
                    .ok_or_else(|| E::custom(format!("{number} is out of range ({MIN} to {MAX})")))
            }
        }

        deserializer.deserialize_i64(InRange::<MIN, MAX>).map(Self)
    }
}

impl<const MIN: i64, const MAX: i64> Value for Whole<MIN, MAX> {
    fn kind() -> String {
        format!("number from {MIN} to {MAX}")
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
                .ok_or_else(|| format!("{text:?} is not an octal mode from \"0\" to \"0777\""))
        })
    }
}

impl Value for Mode {
    fn kind() -> String {
        "octal mode from \"0\" to \"0777\"".to_owned()
    }
}

impl From<Mode> for u32 {
    fn from(value: Mode) -> Self {
        value.0
    }
}

/// An address to listen on, one of a list.
pub(super) struct Addr(pub(super) ListenAddr);

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an address in quotes, such as \"127.0.0.1:8888\"", |text| {
            item(text, |text| text.parse().map(Self).map_err(|error| format!("{text:?}: {error}")))
        })
    }
}

impl Value for Addr {
    fn kind() -> String {
        "address or list of addresses".to_owned()
    }
}

/// A peer to trust, one of a list.
pub(super) struct Peer(pub(super) TrustedPeer);

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a network in quotes, such as \"10.0.0.0/8\", or \"unix\"", |text| {
            item(text, |text| text.parse().map(Self).map_err(|error| format!("{text:?}: {error}")))
        })
    }
}

impl Value for Peer {
    fn kind() -> String {
        "list of networks, addresses and \"unix\"".to_owned()
    }
}

/// The prefix of an endpoint. It is short because even an empty message is answered with it.
pub(super) struct Prefix(Box<str>);

impl Prefix {
    /// In bytes.
    const MAX: usize = 1024;
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "text in quotes", |text| {
            at_most(Self::MAX, text)?;
            Ok(Self(text.into()))
        })
    }
}

impl Value for Prefix {
    fn kind() -> String {
        format!("text of at most {} bytes", Self::MAX)
    }
}

impl From<Prefix> for Box<str> {
    fn from(value: Prefix) -> Self {
        value.0
    }
}

/// The name of an instance, as it is shown to people.
pub(super) struct Name(Box<str>);

impl Name {
    /// In bytes, as for a host name.
    const MAX: usize = 255;
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a name in quotes", |text| {
            at_most(Self::MAX, text)?;
            if text.contains(char::is_control) {
                return Err(format!("{text:?} has control characters; leave them out"));
            }
            Ok(Self(text.into()))
        })
    }
}

impl Value for Name {
    fn kind() -> String {
        format!("text of at most {} bytes", Self::MAX)
    }
}

impl From<Name> for Box<str> {
    fn from(value: Name) -> Self {
        value.0
    }
}

fn at_most(max: usize, text: &str) -> Result<(), String> {
    if text.len() > max {
        return Err(format!("{} bytes is too long; the limit is {max}", text.len()));
    }
    Ok(())
}

/// The path of an endpoint: absolute, as in a request line, and not one of the service's own.
pub(super) struct EndpointPath(pub(super) String);

impl EndpointPath {
    /// In bytes: the log shows it once per session.
    const MAX: usize = 256;
    /// The service's own paths.
    const RESERVED: [&str; 3] = ["/healthz", "/info", "/metrics"];
}

impl<'de> Deserialize<'de> for EndpointPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a path in quotes, such as \"/socket\"", |text| {
            if !text.starts_with('/') {
                return Err(format!("{text:?} is not absolute; write \"/{text}\""));
            }
            at_most(Self::MAX, text)?;
            if Self::RESERVED.contains(&text) {
                return Err(format!("{text:?} is reserved; choose another path"));
            }
            if text.split('/').any(is_dot_segment) {
                return Err(format!(
                    "{text:?}: clients resolve . and .. themselves; leave them out"
                ));
            }
            if !text.contains(['?', '#', ' ']) {
                let sent = as_sent(text);
                if sent != text {
                    return Err(format!("{text:?} is sent as {sent:?} by browsers; write that"));
                }
            }
            match text.parse::<PathAndQuery>() {
                Ok(parsed) if parsed.path() == text => Ok(Self(text.to_owned())),
                _ => Err(format!(
                    "{text:?} is not a URL path; leave out ?, # and spaces, and percent-encode \
                     other special characters"
                )),
            }
        })
    }
}

/// How browsers send a path: the path percent-encode set of the URL standard.
fn as_sent(path: &str) -> String {
    let sent = path.bytes().map(|byte| match byte {
        b'\\' => "/".to_owned(),
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'}' | ..=b' ' | 0x7f.. => {
            format!("%{byte:02X}")
        }
        _ => char::from(byte).to_string(),
    });
    sent.collect()
}

fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    matches!(plain.as_str(), "." | "..")
}

impl Value for EndpointPath {
    fn kind() -> String {
        let [paths @ .., last] = Self::RESERVED;
        let (max, paths) = (Self::MAX, paths.join(", "));
        format!("path of at most {max} bytes, other than {paths} and {last}")
    }
}
