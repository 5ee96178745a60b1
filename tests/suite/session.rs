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
use wsecho::ops::metrics::{Label, Metrics};
use wsecho::ws::engine::Echo;
use wsecho::ws::session::{self, Budget, Ended, Report, Shared, Timeouts};

use crate::engine::support::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, Seen, TEXT, frame, noise};

/// State shared by all sessions of a test.
struct Server {
    echo: Arc<Echo>,
    timeouts: Timeouts,
    shared: Shared,
}

impl Server {
    fn new(max_message_size: u64) -> Self {
        let echo = Arc::new(Echo { prefix: "".into(), max_message_size });
        let (drain, metrics) = (Drain::default(), Metrics::new());
        let timeouts = Timeouts::default();
        Self { echo, timeouts, shared: Shared { budget: Budget::new(16 << 20), drain, metrics } }
    }

    /// A client with this much room in each direction, and its session.
    fn connect(&self, room: usize, pings: bool) -> (DuplexStream, impl Future<Output = Report>) {
        let (client, stream) = duplex(room);
        let (echo, shared) = (Arc::clone(&self.echo), &self.shared);
        (client, session::run(stream, b"", echo, &self.timeouts, shared, pings))
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
    assert_eq!(report.ended, Ended::PongTimeout);
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
    assert_eq!(report.ended, Ended::WriteTimeout);
    assert_eq!(begun.elapsed().as_secs(), 30);
    assert_eq!(server.shared.budget.used(), 0);

    let (mut client, session) = server.connect(4096, true);
    let script = async {
        send(&mut client, &message).await;
        let mut taken = 0;
        while taken < 1 << 20 {
            sleep(Duration::from_secs(29)).await;
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
        sleep(Duration::from_secs(10)).await;
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
        let (first, _) = loop {
            let sent = next_frame(&mut client).await;
            send(&mut client, &frame(FIN | PONG, b"")).await;
            if sent.0 != FIN | PING {
                break sent;
            }
        };
        assert_eq!(first, FIN | CLOSE);
        assert_eq!(begun.elapsed().as_secs(), 25, "timeouts.close before drain_timeout");
        send(&mut client, &frame(FIN | CLOSE, b"")).await;
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended, Ended::Draining);
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
    assert!(labels.iter().all(|label| *label == "write_timeout"), "{labels:?}");
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
    ) {
        const LIMIT: u64 = 300_000;
        const MOST: usize = 300_000 + 1024 * 64 + 2 * 128 * 1024 + 64 * 1024;
        let (bytes, expected) = stream(&messages);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = Server::new(LIMIT);
            let (mut client, session) = server.connect(room, true);
            let used = || {
                let used = server.shared.budget.used();
                assert!(used <= MOST, "{used} bytes held");
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
