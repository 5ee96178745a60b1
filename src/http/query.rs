//! The query of a URL: names, values and percent-encoding.
//!
//! Owns how they are written. It does not know any name.
//!
//! Source: the URL Standard, `application/x-www-form-urlencoded`, which is what browsers write: a
//! plus is a blank.

/// The names and values of a query, as they stand there.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The first value of this name, as it stands there.
pub(super) fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    pairs(query).find_map(|(found, value)| (found == name).then_some(value))
}

/// What a value means; `None` if an escape is malformed, or the whole is not UTF-8.
pub(super) fn decode(value: &str) -> Option<String> {
    let (bytes, good) = unescape(value.as_bytes());
    String::from_utf8(bytes).ok().filter(|_| good)
}

/// The bytes that a text stands for, and whether all of its escapes are well-formed; others stand
/// for themselves.
pub(super) fn unescape(text: &[u8]) -> (Vec<u8>, bool) {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut good = true;
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, behind @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                bytes.push(digit(*high).unwrap_or(0) << 4 | digit(*low).unwrap_or(0));
                rest = behind;
            }
            (other, _) => {
                good &= *other != b'%';
                bytes.push(*other);
            }
        }
    }
    (bytes, good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_is_decoded_as_browsers_encode_it() {
        for (text, meant) in [
            ("plain", Some("plain")),
            ("a+b%20c%2Bd", Some("a b c+d")),
            ("%C3%B6", Some("ö")),
            ("ö", Some("ö")),
            ("%41%4a%4A", Some("AJJ")),
            ("", Some("")),
            ("%", None),
            ("%4", None),
            ("%g0", None),
            ("%+1", None),
            ("%C3", None),
            ("%00", Some("\0")),
        ] {
            assert_eq!(decode(text).as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn a_query_is_a_list_of_names_with_or_without_values() {
        let all: Vec<_> = pairs("a=1&b&c=x=y&&=z").collect();
        assert_eq!(all, [("a", "1"), ("b", ""), ("c", "x=y"), ("", ""), ("", "z")]);
        assert_eq!(value("ab=1&a=2&a=3", "a"), Some("2"));
        assert_eq!(value("", "a"), None);
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_is_decoded(text in any::<String>()) {
            let encoded = text.bytes().fold(String::new(), |all, byte| all + &format!("%{byte:02x}"));
            prop_assert_eq!(decode(&encoded), Some(text));
        }

        #[test]
        fn nothing_grows_or_panics(text in any::<Vec<u8>>()) {
            prop_assert!(unescape(&text).0.len() <= text.len());
        }
    }
}
