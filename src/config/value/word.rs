//! Values that are one of a few words, or a list instead of a word.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};

use super::{Value, items, text};
use crate::net::field::is_token;
use crate::ops::logging::{Format, Level};
use crate::proxy::protocol::Expect;
use crate::ws::handshake::{Origin, Origins, Subprotocols};

/// One of the names of an enum's variants.
pub(in crate::config) struct Word<T>(T);

impl<T: DeserializeOwned> Word<T> {
    fn parse(text: &str) -> Result<T, Variants> {
        T::deserialize(StrDeserializer::new(text))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a word in quotes", |text| {
            Self::parse(text).map(Self).map_err(|variants| match variants.in_lower_case(text) {
                Some(variant) => format!("{text:?} is unknown; write \"{variant}\""),
                None => format!("{text:?} is unknown; write {variants}"),
            })
        })
    }
}

impl<T: DeserializeOwned> Value for Word<T> {
    fn kind() -> String {
        Self::parse("").err().map(|variants| variants.to_string()).unwrap_or_default()
    }
}

impl From<Word<Expect>> for Expect {
    fn from(value: Word<Expect>) -> Self {
        value.0
    }
}

impl From<Word<Level>> for Level {
    fn from(value: Word<Level>) -> Self {
        value.0
    }
}

impl From<Word<Format>> for Format {
    fn from(value: Word<Format>) -> Self {
        value.0
    }
}

/// What an enum has instead of an unknown variant.
#[derive(Debug)]
struct Variants(&'static [&'static str]);

impl Variants {
    fn in_lower_case(&self, text: &str) -> Option<&'static str> {
        self.0.iter().find(|name| name.eq_ignore_ascii_case(text)).copied()
    }
}

impl fmt::Display for Variants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let separator = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            write!(f, "{separator}\"{name}\"")?;
        }
        Ok(())
    }
}

impl std::error::Error for Variants {}

impl Error for Variants {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }
}

/// Reads a value that is one of two words, or a list of what `parse` understands.
fn word_or_list<'de, D, T, I>(
    deserializer: D,
    words: [(&'static str, T); 2],
    parse: fn(&str) -> Result<I, String>,
    list: fn(Vec<I>) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Value,
{
    struct WordOrList<T, I> {
        words: [(&'static str, T); 2],
        parse: fn(&str) -> Result<I, String>,
        list: fn(Vec<I>) -> T,
    }

    impl<'de, T: Value, I> Visitor<'de> for WordOrList<T, I> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&T::kind())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let [(one, _), (other, _)] = &self.words;
            let near = |word: &&str| text.eq_ignore_ascii_case(word);
            let wrong = if let Some(word) = [one, other].into_iter().find(|word| near(word)) {
                format!("write {word:?}")
            } else if text == "*" {
                format!("write {one:?} to allow all")
            } else {
                match items(text, self.parse) {
                    Ok(items) => format!("for a list write {items:?}"),
                    Err(wrong) => format!("for a list write brackets, and {wrong}"),
                }
            };
            let wrong = format!("{text:?} is neither {one:?} nor {other:?}; {wrong}");
            let mut words = self.words.into_iter();
            words.find(|(word, _)| *word == text).map(|(_, value)| value).ok_or(E::custom(wrong))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
            let mut listed = Vec::new();
            let one = self.words[0].0;
            while let Some(item) = items.next_element::<String>()? {
                if let Some((word, _)) = self.words.iter().find(|(word, _)| *word == item) {
                    let wrong = format!("{word:?} is not one of a list; write it without brackets");
                    return Err(A::Error::custom(wrong));
                }
                if item == "*" {
                    let wrong = format!("{item:?} is no wildcard; write {one:?}, without brackets");
                    return Err(A::Error::custom(wrong));
                }
                listed.push(super::item(&item, self.parse).map_err(A::Error::custom)?);
            }
            Ok((self.list)(listed))
        }
    }

    deserializer.deserialize_any(WordOrList { words, parse, list })
}

impl<'de> Deserialize<'de> for Subprotocols {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |name: &str| {
            if is_token(name.as_bytes()) {
                return Ok(name.to_owned());
            }
            Err(format!("{name:?} is not a token; use letters, digits and !#$%&'*+-.^_`|~"))
        };
        let words = [("any", Self::Any), ("none", Self::None)];
        word_or_list(deserializer, words, parse, Self::Only)
    }
}

impl Value for Subprotocols {
    fn kind() -> String {
        "\"any\", \"none\" or a list of names".to_owned()
    }
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = [("any", Self::Any), ("same-host", Self::SameHost)];
        word_or_list(deserializer, words, origin, Self::Only)
    }
}

impl Value for Origins {
    fn kind() -> String {
        "\"any\", \"same-host\" or a list of origins".to_owned()
    }
}

/// Reads an origin that a browser can send for a page.
fn origin(text: &str) -> Result<Origin, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}
