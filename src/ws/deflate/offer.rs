//! Which of a client's offers is accepted, and the answer to it.
//!
//! Owns the parameters of the extension and the grammar that they are written in. It does not know
//! what was agreed by other means, nor whether an endpoint wants compression.
//!
//! Sources: RFC 7692, sections 5.1 and 7.1; RFC 6455, section 9.1.

use std::fmt;

/// The registered name (RFC 7692, section 7).
const NAME: &str = "permessage-deflate";
/// The parameters of section 7.1, in the order of [`Agreement::of`].
const PARAMETERS: [&str; 4] = [
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
];
/// The size of the largest window, as the logarithm of its bytes: that of a peer with no limit.
const MAX_BITS: u8 = 15;
/// The smallest size that can be offered. zlib cannot compress with it: a client that is told to
/// uses 9.
const MIN_BITS: u8 = 8;

/// The parameters of an accepted offer; `Display` writes the answer.
///
/// Neither side keeps its context from one message to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The limit on the server's window, if the client set one, as the logarithm of its bytes. Below
    /// [`MAX_BITS`] it is the limit on the client's too, whose compressed data is sent back.
    window_bits: Option<u8>,
}

impl Agreement {
    /// The answer to the first offer that can be accepted, in the client's order. `lines` are the
    /// values of `Sec-WebSocket-Extensions`, which are one list however many they are.
    ///
    /// An offer that is unknown, malformed or unacceptable fails alone (section 5.1). Each byte is
    /// looked at a fixed number of times, whatever a client writes.
    pub fn find<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let lines: Vec<&[u8]> = lines.into_iter().collect();
        split(&lines.join(&b','), b',').find_map(Self::of)
    }

    /// The answer to one offer, if it can be accepted.
    fn of(offer: &[u8]) -> Option<Self> {
        let mut parts = split(offer, b';').map(<[u8]>::trim_ascii);
        if parts.next() != Some(NAME.as_bytes()) {
            return None;
        }
        // For each parameter, whether it is there, and the number of bits that it has.
        let mut given: [Option<Option<u8>>; PARAMETERS.len()] = [None; PARAMETERS.len()];
        for part in parts {
            let (name, value) = parameter(part)?;
            let index = PARAMETERS.iter().position(|known| known.as_bytes() == name)?;
            let bits = value.map(|value| bits(&value).ok_or(())).transpose().ok()?;
            if given[index].replace(bits).is_some() {
                return None;
            }
        }
        let [server_takeover, client_takeover, server_bits, client_bits] = given;
        if server_takeover.flatten().or(client_takeover.flatten()).is_some() {
            return None;
        }
        let window_bits = match server_bits {
            None => None,
            Some(None) => return None,
            Some(Some(MAX_BITS)) => Some(MAX_BITS),
            // Only a client that offers it may be told to limit its window (section 7.1.2.2).
            Some(Some(bits)) => Some(bits.min(client_bits?.unwrap_or(MAX_BITS))),
        };
        (window_bits != Some(MIN_BITS)).then_some(Self { window_bits })
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [server_takeover, client_takeover, server_bits, client_bits] = PARAMETERS;
        write!(f, "{NAME}; {server_takeover}; {client_takeover}")?;
        let Some(bits) = self.window_bits else { return Ok(()) };
        write!(f, "; {server_bits}={bits}")?;
        if bits < MAX_BITS {
            write!(f, "; {client_bits}={bits}")?;
        }
        Ok(())
    }
}

/// Splits at a separator outside of quoted strings. One that is not closed has no end.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
        byte == separator && !quoted
    })
}

/// The name of a parameter, and its value if it has one, without quotes.
fn parameter(text: &[u8]) -> Option<(&[u8], Option<Vec<u8>>)> {
    let Some(at) = text.iter().position(|&byte| byte == b'=') else { return Some((text, None)) };
    let value = text[at + 1..].trim_ascii_start();
    let value = match value.strip_prefix(b"\"") {
        Some(open) => unquoted(open.strip_suffix(b"\"")?)?,
        None => value.to_vec(),
    };
    Some((text[..at].trim_ascii_end(), Some(value)))
}

/// The text within a quoted string (RFC 2616, section 2.2).
fn unquoted(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut quoted = quoted.iter();
    while let Some(&byte) = quoted.next() {
        text.push(if byte == b'\\' { *quoted.next()? } else { byte });
    }
    Some(text)
}

/// A number of bits from 8 to 15, without leading zeros (section 7.1.2).
fn bits(value: &[u8]) -> Option<u8> {
    let number = std::str::from_utf8(value).ok().filter(|text| !text.starts_with(['0', '+']))?;
    number.parse().ok().filter(|bits| (MIN_BITS..=MAX_BITS).contains(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn answer(lines: &[&str]) -> Option<String> {
        Agreement::find(lines.iter().map(|line| line.as_bytes())).map(|found| found.to_string())
    }

    fn with_bits(bits: u8) -> String {
        format!("{PLAIN}; server_max_window_bits={bits}; client_max_window_bits={bits}")
    }

    #[test]
    fn every_answer_keeps_both_sides_from_taking_over_their_context() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=8",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            "permessage-deflate \t;\tclient_max_window_bits = 15 ",
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(PLAIN), "{offer}");
        }
    }

    #[test]
    fn a_limit_to_the_servers_window_is_answered_and_kept_by_both_sides() {
        let full = format!("{PLAIN}; server_max_window_bits=15");
        for (parameters, expected) in [
            ("server_max_window_bits=15", Some(full.clone())),
            ("server_max_window_bits=15; client_max_window_bits=9", Some(full)),
            ("server_max_window_bits=14", None),
            ("server_max_window_bits=14; client_max_window_bits", Some(with_bits(14))),
            ("client_max_window_bits=15; server_max_window_bits=9", Some(with_bits(9))),
            ("server_max_window_bits=12; client_max_window_bits=10", Some(with_bits(10))),
            ("server_max_window_bits=10; client_max_window_bits=12", Some(with_bits(10))),
            ("server_max_window_bits=8; client_max_window_bits", None),
            ("server_max_window_bits=12; client_max_window_bits=8", None),
        ] {
            let offer = format!("permessage-deflate; {parameters}");
            assert_eq!(answer(&[&offer]), expected, "{offer}");
        }
    }

    #[test]
    fn a_value_may_be_quoted_and_is_then_read_as_if_it_were_not() {
        for value in ["\"10\"", r#""1\0""#, r#""\1\0""#] {
            let offer = format!(
                "permessage-deflate; server_max_window_bits={value}; client_max_window_bits"
            );
            assert_eq!(answer(&[&offer]), Some(with_bits(10)), "{offer}");
        }
    }

    #[test]
    fn what_is_not_as_the_rfc_has_it_fails_the_offer() {
        for offer in [
            "",
            ",,",
            "x-webkit-deflate-frame",
            "Permessage-Deflate",
            "permessage-deflate=1",
            "permessage-deflate server_no_context_takeover",
            "\"permessage-deflate\"",
            "permessage-deflate;",
            "permessage-deflate;; client_max_window_bits",
            "permessage-deflate; foo",
            "permessage-deflate; client_max_window_bits; foo=1",
            "permessage-deflate; Client_Max_Window_Bits",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=15; server_max_window_bits=15",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover=10",
            "permessage-deflate; client_no_context_takeover=",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=010",
            "permessage-deflate; client_max_window_bits=+10",
            "permessage-deflate; client_max_window_bits=-10",
            "permessage-deflate; client_max_window_bits=266",
            "permessage-deflate; client_max_window_bits=1 0",
            "permessage-deflate; client_max_window_bits=10.0",
            "permessage-deflate; client_max_window_bits==10",
            "permessage-deflate; client_max_window_bits='10'",
            "permessage-deflate; client_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=10\"",
            "permessage-deflate; client_max_window_bits=\"10\\\"",
            "permessage-deflate; client_max_window_bits=\"1\"0\"",
            "permessage-deflate; client_max_window_bits=\" 10\"",
            "permessage-deflate; client_max_window_bits=\"10\" x",
            "permessage-deflate; \"client_max_window_bits\"",
        ] {
            assert_eq!(answer(&[offer]), None, "{offer}");
        }
    }

    #[test]
    fn the_first_acceptable_offer_of_all_lines_wins() {
        let limited = "permessage-deflate; server_max_window_bits=9";
        for (lines, expected) in [
            (&[limited, "permessage-deflate"][..], Some(PLAIN.to_owned())),
            (
                &["permessage-deflate; server_max_window_bits=9; client_max_window_bits", limited],
                Some(with_bits(9)),
            ),
            (&["bar; a=\",permessage-deflate\" , permessage-deflate"], Some(PLAIN.to_owned())),
            (&["bar; a=\",permessage-deflate\""], None),
            (&[r#"bar; a="\", permessage-deflate, ""#], None),
            (&["bar; a=\\\"x, permessage-deflate"], None),
            (
                &["foo, , permessage-deflate; foo", "", "permessage-deflate,"],
                Some(PLAIN.to_owned()),
            ),
            // Lines are one list, so a string that is not closed goes on in the next one.
            (&["bar; a=\"", "permessage-deflate"], None),
            (&["permessage-deflate", "bar; a=\""], Some(PLAIN.to_owned())),
        ] {
            assert_eq!(answer(lines), expected, "{lines:?}");
        }
    }
}
