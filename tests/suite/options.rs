//! Sessions that do more than echo, because the query of their URL says so.

use std::io::{Read, Write};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use wsecho::ops::drain::Times;

use crate::engine::support::{BINARY, CLOSE, FIN, TEXT, frame, noise, prose};
use crate::inside::{Inside, handshake, read_head};
use crate::service::{Service, echo, upgrade};

type Socket = WebSocketStream<DuplexStream>;

async fn next(socket: &mut Socket) -> Message {
    socket.next().await.expect("it is open").expect("it is correct")
}

fn close(code: u16, reason: &str) -> Message {
    Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
}

/// Reads until the server has closed the connection, and waits for the end of its session.
async fn finish(inside: &Inside, mut socket: Socket) {
    while socket.next().await.is_some() {}
    drop(socket);
    inside.drain.begin(Times::default());
    assert_eq!(inside.drain.wait().await, 0);
}

fn ended(inside: &Inside, how: &str) -> u64 {
    inside.metric(&format!("wsecho_sessions_ended_total{{how=\"{how}\"}}"))
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_when_its_url_says_so() {
    let inside = Inside::new("timeouts.ping_interval = \"10s\"");
    for (query, after) in [("ping=1s", 1), ("ping=10s", 10), ("ping=5m", 300), ("ping=1h", 3600)] {
        let mut socket = inside.open(&format!("/echo?{query}")).await;
        let begun = Instant::now();
        assert!(matches!(next(&mut socket).await, Message::Ping(_)), "{query}");
        assert_eq!(begun.elapsed().as_secs(), after, "{query}");
    }
    let mut socket = inside.open("/echo?ping=off").await;
    assert!(timeout(Duration::from_secs(3599), socket.next()).await.is_err(), "it is silent");
    assert_eq!(
        next(&mut socket).await,
        close(1000, "wsecho: sessions with ping=off end after an hour")
    );
}

#[tokio::test(start_paused = true)]
async fn only_a_hundred_sessions_are_pinged_later_than_usual() {
    let inside = Inside::new("");
    let mut patient = Vec::new();
    for _ in 0..100 {
        patient.push(inside.open("/echo?ping=5m").await);
    }
    let begun = Instant::now();
    let mut late = inside.open("/echo?ping=5m").await;
    let mut silent = inside.open("/echo?ping=off").await;
    let mut often = inside.open("/echo?ping=2s").await;
    next(&mut often).await;
    assert_eq!(begun.elapsed().as_secs(), 2, "this one takes no place");
    for socket in [&mut late, &mut silent] {
        next(socket).await;
        assert!(begun.elapsed() < Duration::from_secs(28), "as usual");
    }
    drop(patient.pop());
    sleep(Duration::from_secs(1)).await;
    let mut socket = inside.open("/echo?ping=5m").await;
    assert!(timeout(Duration::from_secs(299), socket.next()).await.is_err(), "a place was free");
}

#[tokio::test(start_paused = true)]
async fn a_greeting_comes_before_all_else_and_is_no_echo() {
    let long = "g".repeat(1024);
    for (value, greeting) in
        [("", ""), ("gr%C3%BC%C3%9F+dich%2C+%26", "grüß dich, &"), (&long, &long)]
    {
        let inside = Inside::new("");
        let mut client = inside.connect();
        let mut bytes = handshake(&format!("/socket?greeting={value}")).into_bytes();
        // A text that comes with the handshake, masked with zeros.
        bytes.extend(b"\x81\x82\0\0\0\0hi");
        client.write_all(&bytes).await.unwrap();
        read_head(&mut client).await;
        let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        assert_eq!(next(&mut socket).await, Message::text(greeting));
        assert_eq!(next(&mut socket).await, Message::text("server: hi"));
        socket.close(None).await.unwrap();
        finish(&inside, socket).await;
        assert_eq!(inside.metric("wsecho_messages_total"), 1, "the greeting is none");
        assert_eq!(inside.metric("wsecho_bytes_total{direction=\"out\"}"), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_closes_at_once_with_the_code_and_the_reason_of_the_url() {
    for (query, code, reason) in [
        ("close=1000", 1000, ""),
        ("close=1001,gone", 1001, "gone"),
        ("close=1013,try+again+later", 1013, "try again later"),
        ("close=4999,%C3%B6,%2C", 4999, "ö,,"),
    ] {
        let inside = Inside::new("");
        let mut socket = inside.open(&format!("/echo?{query}")).await;
        assert_eq!(next(&mut socket).await, close(code, reason), "{query}");
        finish(&inside, socket).await;
        assert_eq!(ended(&inside, "requested"), 1, "{query}: {}", inside.metrics());
    }
    let inside = Inside::new("");
    let mut socket = inside.open("/echo?close=3000&greeting=bye").await;
    assert_eq!(next(&mut socket).await, Message::text("bye"));
    assert_eq!(next(&mut socket).await, close(3000, ""));
}

#[tokio::test(start_paused = true)]
async fn the_server_closes_behind_the_last_message_of_the_url_even_if_more_came_with_it() {
    for (query, echoed) in [("after=1", 1), ("after=3", 3), ("after=7", 7)] {
        let inside = Inside::new("");
        let mut socket = inside.open(&format!("/echo?close=4000&{query}")).await;
        for index in 0..5 {
            socket.feed(Message::text(index.to_string())).await.unwrap();
        }
        let part = |opcode, fin| Message::Frame(Frame::message("p", OpCode::Data(opcode), fin));
        for (opcode, fin) in
            [(Data::Binary, false), (Data::Continue, false), (Data::Continue, true)]
        {
            socket.feed(part(opcode, fin)).await.unwrap();
        }
        socket.feed(Message::binary(vec![1; 100_000])).await.unwrap();
        socket.feed(Message::text("too much")).await.unwrap();
        socket.flush().await.unwrap();
        for index in 0..echoed {
            let expected = match index {
                5 => Message::binary("ppp"),
                6 => Message::binary(vec![1; 100_000]),
                _ => Message::text(index.to_string()),
            };
            assert_eq!(next(&mut socket).await, expected, "{query}");
        }
        assert_eq!(next(&mut socket).await, close(4000, ""), "{query}");
        finish(&inside, socket).await;
        assert_eq!(inside.metric("wsecho_messages_total"), echoed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_closes_at_the_time_of_the_url_also_within_a_message() {
    let inside = Inside::new("");
    for (query, millis) in [("after=500ms", 500), ("after=1m+30s", 90_000), ("after=1h", 3_600_000)]
    {
        let mut socket = inside.open(&format!("/echo?close=4000&ping=off&{query}")).await;
        let begun = Instant::now();
        let part = Frame::message("p", OpCode::Data(Data::Text), false);
        socket.send(Message::Frame(part)).await.unwrap();
        assert_eq!(next(&mut socket).await, close(4000, ""), "{query}");
        assert_eq!(begun.elapsed().as_millis(), millis, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_ends_a_session_sooner_still_does() {
    // The client's Close.
    let inside = Inside::new("");
    let mut socket = inside.open("/echo?close=4000&after=1m").await;
    socket.close(None).await.unwrap();
    finish(&inside, socket).await;
    assert_eq!(ended(&inside, "peer"), 1);

    // A drain.
    let inside = Inside::new("shutdown.drain_spread = \"0s\"");
    let mut socket = inside.open("/echo?close=4000&after=1m").await;
    inside.drain.begin(Times { spread: Duration::ZERO, ..Times::default() });
    assert_eq!(next(&mut socket).await, close(1001, "wsecho: the service is stopping"));
    finish(&inside, socket).await;
    assert_eq!(ended(&inside, "draining"), 1);

    // A client that does not read.
    let inside = Inside::new("");
    let (mut client, _) = inside.connect_with(4096, false);
    client.write_all(handshake("/echo?close=4000&after=1m").as_bytes()).await.unwrap();
    read_head(&mut client).await;
    let mut message = b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0".to_vec();
    message.resize(message.len() + 65_536, 0);
    client.write_all(&message).await.unwrap();
    inside
        .drain
        .begin(Times { timeout: Duration::from_secs(3600), spread: Duration::from_secs(1800) });
    assert_eq!(inside.drain.wait().await, 0);
    assert_eq!(ended(&inside, "write_timeout"), 1, "{}", inside.metrics());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_the_close_of_its_url_is_left() {
    let inside = Inside::new("");
    let mut client = inside.connect();
    client.write_all(handshake("/echo?close=4000").as_bytes()).await.unwrap();
    read_head(&mut client).await;
    let begun = Instant::now();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x88\x02\x0f\xa0");
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_value_is_refused_counted_and_takes_nothing_from_the_quota() {
    let inside = Inside::new("limits.max_connections_per_client = 1");
    let request =
        |target: &str| handshake(target).replace("Host:", "X-Forwarded-For: 192.0.2.1\r\nHost:");
    for (query, sentence) in [
        ("ping=never", "ping must be off, or a time from 1s to 1h\n"),
        ("close=1006", "close must be a code that may be sent"),
        ("after=3", "after must be a time up to 1h"),
        ("greeting=%ff", "greeting must be a text of at most 1024 bytes\n"),
        ("frames=all", "frames must be whole\n"),
        ("ping=off&ping=off", "no option may be there twice\n"),
    ] {
        let answer = inside.exchange(&request(&format!("/echo?{query}"))).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(sentence), "{answer}");
    }
    assert_eq!(inside.metric("wsecho_handshakes_refused_total{reason=\"bad_option\"}"), 6);
    let mut client = inside.connect();
    client.write_all(request("/echo?ping=off&other=%zz").as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
    let answer = inside.exchange(&request("/echo?ping=off")).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_refuse_options_and_nothing_else() {
    let config = "[[endpoint]]\npath = \"/plain\"\noptions = false\n[[endpoint]]\npath = \"/echo\"";
    let inside = Inside::new(config);
    let answer = inside.exchange(&handshake("/plain?ping=off")).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("endpoint.options"), "{answer}");
    assert_eq!(inside.metric("wsecho_handshakes_refused_total{reason=\"options_off\"}"), 1);
    let _open = inside.open("/plain?token=1&trace=0123456789abcdef").await;
    let _open = inside.open("/echo?ping=off").await;
}

/// Reads one frame from the server: its first byte and its payload.
fn read_frame(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let [first, len] = head;
    let mut long = [0; 8];
    let extra = match len {
        126 => &mut long[6..],
        127 => &mut long[..],
        short => {
            long[7] = short;
            &mut long[8..]
        }
    };
    stream.read_exact(extra).unwrap();
    let mut payload = vec![0; usize::try_from(u64::from_be_bytes(long)).unwrap()];
    stream.read_exact(&mut payload).unwrap();
    (first, payload)
}

#[test]
fn whole_frames_come_back_as_one_from_any_number_of_workers() {
    const LIMIT: usize = 1 << 20;
    for workers in [1, 2, 16] {
        let service = Service::start(&format!("workers = {workers}"));
        std::thread::scope(|scope| {
            for client in 0..16 {
                let stream = service.connect();
                scope.spawn(move || {
                    let mut socket = upgrade(stream, "/socket?frames=whole");
                    let stream = socket.get_mut();
                    for len in [0, 125, 65_536, 300_000 + client, LIMIT - 8] {
                        let text = prose(len);
                        for piece in frame(FIN | TEXT, text.as_bytes()).chunks(20_000) {
                            stream.write_all(piece).unwrap();
                        }
                        let reply = format!("server: {text}").into_bytes();
                        assert!(read_frame(stream) == (FIN | TEXT, reply), "{len} of {workers}");
                    }
                });
            }
        });
        service.stop();
    }
}

#[tokio::test(start_paused = true)]
async fn whole_frames_go_with_the_other_options() {
    let inside = Inside::new("");
    let mut client = inside.connect_with(1 << 21, false).0;
    let target = "/echo?frames=whole&greeting=hi&close=4000,bye&after=2";
    client.write_all(handshake(target).as_bytes()).await.unwrap();
    read_head(&mut client).await;
    for _ in 0..3 {
        client.write_all(&frame(FIN | BINARY, &noise(200_000))).await.unwrap();
    }
    let mut sent = Vec::new();
    let close = timeout(Duration::from_secs(1), client.read_to_end(&mut sent));
    assert!(close.await.is_err(), "our Close is not answered");
    let stream = &mut &sent[..];
    assert_eq!(read_frame(stream), (FIN | TEXT, b"hi".to_vec()));
    for _ in 0..2 {
        assert!(read_frame(stream) == (FIN | BINARY, noise(200_000)));
    }
    assert_eq!(read_frame(stream), (FIN | CLOSE, b"\x0f\xa0bye".to_vec()));
    assert!(stream.is_empty());
}

#[test]
fn the_line_of_a_session_shows_its_options_without_their_texts() {
    let mut service = Service::start("log.format = \"json\"");
    let target = "/echo?greeting=hello%0Aforged&close=4000,bye%0Aforged&after=1&frames=whole";
    let mut socket = upgrade(service.connect(), target);
    assert_eq!(socket.read().unwrap().into_text().unwrap(), "hello\nforged");
    echo(&mut socket, "abc");
    while socket.read().is_ok() {}
    let line = service.log_line("session ended");
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["options"], "greeting=12B close=4000 after=1 frames=whole", "{line}");
    assert_eq!(record["ended"], "requested", "{line}");
    assert_eq!(record["message"], "session ended: closed with 4000, as the client's URL asked");
    assert!(!line.contains("bye"), "{line}");
}
