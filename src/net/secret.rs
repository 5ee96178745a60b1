//! What says that something is a secret: its name, the form of credentials (RFC 9110, section 11.4), or
//! its place among subprotocols.
//!
//! Owns the table of names. Whatever is in doubt is a secret. It does not know where names stand, nor what
//! is shown in place of a secret.

use super::field::is_token;

/// What such a name has in it, whatever separates its words.
const PARTS: [&str; 22] = [
    "apikey",
    "assertion",
    "auth",
    "bearer",
    "cert",
    "cookie",
    "cred",
    "csrf",
    "jwt",
    "otp",
    "passcode",
    "passphrase",
    "passw",
    "pwd",
    "saml",
    "secret",
    "sessid",
    "session",
    "signature",
    "ticket",
    "token",
    "xsrf",
];
/// Words that are too short to look for within others.
const WORDS: [&str; 9] = ["hmac", "key", "pass", "pin", "psk", "pw", "sess", "sid", "sig"];
/// Words that end like those of passwords.
const INNOCENT: [&str; 2] = ["bypass", "compass"];

/// Whether what has this name is a secret.
#[must_use]
pub fn is_secret(name: &[u8]) -> bool {
    let words = words(name);
    let whole = words.replace(' ', "");
    let is_secret = |word: &str| {
        let word = word.trim_end_matches(|last: char| last.is_ascii_digit());
        let is_pass = word.ends_with("pass") && !INNOCENT.iter().any(|end| word.ends_with(end));
        WORDS.contains(&word) || word.ends_with("key") || is_pass
    };
    PARTS.iter().any(|part| whole.contains(part))
        // Next to other words it is that of an error, or of a country.
        || matches!(&*whole, "code" | "xcode")
        || words.split(' ').any(is_secret)
}

/// Whether there are credentials in the list that the value of a header may be.
#[must_use]
pub fn has_credentials(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(is_credentials)
}

fn is_credentials(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let scheme = value.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    let mut known = [&b"basic"[..], b"digest", b"negotiate", b"ntlm"].into_iter();
    scheme.len() < value.len()
        && is_token(scheme)
        && (is_secret(scheme) || known.any(|known| scheme.eq_ignore_ascii_case(known)))
}

/// Which of the subprotocols that are offered together are secrets. Browsers can send no other header, so
/// tokens travel there as well, behind a subprotocol that says so or as a part of one.
pub fn among_subprotocols<'a>(
    offered: impl IntoIterator<Item = &'a [u8]>,
) -> impl Iterator<Item = bool> {
    /// No name in use is as long.
    const LONGEST: usize = 48;
    let mut token_follows = false;
    offered.into_iter().map(move |offered| {
        let names_secret = is_secret(offered);
        let hidden = token_follows
            || offered.len() > LONGEST
            || (names_secret && !is_only_a_name(offered))
            || offered.starts_with(b"eyJ");
        token_follows |= names_secret;
        hidden
    })
}

/// Whether the name of a secret ends with the word that makes it one: behind that, there may be the
/// secret itself.
fn is_only_a_name(name: &[u8]) -> bool {
    let last = name.rsplit(|byte| !byte.is_ascii_alphanumeric()).next().unwrap_or_default();
    let mut known = PARTS.iter().chain(&WORDS).chain(&["authorization"]);
    known.any(|word| last.eq_ignore_ascii_case(word.as_bytes()))
}

/// The words of a name, in lower case and with blanks between them: `db pass` for `dbPass` and `db_pass`.
fn words(name: &[u8]) -> String {
    let mut words = String::with_capacity(name.len());
    let mut before = b' ';
    for &byte in name {
        if byte.is_ascii_uppercase() && before.is_ascii_lowercase() {
            words.push(' ');
        }
        let letter = if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b' ' };
        words.push(letter.into());
        before = byte;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_told_from_those_that_only_look_like_them() {
        for secret in [
            "token",
            "Access-Token",
            "PHPSESSID",
            "connect.sid",
            "sess",
            "passcode",
            "pw",
            "db_pass",
            "userpass",
            "dbPass2",
            "user[pass]",
            "SAMLResponse",
            "X-Pass",
            "X-Pin",
            "userPin",
            "X-Sid",
            "X-Sig",
            "X-Hmac",
            "X-Api-Key",
            "code",
            "X-Code",
        ] {
            assert!(is_secret(secret.as_bytes()), "{secret}");
        }
        for innocent in [
            "",
            "compass",
            "encompass",
            "bypass",
            "X-Cache-Bypass",
            "passport",
            "passenger",
            "spinning",
            "opinion",
            "design",
            "signal",
            "inside",
            "assess",
            "pwa",
            "status_code",
            "country-code",
            "keyword",
            "X-Forwarded-For",
        ] {
            assert!(!is_secret(innocent.as_bytes()), "{innocent}");
        }
    }

    #[test]
    fn a_name_with_something_behind_it_is_not_only_a_name() {
        for name in ["token", "access_token", "Bearer", "Authorization", "x-api-key"] {
            assert!(is_only_a_name(name.as_bytes()), "{name}");
        }
        for more in
            ["token-s3cr3t", "auth_s3cr3t", "token.a.b", "bearer+x", "tokens3cr3t", "token-"]
        {
            assert!(!is_only_a_name(more.as_bytes()), "{more}");
        }
    }
}
