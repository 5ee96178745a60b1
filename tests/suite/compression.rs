//! Compression as clients and administrators see it: the answer to offers, the log, the metrics.

use std::io::{Read, Write};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::inside::{Inside, handshake, read_head};
use crate::service::Service;
use wsecho::ops::drain::Times;

const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The message `Hello`, compressed as in RFC 7692, section 7.2.3.1, with a zero mask.
const HELLO: &[u8] = b"\xc1\x87\0\0\0\0\xf2\x48\xcd\xc9\xc9\x07\x00";

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
async fn a_compressed_message_comes_back_as_it_is_behind_the_prefix_and_is_counted() {
    let inside = Inside::new("");
    for (path, prefix) in [("/echo", &b""[..]), ("/socket", b"\0\x08\0\xf7\xffserver: ")] {
        let mut client = inside.connect();
        client.write_all(offering(path, &["permessage-deflate"]).as_bytes()).await.unwrap();
        read_head(&mut client).await;
        client.write_all(HELLO).await.unwrap();
        let payload = [prefix, &HELLO[6..]].concat();
        let mut reply = vec![0; 2 + payload.len()];
        client.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply, [&[0xc1, u8::try_from(payload.len()).unwrap()], &*payload].concat());
    }
    assert_eq!(inside.metric("wsecho_compressed_bytes_total"), 2 * 7);
    assert_eq!(inside.metric("wsecho_inflated_bytes_total"), 2 * 5);
    let mut plain = inside.connect();
    plain.write_all(handshake("/echo").as_bytes()).await.unwrap();
    read_head(&mut plain).await;
    plain.write_all(HELLO).await.unwrap();
    let mut close = [0; 4];
    plain.read_exact(&mut close).await.unwrap();
    assert_eq!(close[2..], 1002_u16.to_be_bytes(), "nobody agreed to compression");
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
        if session == "compression=true" {
            client.write_all(HELLO).unwrap();
        }
        client.write_all(b"\x88\x80\0\0\0\0").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
        let line = service.log_line("session ended");
        assert!(line.contains(session), "{line}");
        let bytes = line.contains(" compressed_bytes=7 inflated_bytes=5 ");
        assert!(bytes || (session == "compression=false" && !line.contains("_bytes=")), "{line}");
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
