//! Compression as clients and administrators see it: the answer to offers, the log, the metrics.

use std::io::{Read, Write};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::inside::{Inside, handshake, read_head};
use crate::service::Service;
use wsecho::ops::drain::Times;

const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A handshake with these lines of offers.
fn offering(path: &str, offers: &[&str]) -> String {
    let lines = offers.iter().map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n"));
    let good = handshake(path);
    let head = good.strip_suffix("\r\n").expect("it ends with an empty line");
    format!("{head}{}\r\n", lines.collect::<String>())
}

/// The value of `Sec-WebSocket-Extensions` in an answer that opens a WebSocket.
fn answer(head: &str) -> Option<&str> {
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut found = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-extensions").then_some(value)
    });
    found.next().inspect(|_| assert_eq!(found.next(), None, "once is enough: {head}"))
}

#[tokio::test(start_paused = true)]
async fn offers_of_compression_are_answered_in_the_101() {
    let inside = Inside::new(
        "[[endpoint]]\npath = \"/on\"\n[[endpoint]]\npath = \"/off\"\ncompression = false",
    );
    let limited = format!("{AGREED}; server_max_window_bits=10; client_max_window_bits=10");
    for (path, offers, expected) in [
        ("/on", &[][..], None),
        ("/on", &["permessage-deflate"], Some(AGREED)),
        ("/on", &["permessage-deflate; client_max_window_bits"], Some(AGREED)),
        ("/on", &["permessage-deflate; server_max_window_bits=10"], None),
        (
            "/on",
            &["permessage-deflate; server_max_window_bits=10; client_max_window_bits"],
            Some(&limited),
        ),
        ("/on", &["permessage-deflate; unknown, permessage-deflate"], Some(AGREED)),
        ("/on", &["x-webkit-deflate-frame", "permessage-deflate"], Some(AGREED)),
        ("/on", &["permessage-deflate; \""], None),
        ("/off", &["permessage-deflate"], None),
    ] {
        let mut client = inside.connect();
        client.write_all(offering(path, offers).as_bytes()).await.unwrap();
        let head = read_head(&mut client).await;
        assert_eq!(answer(&head), expected, "{path} {offers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_with_compression_are_counted_while_they_last() {
    let inside = Inside::new("");
    let open = || inside.metric("wsecho_sessions_compressed");
    let mut clients = Vec::new();
    for (offers, expected) in [(&["permessage-deflate"][..], 1), (&[], 1), (&["unknown"], 1)] {
        let mut client = inside.connect();
        client.write_all(offering("/echo", offers).as_bytes()).await.unwrap();
        read_head(&mut client).await;
        // An echo proves that the session has begun.
        client.write_all(b"\x81\x80\0\0\0\0").await.unwrap();
        assert_eq!(client.read_u16().await.unwrap(), 0x8100);
        assert_eq!(open(), expected, "{offers:?}");
        clients.push(client);
    }
    drop(clients);
    inside.drain.begin(Times::default());
    inside.drain.wait().await;
    assert_eq!(open(), 0);
}

#[test]
fn the_log_says_whether_compression_was_agreed_to_and_at_debug_why_not() {
    let mut service = Service::start("log.level = \"debug\"");
    let unknown = "permessage-deflate; unknown\t\"x";
    for (offers, why, session) in [
        (&["permessage-deflate"][..], "compression agreed to", "compression=true"),
        (&[], "compression not offered", "compression=false"),
        (&["foo", unknown], "compression declined: no offer can be accepted", "compression=false"),
    ] {
        service.forget_log();
        let mut client = service.connect();
        client.write_all(offering("/echo", offers).as_bytes()).unwrap();
        client.write_all(b"\x88\x80\0\0\0\0").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
        let line = service.log_line("session ended");
        assert!(line.contains(session), "{line}");
        let line = service.log_line(why);
        assert!(line.contains(" endpoint=/echo "), "{line}");
        assert_eq!(line.contains(&format!(" answer=\"{AGREED}\"")), session.contains("true"));
        let offered = match offers {
            [] => "offered=\"\"".to_owned(),
            [one] => format!("offered={one}"),
            _ => r#"offered="foo, permessage-deflate; unknown\t\"x""#.to_owned(),
        };
        assert!(line.contains(&offered), "{offered} in {line}");
    }
}
