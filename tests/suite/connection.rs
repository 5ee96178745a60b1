//! One connection: deadlines, limits, what follows a handshake, how it ends. On a paused clock, so
//! that times are exact.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::engine::support::{CLOSE, FIN};
use crate::inside::{Inside, handshake, read_head, read_to_end};

/// The text frame `hello`, with a zero mask.
const HELLO: &[u8] = b"\x81\x85\0\0\0\0hello";

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_after_the_handshake_timeout() {
    let begun = Instant::now();
    assert_eq!(Inside::new("").exchange("").await, "");
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_dripping_client_gets_no_more_time_than_a_silent_one() {
    let inside = Inside::new("timeouts.handshake = \"2s\"");
    let (mut client, ended) = inside.connect_with(1 << 20, false);
    let begun = Instant::now();
    let drip = async {
        for byte in handshake("/socket").bytes().cycle() {
            sleep(Duration::from_millis(100)).await;
            if client.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(drip, ended);
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_may_come_byte_by_byte() {
    let inside = Inside::new("");
    let mut client = inside.connect();
    for byte in handshake("/socket").bytes() {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_is_dropped_after_the_close_timeout() {
    let inside = Inside::new("timeouts.close = \"3s\"");
    let (mut client, ended) = inside.connect_with(64, false);
    let begun = Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    ended.await;
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_keeps_sending_gets_the_whole_answer_and_is_then_cut_off() {
    let inside = Inside::new("");
    let (client, ended) = inside.connect_with(1 << 16, false);
    let (mut reader, mut writer) = tokio::io::split(client);
    let begun = Instant::now();
    let send = async {
        let head = "POST /socket HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
        writer.write_all(head.as_bytes()).await.unwrap();
        while writer.write_all(&[0; 1 << 12]).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let read = async {
        let mut answer = String::new();
        reader.read_to_string(&mut answer).await.unwrap();
        assert!(begun.elapsed().as_secs() < 1, "the answer does not wait for the linger");
        answer
    };
    let (answer, (), _) = tokio::join!(read, send, ended);
    assert!(answer.ends_with("a WebSocket is opened with GET\n\n(method)\n"), "{answer}");
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_head_over_16_kib_or_100_fields_gets_431() {
    let inside = Inside::new("");
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: x\r\n".repeat(100));
    for request in [long, many] {
        let answer = inside.exchange(&request).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(answer.contains("over 16 KiB or 100 fields"), "{answer}");
    }
    let most = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: x\r\n".repeat(99));
    assert!(inside.exchange(&most).await.starts_with("HTTP/1.1 200 "), "100 fields are allowed");
}

#[tokio::test(start_paused = true)]
async fn what_no_parser_takes_is_refused_with_its_reason() {
    let inside = Inside::new("");
    for (request, status, reason) in [
        ("GET /socket here HTTP/1.1\r\nHost: a\r\n\r\n", 400, "encode it as %20"),
        ("GET /socket\r\n", 400, "does not end with HTTP/1.1"),
        ("GET / HTTP/2.0\r\n\r\n", 400, "other versions are not spoken here"),
        ("hello\r\n", 400, "HTTP/1.1"),
        ("{\"a\": 1}\r\n", 400, "does not begin with a method"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "header field is malformed"),
        ("GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not a valid URI"),
    ] {
        let answer = inside.exchange(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
        assert!(answer.contains(reason) && answer.ends_with('\n'), "{request}{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_printable_character_may_stand_in_a_target() {
    let inside = Inside::new("");
    for character in (b'!'..=b'~').map(char::from) {
        for target in [format!("/a{character}"), format!("/?{character}")] {
            let answer = inside.exchange(&format!("GET {target} HTTP/1.0\r\n\r\n")).await;
            assert!(!answer.starts_with("HTTP/1.1 400 "), "{target} {answer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_after_a_refused_handshake_is_taken_for_a_request() {
    let inside = Inside::new("");
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    for bad in [
        handshake("/socket").replace("Version: 13", "Version: 8"),
        handshake("/socket").replace("Upgrade: websocket\r\n", ""),
        handshake("/socket").replace("Host:", "Content-Length: 38\r\nHost:"),
        handshake("/nowhere"),
    ] {
        let answer = inside.exchange(&(bad + smuggled)).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert_eq!(answer.matches("\r\nDate: ").count(), 1, "{answer}");
        assert!(answer.contains("\r\nConnection: close"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn frames_sent_together_with_the_handshake_are_echoed() {
    let inside = Inside::new("");
    let mut client = inside.connect();
    client.write_all(&[handshake("/socket").as_bytes(), HELLO, HELLO].concat()).await.unwrap();
    read_head(&mut client).await;
    let mut echoed = [0; 30];
    client.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x81\x0dserver: hello\x81\x0dserver: hello");
}

#[tokio::test(start_paused = true)]
async fn text_is_prefixed_and_binary_is_not() {
    let inside = Inside::new("");
    let mut socket = inside.open("/socket").await;
    for (sent, echoed) in [
        (Message::text("Hello world"), Message::text("server: Hello world")),
        (Message::text(""), Message::text("server: ")),
        (Message::text("\u{1f30d}"), Message::text("server: \u{1f30d}")),
        (Message::binary(vec![0, 255]), Message::binary(vec![0, 255])),
        (Message::binary(vec![]), Message::binary(vec![])),
    ] {
        socket.send(sent).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), echoed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_with_its_own_code_and_the_connection_ends() {
    let inside = Inside::new("");
    let mut client = inside.connect();
    client.write_all(handshake("/echo").as_bytes()).await.unwrap();
    read_head(&mut client).await;
    client.write_all(b"\x88\x85\0\0\0\0\x0f\xa0bye").await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x88\x05\x0f\xa0bye");
}

#[tokio::test(start_paused = true)]
async fn a_message_over_the_limit_is_refused_with_1009() {
    let inside = Inside::new("limits.max_message_size = \"1 KiB\"");
    let mut socket = inside.open("/echo").await;
    socket.send(Message::binary(vec![7; 1024])).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().len(), 1024, "exactly at the limit");
    socket.send(Message::binary(vec![7; 1025])).await.unwrap();
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("no Close") };
    assert_eq!(close.code, CloseCode::Size);
    assert!(close.reason.contains("max_message_size"), "{}", close.reason);
}

#[tokio::test(start_paused = true)]
async fn draining_closes_sessions_with_1001_and_those_that_were_still_to_open() {
    let inside = Inside::new("");
    let mut socket = inside.open("/socket").await;
    let (mut waiting, mut probe) = (inside.connect(), inside.connect());
    inside.drain.begin(wsecho::ops::drain::Times::default());
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("no Close") };
    assert_eq!(close.code, CloseCode::Away);
    waiting.write_all(handshake("/socket").as_bytes()).await.unwrap();
    assert!(read_head(&mut waiting).await.starts_with("HTTP/1.1 101 "));
    let mut close = [0; 4];
    waiting.read_exact(&mut close).await.unwrap();
    assert_eq!((close[0], &close[2..]), (FIN | CLOSE, &1001_u16.to_be_bytes()[..]));
    probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut probe).await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test(start_paused = true)]
async fn draining_drops_a_mute_client_after_the_close_timeout() {
    let inside = Inside::new("timeouts.close = \"1s\"");
    let mut client = inside.connect();
    client.write_all(handshake("/socket").as_bytes()).await.unwrap();
    read_head(&mut client).await;
    let begun = Instant::now();
    inside.drain.begin(wsecho::ops::drain::Times::default());
    assert_eq!(inside.drain.wait().await, 0);
    assert_eq!(begun.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_over_the_limit_gets_503_but_may_ask_for_health() {
    let inside = Inside::new("");
    for (request, status) in [
        (handshake("/socket"), "503"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "503"),
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), "200"),
    ] {
        let (mut client, _ended) = inside.connect_with(1 << 20, true);
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut client).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}{answer}");
        assert_eq!(answer.contains("\r\nRetry-After: "), status == "503", "{answer}");
    }
    let (_silent, ended) = inside.connect_with(1 << 20, true);
    let begun = Instant::now();
    ended.await;
    assert_eq!(begun.elapsed().as_secs(), 2, "it may not hold its permit for long");
}
