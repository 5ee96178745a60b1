//! A session on a duplex pair and a paused clock: its timers, backpressure and memory.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use wsecho::ops::drain::{self, Drain};
use wsecho::ops::metrics::Label;
use wsecho::ws::engine::Echo;
use wsecho::ws::session::{self, Budget, Ended, Ping, Report, Script, Shared, Timeouts};

use crate::engine::support::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, Seen, TEXT, frame, noise};
use crate::inside::Inside;

mod compression;
mod whole_frames;

static SILENT: Script =
    Script { ping: Ping::Off, greeting: None, close: None, whole_frames: false };
static WHOLE: Script =
    Script { ping: Ping::Usual, greeting: None, close: None, whole_frames: true };

/// State shared by all sessions of a test.
struct Server {
    echo: Arc<Echo>,
    timeouts: Timeouts,
    shared: Shared,
}

impl Server {
    fn new(max_message_size: u64) -> Self {
        let echo = Arc::new(Echo::new("", max_message_size));
        Self { echo, timeouts: Timeouts::default(), shared: Shared::new(Budget::new(16 << 20)) }
    }

    /// A client with this much room in each direction, and its session.
    fn connect(&self, room: usize, pings: bool) -> (DuplexStream, impl Future<Output = Report>) {
        self.connect_as(room, (!pings).then_some(&SILENT))
    }

    /// The same, with what its URL asked for.
    fn connect_as(
        &self,
        room: usize,
        script: Option<&'static Script>,
    ) -> (DuplexStream, impl Future<Output = Report>) {
        let (client, stream) = duplex(room);
        let (echo, shared) = (Arc::clone(&self.echo), &self.shared);
        (client, session::run(stream, Vec::new(), echo, &self.timeouts, shared, script, false))
    }
}

/// Reads one frame of the server: its first byte and its payload.
async fn next_frame(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    let first = client.read_u8().await.expect("a frame");
    let len = match client.read_u8().await.expect("a length") {
        126 => usize::from(client.read_u16().await.expect("a length")),
        127 => usize::try_from(client.read_u64().await.expect("a length")).expect("64 bits"),
        len => usize::from(len),
    };
    let mut payload = vec![0; len];
    client.read_exact(&mut payload).await.expect("a payload");
    (first, payload)
}

async fn send(client: &mut DuplexStream, bytes: &[u8]) {
    client.write_all(bytes).await.expect("the session reads");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_and_one_that_answers_stays() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(1024, true);
    let script = async {
        for _ in 0..3 {
            let heard = Instant::now();
            assert_eq!(next_frame(&mut client).await, (FIN | PING, vec![]));
            let silence = heard.elapsed().as_secs_f64();
            assert!((22.4..27.6).contains(&silence), "25 s ± 10%, not {silence}");
            send(&mut client, &frame(FIN | PONG, b"")).await;
        }
        send(&mut client, &frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended.to_string(), "closed by the client with 1000");
}

#[tokio::test(start_paused = true)]
async fn any_byte_is_a_sign_of_life_even_inside_a_frame() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(1024, true);
    let script = async {
        for byte in frame(FIN | BINARY, &noise(20)) {
            sleep(Duration::from_secs(20)).await;
            send(&mut client, &[byte]).await;
        }
        assert_eq!(
            next_frame(&mut client).await,
            (FIN | BINARY, noise(20)),
            "and no ping before it"
        );
    };
    tokio::select! {
        report = session => panic!("{report:?}"),
        () = script => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_pinged_client_that_sends_no_byte_is_gone() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(1024, true);
    let begun = Instant::now();
    let report = session.await;
    assert_eq!(report.ended.label(), "pong_timeout");
    assert!((42..=48).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(next_frame(&mut client).await.0, FIN | PING);
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_another_chance_when_its_deadline_passed_while_we_slept() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(1024, true);
    let script = async {
        next_frame(&mut client).await;
        // As after SIGSTOP: time has passed, but nobody could have answered.
        advance(Duration::from_secs(3600)).await;
        assert_eq!(next_frame(&mut client).await, (FIN | PING, vec![]), "another chance");
        send(&mut client, &frame(FIN | TEXT, b"here")).await;
        assert_eq!(next_frame(&mut client).await, (FIN | TEXT, b"here".to_vec()));
    };
    tokio::select! {
        report = session => panic!("{report:?}"),
        () = script => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_without_pings_is_silent_and_ends_after_an_hour() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(1024, false);
    let begun = Instant::now();
    let script = async {
        let (first, payload) = next_frame(&mut client).await;
        assert_eq!((first, &payload[..2]), (FIN | CLOSE, &1000_u16.to_be_bytes()[..]));
        assert_eq!(begun.elapsed().as_secs(), 3600);
        send(&mut client, &frame(FIN | CLOSE, &payload)).await;
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended, Ended::TooOld);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_dropped_and_one_that_trickles_is_not() {
    let server = Server::new(1 << 20);
    let message = frame(FIN | BINARY, &noise(1 << 20));
    let (mut client, session) = server.connect(4096, true);
    let begun = Instant::now();
    let (report, ()) = tokio::join!(session, send(&mut client, &message));
    assert_eq!(report.ended, Ended::WriteTimeout(Duration::from_millis(4096)));
    assert_eq!(begun.elapsed().as_secs(), 34, "timeouts.write, and 4 s for 4 KiB");
    assert_eq!(server.shared.budget.used(), 0);

    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &message).await;
        let mut taken = 0;
        while taken < 1 << 20 {
            sleep(Duration::from_secs(33)).await;
            taken += client.read(&mut [0; 4096]).await.expect("it is not dropped");
        }
        send(&mut client, &frame(FIN | CLOSE, b"")).await;
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended.label(), "peer", "hours later");
}

#[tokio::test(start_paused = true)]
async fn a_client_may_write_the_largest_message_before_it_reads() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(FIN | BINARY, &noise(1 << 20))).await;
        send(&mut client, &frame(FIN | CLOSE, b"")).await;
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).await.expect("a clean end");
        Seen::by(Role::Client, &echoed, None)
    };
    let (report, seen) = tokio::join!(session, script);
    assert_eq!(seen.events, [Message::binary(noise(1 << 20))]);
    assert_eq!(report.counts.messages, 1);
}

#[tokio::test(start_paused = true)]
async fn reading_stops_once_more_than_the_largest_message_is_unsent() {
    let server = Server::new(64 * 1024);
    let (mut client, session) = server.connect(4096, true);
    let message = frame(FIN | BINARY, &noise(32 * 1024));
    let script = async {
        let mut sent = 0;
        while timeout(Duration::from_secs(1), client.write_all(&message)).await.is_ok() {
            sent += message.len();
        }
        sent
    };
    let sent = tokio::select! {
        report = session => panic!("{report:?}"),
        sent = script => sent,
    };
    assert!((64 * 1024..256 * 1024).contains(&sent), "{sent} bytes were taken");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_half_closes_gets_all_it_is_owed() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(FIN | BINARY, &noise(1 << 20))).await;
        client.shutdown().await.expect("a duplex pair can");
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).await.expect("a clean end");
        Seen::by(Role::Client, &echoed, None)
    };
    let (report, seen) = tokio::join!(session, script);
    assert_eq!(report.ended, Ended::Eof);
    assert_eq!(seen.events, [Message::binary(noise(1 << 20))]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_message_in_progress() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(TEXT, b"one ")).await;
        assert_eq!(next_frame(&mut client).await, (TEXT, b"one ".to_vec()));
        server.shared.drain.begin(drain::Times::default());
        for _ in 0..5 {
            sleep(Duration::from_secs(4)).await;
            send(&mut client, &frame(CONTINUE, b".")).await;
            assert_eq!(next_frame(&mut client).await, (CONTINUE, b".".to_vec()));
        }
        send(&mut client, &frame(FIN | CONTINUE, b"message")).await;
        send(&mut client, &frame(FIN | TEXT, b"too late")).await;
        assert_eq!(next_frame(&mut client).await, (FIN | CONTINUE, b"message".to_vec()));
        let (first, payload) = next_frame(&mut client).await;
        assert_eq!((first, &payload[..2]), (FIN | CLOSE, &1001_u16.to_be_bytes()[..]));
        send(&mut client, &frame(FIN | CLOSE, &payload)).await;
        assert_eq!(client.read(&mut [0]).await.expect("a clean end"), 0, "nothing after the Close");
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended, Ended::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_drain_cuts_off_a_message_that_does_not_end() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(TEXT, b"endless")).await;
        next_frame(&mut client).await;
        let begun = Instant::now();
        server.shared.drain.begin(drain::Times::default());
        while begun.elapsed() < Duration::from_secs(24) {
            send(&mut client, &frame(CONTINUE, b".")).await;
            assert_eq!(next_frame(&mut client).await.0, CONTINUE);
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(next_frame(&mut client).await.0, FIN | CLOSE);
        assert_eq!(begun.elapsed().as_secs(), 25, "timeouts.close before drain_timeout");
        send(&mut client, &frame(FIN | CLOSE, b"")).await;
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended, Ended::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_drain_cuts_off_a_message_of_which_nothing_comes_whatever_else_does() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(TEXT, b"half ")).await;
        next_frame(&mut client).await;
        sleep(Duration::from_secs(20)).await;
        let begun = Instant::now();
        server.shared.drain.begin(drain::Times::default());
        loop {
            send(&mut client, &frame(FIN | PING, b"")).await;
            let (first, payload) = next_frame(&mut client).await;
            if first == FIN | CLOSE {
                assert_eq!(payload[..2], 1001_u16.to_be_bytes());
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 5, "timeouts.close");
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended, Ended::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_we_do_not_read_is_not_cut_off_by_a_drain() {
    let server = Server::new(64 * 1024);
    let (client, session) = server.connect(4096, true);
    let (mut reader, mut writer) = tokio::io::split(client);
    let message = frame(FIN | BINARY, &noise(60 * 1024));
    let script = async {
        let write = async {
            for _ in 0..4 {
                writer.write_all(&message).await.expect("it reads in the end");
            }
        };
        let read = async {
            // By now it has stopped reading in the middle of a message.
            sleep(Duration::from_secs(1)).await;
            server.shared.drain.begin(drain::Times::default());
            sleep(Duration::from_secs(8)).await;
            let mut echoed = Vec::new();
            reader.read_to_end(&mut echoed).await.expect("a clean end");
            echoed
        };
        tokio::join!(write, read).1
    };
    let (_, echoed) = tokio::join!(session, script);
    let seen = Seen::by(Role::Client, &echoed, None);
    assert_eq!(seen.events.len(), 4, "three were unread, and one had begun");
    assert!(seen.events.iter().all(|it| *it == Message::binary(noise(60 * 1024))));
    assert_eq!(seen.close, Some(Some(1001)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_mute_and_half_sent_sessions_ends_two_seconds_after_its_spread_or_close() {
    let server = Server::new(1 << 20);
    for spread in [1, 5, 9] {
        let drain = Drain::default();
        let mut server = Server::new(1 << 20);
        server.shared.drain = drain.clone();
        let server = Arc::new(server);
        let mut clients = Vec::new();
        for n in 0..200 {
            let (mut client, stream) = duplex(4096);
            if n % 2 == 0 {
                send(&mut client, &frame(TEXT, b"half ")).await;
            }
            clients.push(client);
            let server = Arc::clone(&server);
            drain.spawn(async move {
                let (echo, shared) = (Arc::clone(&server.echo), &server.shared);
                session::run(stream, Vec::new(), echo, &server.timeouts, shared, None, false).await;
            });
        }
        sleep(Duration::from_secs(20)).await;
        let begun = Instant::now();
        let (timeout, spread) = (Duration::from_secs(30), Duration::from_secs(spread));
        drain.begin(drain::Times { timeout, spread });
        assert_eq!(drain.wait().await, 0);
        let most = spread.max(server.timeouts.close) + Duration::from_millis(2010);
        assert!(begun.elapsed() <= most, "{:?} for a spread of {spread:?}", begun.elapsed());
    }
    drop(server);
}

/// A reader of so many bytes a second behind buffers of this size, as TCP is: the session sees
/// progress only when a whole buffer has been read.
async fn read_slowly(server: &Server, rate: u32, buffer: usize, message: usize) -> Report {
    let (near, stream) = duplex(buffer);
    let (mut far, relay) = duplex(buffer);
    let echo = Arc::clone(&server.echo);
    let session =
        session::run(stream, Vec::new(), echo, &server.timeouts, &server.shared, None, false);
    let (mut from_session, mut to_session) = tokio::io::split(near);
    let (mut from_client, mut to_client) = tokio::io::split(relay);
    let kernel = async {
        let mut bytes = vec![0; buffer];
        while from_session.read_exact(&mut bytes[..1]).await.is_ok() {
            let read = from_session.read(&mut bytes[1..]).await.expect("it is open");
            to_client.write_all(&bytes[..=read]).await.expect("it is open");
        }
    };
    let upload = async { tokio::io::copy(&mut from_client, &mut to_session).await };
    let client = async {
        send(&mut far, &frame(FIN | BINARY, &noise(message))).await;
        let mut echoed = Vec::new();
        let mut pings = 0;
        // The whole message, and then pings until nothing is unproven.
        while echoed.len() < message || pings < 2 {
            let (first, payload) = slow_frame(&mut far, rate).await;
            match first & 15 {
                PING => {
                    pings += 1;
                    send(&mut far, &frame(FIN | PONG, b"")).await;
                }
                _ => echoed.extend(payload),
            }
        }
        assert!(echoed == noise(message));
        send(&mut far, &frame(FIN | CLOSE, b"")).await;
        far
    };
    let talk = async { tokio::join!(kernel, upload, client) };
    tokio::select! {
        report = session => report,
        _ = talk => panic!("the session outlives its client"),
    }
}

/// Reads one frame in pieces of an eighth of a second.
async fn slow_frame(client: &mut DuplexStream, rate: u32) -> (u8, Vec<u8>) {
    let first = client.read_u8().await.expect("not dropped");
    let len = match client.read_u8().await.expect("not dropped") {
        126 => usize::from(client.read_u16().await.expect("not dropped")),
        127 => usize::try_from(client.read_u64().await.expect("not dropped")).expect("64 bits"),
        len => usize::from(len),
    };
    let mut payload = vec![0; len];
    for piece in payload.chunks_mut((rate as usize / 8).max(1)) {
        client.read_exact(piece).await.expect("not dropped");
        sleep(Duration::from_secs(piece.len() as u64) / rate).await;
    }
    (first, payload)
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_steady_reader_lives_at_the_default_timeouts() {
    for (rate, buffer, message) in [
        (1000, 64 * 1024, 400_000),
        (1000, 4 * 1024, 400_000),
        (5000, 64 * 1024, 400_000),
        (50_000, 64 * 1024, 1 << 20),
    ] {
        let server = Server::new(1 << 20);
        let report = read_slowly(&server, rate, buffer, message).await;
        assert_eq!(report.ended.label(), "peer", "{rate} B/s behind {buffer}: {}", report.ended);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_sent_much_has_longer_to_answer_a_ping_until_it_has_answered_one() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(1 << 20, true);
    let script = async {
        // As in the kernel's buffers: taken by the socket, and not read yet.
        send(&mut client, &frame(FIN | BINARY, &noise(100_000))).await;
        // A ping that is sent after 22.5 s, the earliest, may be answered for 120 s.
        sleep(Duration::from_secs(22 + 20 + 95)).await;
        send(&mut client, &frame(FIN | PONG, b"")).await;
        for pings in 0..2 {
            while next_frame(&mut client).await.0 != FIN | PING {
                assert_eq!(pings, 0, "the echo lies before the first ping");
            }
        }
        let pinged = Instant::now();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("a clean end");
        pinged.elapsed()
    };
    let (report, waited) = tokio::join!(session, script);
    assert_eq!(report.ended.to_string(), "nothing arrived within timeouts.pong after a ping");
    assert_eq!(waited.as_secs(), 20, "the first pong proved that all was read");
}

#[tokio::test(start_paused = true)]
async fn of_many_sessions_without_pings_a_hundred_are_not_pinged() {
    let server = Server::new(1 << 20);
    let all: Vec<_> = (0..101).map(|_| server.connect(1024, false)).collect();
    let (mut clients, sessions): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let sessions = futures_util::future::join_all(sessions);
    let script = async {
        assert_eq!(next_frame(clients.last_mut().expect("101")).await.0, FIN | PING);
        for client in &mut clients[..100] {
            assert!(timeout(Duration::from_secs(1), client.read_u8()).await.is_err());
        }
        drop(clients);
    };
    tokio::join!(sessions, script);
    let (mut client, session) = server.connect(1024, false);
    let silent = timeout(Duration::from_secs(60), client.read_u8());
    let silent = tokio::select! { _ = session => false, read = silent => read.is_err() };
    assert!(silent, "the places were given back");
}

#[tokio::test(start_paused = true)]
async fn only_what_the_socket_took_counts_as_echoed() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(FIN | TEXT, b"whole")).await;
        send(&mut client, &frame(FIN | BINARY, &noise(10_000))).await;
    };
    let (report, ()) = tokio::join!(session, script);
    let counts = report.counts;
    assert_eq!((counts.messages, counts.bytes_in), (1, 5 + 10_000));
    // The header of the text takes 2 bytes of the buffer, that of the other 4.
    assert_eq!(counts.bytes_out, 4096 - 2 - 4);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_at_once_without_a_byte_says_what_that_may_mean() {
    let server = Server::new(1 << 20);
    let end = async |wait| {
        let (client, session) = server.connect(1024, true);
        let leave = async {
            sleep(Duration::from_secs(wait)).await;
            drop(client);
        };
        tokio::join!(session, leave).0.ended
    };
    let at_once = end(1).await;
    assert_eq!(at_once.label(), "eof");
    assert_eq!(
        at_once.to_string(),
        "the client never sent a byte, a proxy in front may not carry WebSockets through"
    );
    assert_eq!(end(3).await, Ended::Eof);
}

#[tokio::test(start_paused = true)]
async fn what_came_with_the_handshake_is_echoed_first() {
    let server = Server::new(1 << 20);
    let (mut client, stream) = duplex(4096);
    let first = frame(FIN | TEXT, b"one");
    let echo = Arc::clone(&server.echo);
    let session = session::run(stream, first, echo, &server.timeouts, &server.shared, None, false);
    let script = async {
        send(&mut client, &frame(FIN | TEXT, b"two")).await;
        assert_eq!(next_frame(&mut client).await, (FIN | TEXT, b"one".to_vec()));
        assert_eq!(next_frame(&mut client).await, (FIN | TEXT, b"two".to_vec()));
        drop(client);
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.counts.messages, 2);
}

#[tokio::test(start_paused = true)]
async fn a_prefix_does_not_multiply_memory_beyond_the_budget() {
    const CLIENTS: usize = 200;
    const BUDGET: usize = 1 << 20;
    let mut server = Server::new(1 << 20);
    server.shared.budget = Budget::new(BUDGET);
    server.echo = Arc::new(Echo::new(&"p".repeat(1024), 1 << 20));
    let empty = frame(FIN | TEXT, b"").repeat(100_000);
    for with_handshake in [false, true] {
        let (clients, sessions): (Vec<_>, Vec<_>) = (0..CLIENTS)
            .map(|_| {
                let (client, stream) = duplex(4096);
                let first = if with_handshake { empty[..16 * 1024].to_vec() } else { Vec::new() };
                let echo = Arc::clone(&server.echo);
                let (timeouts, shared) = (&server.timeouts, &server.shared);
                (client, session::run(stream, first, echo, timeouts, shared, None, false))
            })
            .unzip();
        let most = std::cell::Cell::new(0);
        let flood = futures_util::future::join_all(clients.into_iter().map(async |mut client| {
            let _ = timeout(Duration::from_secs(20), client.write_all(&empty)).await;
            most.set(most.get().max(server.shared.budget.used()));
            client
        }));
        let sessions = futures_util::future::join_all(sessions);
        tokio::join!(sessions, async { drop(flood.await) });
        // What one read may add, and what came with the handshakes.
        let slack = 516 * 1024 + 128 * 1024 + usize::from(with_handshake) * CLIENTS * 12 * 1024;
        assert!(most.get() <= BUDGET + slack + CLIENTS * 4096, "{} bytes", most.get());
        assert_eq!(server.shared.budget.used(), 0);
    }
}

#[tokio::test]
async fn an_idle_session_is_small() {
    let server = Server::new(1 << 20);
    let (_client, session) = server.connect(1024, true);
    let size = size_of_val(&session);
    assert!(size <= 488, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn of_the_sessions_of_one_client_twenty_a_second_are_logged_and_the_rest_are_counted() {
    let inside = Inside::new("");
    for _ in 0..30 {
        drop(inside.open("/echo").await);
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(inside.metric(r#"wsecho_sessions_ended_total{how="eof"}"#), 30);
    assert_eq!(inside.metric(r#"wsecho_log_suppressed_total{kind="session"}"#), 10);
}

#[tokio::test(start_paused = true)]
async fn after_our_close_a_client_may_go_on_sending_but_not_for_ever() {
    let server = Server::new(1 << 20);
    let (client, session) = server.connect(4096, true);
    let (mut reader, mut writer) = tokio::io::split(client);
    let begun = Instant::now();
    let talk = async {
        writer.write_all(&[0xff; 14]).await.expect("it reads");
        while writer.write_all(&[0; 100]).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let mut sent = Vec::new();
    let (report, (), read) = tokio::join!(session, talk, reader.read_to_end(&mut sent));
    read.expect("a clean end");
    assert_eq!(report.ended.label(), "reserved_bit");
    assert_eq!(&sent[2..4], 1002_u16.to_be_bytes());
    assert_eq!(begun.elapsed().as_secs(), 5, "timeouts.close");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_its_time_to_answer_our_close() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(FIN | BINARY, &noise(100_000))).await;
        server.shared.drain.begin(drain::Times::default());
        sleep(Duration::from_secs(10)).await;
        let (mut first, mut payload) = next_frame(&mut client).await;
        while first != FIN | CLOSE {
            (first, payload) = next_frame(&mut client).await;
        }
        sleep(Duration::from_secs(1)).await;
        send(&mut client, &frame(FIN | CLOSE, &payload)).await;
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended, Ended::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_pending_pong_is_sent_even_to_a_client_that_has_half_closed() {
    let server = Server::new(1 << 20);
    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &frame(FIN | BINARY, &noise(100_000))).await;
        send(&mut client, &frame(FIN | PING, b"still there?")).await;
        client.shutdown().await.expect("a duplex pair can");
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).await.expect("a clean end");
        Seen::by(Role::Client, &echoed, None).events
    };
    let (_, events) = tokio::join!(session, script);
    assert!(matches!(events.last(), Some(Message::Pong(answer)) if answer == "still there?"));
}

#[tokio::test(start_paused = true)]
async fn once_the_budget_is_spent_reading_waits_for_writing() {
    let mut server = Server::new(1 << 20);
    server.shared.budget = Budget::new(256 * 1024);
    let message = frame(FIN | BINARY, &noise(1 << 20));
    let stalled: Vec<_> = (0..8).map(|_| server.connect(4096, true)).collect();
    let (clients, sessions): (Vec<_>, Vec<_>) = stalled.into_iter().unzip();
    let script = async {
        let mut clients = clients;
        for client in &mut clients {
            let _ = timeout(Duration::from_millis(10), client.write_all(&message)).await;
        }
        assert!(server.shared.budget.is_spent());
        let most = 256 * 1024 + 516 * 1024 + 128 * 1024;
        assert!(server.shared.budget.used() <= most, "{} bytes", server.shared.budget.used());
        clients
    };
    let others = futures_util::future::join_all(sessions);
    let (reports, clients) = tokio::join!(others, script);
    let labels: Vec<_> = reports.iter().map(|report| report.ended.label()).collect();
    // Time to read is given while there is memory.
    assert!(labels.contains(&"memory_spent"), "{labels:?}");
    assert!(labels.iter().all(|it| ["memory_spent", "write_timeout"].contains(it)), "{labels:?}");
    assert_eq!(server.shared.budget.used(), 0);
    drop(clients);
}

/// One step of a client that does as it pleases.
#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Read(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1_usize..40_000).prop_map(Step::Write),
        (1_usize..40_000).prop_map(Step::Read),
        // Added up, they stay below every timeout.
        (1_u64..400).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..60)
}

/// Messages in fragments of these sizes, each followed by a ping: the bytes, and the messages.
fn stream(messages: &[Vec<usize>]) -> (Vec<u8>, Vec<Message>) {
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for fragments in messages {
        let mut payload = Vec::new();
        for (index, size) in fragments.iter().enumerate() {
            let fin = if index + 1 == fragments.len() { FIN } else { 0 };
            let opcode = if index == 0 { BINARY } else { CONTINUE };
            bytes.extend(frame(fin | opcode, &noise(*size)));
            bytes.extend(frame(FIN | PING, b"?"));
            payload.extend(noise(*size));
        }
        expected.push(Message::binary(payload));
    }
    (bytes, expected)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..Default::default() })]

    /// Whatever a client does, the echoes are a prefix of what it sent, memory stays within its
    /// bound, and all of it is given back.
    #[test]
    fn echoes_are_an_exact_prefix_and_all_memory_is_given_back(
        messages in proptest::collection::vec(
            proptest::collection::vec(0_usize..90_000, 1..4), 1..8),
        steps in steps(),
        room in 1_usize..100_000,
        leaves in any::<bool>(),
        whole in any::<bool>(),
    ) {
        const LIMIT: u64 = 300_000;
        const MOST: usize = 300_000 + 1024 * 64 + 2 * 128 * 1024 + 64 * 1024;
        // The last frame completes one that was held.
        let most = if whole { MOST + 90_000 } else { MOST };
        let (bytes, expected) = stream(&messages);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = Server::new(LIMIT);
            let (mut client, session) = server.connect_as(room, whole.then_some(&WHOLE));
            let used = || {
                let used = server.shared.budget.used();
                assert!(used <= most, "{used} bytes held");
            };
            let script = async {
                let mut echoed = Vec::new();
                let mut sent = 0;
                for step in steps {
                    let moment = Duration::from_millis(1);
                    match step {
                        Step::Write(size) => {
                            let piece = &bytes[sent..bytes.len().min(sent + size)];
                            if let Ok(written) = timeout(moment, client.write(piece)).await {
                                sent += written.expect("it reads");
                            }
                        }
                        Step::Read(size) => {
                            let mut piece = vec![0; size];
                            if let Ok(read) = timeout(moment, client.read(&mut piece)).await {
                                echoed.extend(&piece[..read.expect("it writes")]);
                            }
                        }
                        Step::Wait(millis) => sleep(Duration::from_millis(millis)).await,
                    }
                    used();
                }
                if leaves {
                    return (echoed, false);
                }
                let (mut reader, mut writer) = tokio::io::split(client);
                let rest = async {
                    writer.write_all(&bytes[sent..]).await.expect("it reads");
                    writer.write_all(&frame(FIN | CLOSE, b"")).await.expect("it reads");
                };
                let mut all = Vec::new();
                let (read, ()) = tokio::join!(reader.read_to_end(&mut all), rest);
                read.expect("a clean end");
                echoed.extend(all);
                (echoed, true)
            };
            let (_, (echoed, whole)) = tokio::join!(session, script);
            let mut seen = Seen::by(Role::Client, &echoed, None).events;
            seen.retain(Message::is_binary);
            if whole {
                assert_eq!(seen, expected);
            } else {
                assert_eq!(seen, expected[..seen.len()]);
            }
            assert_eq!(server.shared.budget.used(), 0);
        });
    }
}
