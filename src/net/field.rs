//! The values of header fields: lists and tokens.
//!
//! Owns the grammar that fields share. It does not know what any of them means.
//!
//! Source: RFC 9110, section 5.6.

use hyper::header::{HeaderMap, HeaderName};

/// The elements of a list across all its lines (section 5.6.1), without empty ones and without the
/// whitespace around them.
pub fn list<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether a text is a `token` (section 5.6.2).
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_char)
}

/// Whether a byte may appear in a `token` (section 5.6.2).
#[must_use]
pub fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
