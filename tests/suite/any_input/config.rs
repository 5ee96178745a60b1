//! Arbitrary configuration files.
//!
//! Both the property test and the fuzzer call [`any_text`] with raw bytes.

use std::path::Path;

use arbitrary::{Result, Unstructured};
use wsecho::config::{Config, Environment, Overrides, parse, read};

/// The pieces such files are made of, so that some turn out valid by chance.
const PIECES: [&str; 40] = [
    "\n",
    "\n",
    "\n",
    " = ",
    " = ",
    "\"",
    "\"",
    "[",
    "]",
    "[[endpoint]]\n",
    "[limits]\n",
    "[timeouts]\n",
    "[proxy]\n",
    "[admin]\n",
    "[shutdown]\n",
    "[log]\n",
    "bind",
    "path",
    "prefix",
    "origins",
    "trusted",
    "max_connections",
    "max_message_size",
    "handshake",
    "drain_spread",
    "level",
    "proxy_protocol",
    "127.0.0.1:1",
    "unix:/a",
    "/a",
    "10s",
    "1 MiB",
    "any",
    "required",
    "10.0.0.0/8",
    "https://a.example",
    "7",
    "true",
    ",",
    "#",
];

/// Any text: nothing panics, every finding points into the text, and a valid configuration does not
/// differ from itself, nor from what is shown of it.
pub fn any_text(data: &[u8]) {
    // Once the bytes have run out, every choice is the first one, so this cannot fail.
    let _ = try_any_text(&mut Unstructured::new(data));
}

fn try_any_text(u: &mut Unstructured<'_>) -> Result<()> {
    let mut text = String::new();
    while !u.is_empty() {
        match u.int_in_range(0..=PIECES.len() * 9 / 8)? {
            piece if piece < PIECES.len() => text.push_str(PIECES[piece]),
            _ => text.push(u.arbitrary()?),
        }
    }
    let environment = Environment::new([("WSECHO_BIND".into(), text.clone().into())]);
    let overrides = Overrides { environment, ..Overrides::default() };
    if let Err(findings) = read(b"", &overrides) {
        let all = findings.iter().all(|it| it.variable.as_deref() == Some("WSECHO_BIND"));
        assert!(all && !findings.is_empty(), "{text:?}: {findings:?}");
    }
    match read(text.as_bytes(), &Overrides::default()) {
        Ok(loaded) => {
            let shown = loaded.show(Path::new("any"));
            let config = loaded.config;
            let mut again = parse(&shown).expect("what is shown can be read");
            // Shown as the documented default, it is binding.
            again.boot.max_connections = config.boot.max_connections;
            assert_eq!(again, config, "{shown}");
            let unchanged = config.changes(&config);
            assert!(unchanged.reloaded.is_empty() && unchanged.need_restart.is_empty(), "{text:?}");
            let changes = Config::default().changes(&config);
            let some = !changes.reloaded.is_empty() || !changes.need_restart.is_empty();
            assert_eq!(some, config != Config::default(), "{text:?}");
        }
        Err(findings) => {
            assert!(!findings.is_empty(), "{text:?}");
            let lines: Vec<&str> = text.split('\n').collect();
            for found in findings {
                let line = lines.get(found.line - 1).copied();
                let length = line.map(|line| line.chars().count());
                assert!(
                    length.is_some_and(|length| found.column <= length + 1),
                    "{found:?} {text:?}"
                );
                assert!(!found.message.is_empty(), "{text:?}");
            }
        }
    }
    Ok(())
}
