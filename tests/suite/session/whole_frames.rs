//! Sessions that answer each frame with one frame: what they hold, and what they do without memory.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use wsecho::ops::drain;
use wsecho::ops::metrics::Label;
use wsecho::ws::session::{Budget, Charge, Ended};

use super::{Server, WHOLE, next_frame, send};
use crate::engine::support::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, frame, noise};

const MIB: usize = 1 << 20;

fn server(budget: usize) -> Server {
    let mut server = Server::new(MIB as u64);
    server.shared.budget = Budget::new(budget);
    server
}

/// The next frame that is no ping; pings are answered.
async fn next(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    loop {
        let (first, payload) = next_frame(client).await;
        if first != FIN | PING {
            return (first, payload);
        }
        send(client, &frame(FIN | PONG, &payload)).await;
    }
}

/// Closes the WebSocket, and waits for the answer.
async fn close(client: &mut DuplexStream) {
    send(client, &frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(next(client).await.0, FIN | CLOSE);
}

/// Lets the sessions do what they can.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn many_frames_that_drip_are_held_charged_and_answered_whole() {
    const CLIENTS: usize = 12;
    let server = server(16 * MIB);
    let (mut clients, sessions): (Vec<_>, Vec<_>) =
        (0..CLIENTS).map(|_| server.connect_as(4096, Some(&WHOLE))).unzip();
    let message = frame(FIN | BINARY, &noise(MIB));
    let script = async {
        let (most, last) = message.split_at(message.len() - 1);
        for piece in most.chunks(100_000) {
            for client in &mut clients {
                send(client, piece).await;
            }
            sleep(Duration::from_secs(1)).await;
        }
        let used = server.shared.budget.used();
        assert!((CLIENTS * (MIB - 5000)..=CLIENTS * MIB).contains(&used), "{used} bytes");
        for client in &mut clients {
            send(client, last).await;
        }
        join_all(clients.iter_mut().map(async |client| {
            assert!(next(client).await == (FIN | BINARY, noise(MIB)));
        }))
        .await;
        settle().await;
        assert_eq!(server.shared.budget.used(), 0, "all is sent");
        join_all(clients.iter_mut().map(close)).await;
        drop(clients);
    };
    let (reports, ()) = tokio::join!(join_all(sessions), script);
    assert!(reports.iter().all(|report| report.ended.label() == "peer"));
}

#[tokio::test(start_paused = true)]
async fn without_memory_a_frame_waits_and_goes_on_when_there_is_some() {
    let server = server(MIB);
    let mut others = Charge::new(&server.shared.budget);
    let (mut client, session) = server.connect_as(2 * MIB, Some(&WHOLE));
    let (first, rest) = (frame(FIN | BINARY, &noise(900_000)), frame(FIN | BINARY, b"next"));
    let script = async {
        for wait in [1, 25] {
            send(&mut client, &first[..100_000]).await;
            settle().await;
            let held = server.shared.budget.used();
            others.set(MIB);
            send(&mut client, &first[100_000..]).await;
            send(&mut client, &rest).await;
            let silent = timeout(Duration::from_secs(wait), client.read_u8()).await;
            assert!(silent.is_err(), "neither a fragment nor a ping");
            let used = server.shared.budget.used() - MIB;
            assert!((held..=held + 4096).contains(&used), "{used} bytes after {held}");
            let begun = Instant::now();
            others.set(0);
            assert!(next(&mut client).await == (FIN | BINARY, noise(900_000)));
            assert_eq!(next(&mut client).await.1, b"next");
            assert!(begun.elapsed() < Duration::from_secs(1), "it looks for memory often");
        }
        // Nothing remains of the wait: a silent client is pinged again, also within a frame.
        send(&mut client, &first[..100_000]).await;
        assert_eq!(
            timeout(Duration::from_secs(28), next_frame(&mut client)).await.unwrap().0,
            FIN | PING
        );
        drop(client);
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.counts.messages, 4);
    assert_eq!(server.shared.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_held_memory_longest_is_closed_with_1013_and_the_others_go_on() {
    let server = server(700_000);
    let message = frame(FIN | BINARY, &noise(600_000));
    let (half, rest) = message.split_at(400_000);
    let (mut longest, first) = server.connect_as(2 * MIB, Some(&WHOLE));
    let (mut later, second) = server.connect_as(2 * MIB, Some(&WHOLE));
    let (mut waiting, third) = server.connect_as(2 * MIB, Some(&WHOLE));
    let script = async {
        let begun = Instant::now();
        send(&mut longest, half).await;
        sleep(Duration::from_secs(5)).await;
        send(&mut later, half).await;
        settle().await;
        assert!(server.shared.budget.is_spent());
        send(&mut longest, rest).await;
        send(&mut later, rest).await;
        send(&mut waiting, &message).await;
        let (opcode, payload) = next_frame(&mut longest).await;
        assert_eq!(begun.elapsed().as_secs(), 30, "timeouts.write");
        assert_eq!((opcode, &payload[..2]), (FIN | CLOSE, &1013_u16.to_be_bytes()[..]));
        assert_eq!(&payload[2..], b"wsecho: out of memory (limits.buffer_budget), try again later");
        send(&mut longest, &frame(FIN | CLOSE, &payload[..2])).await;
        assert_eq!(longest.read(&mut [0]).await.expect("a clean end"), 0);
        for client in [&mut later, &mut waiting] {
            assert!(next(client).await == (FIN | BINARY, noise(600_000)));
            close(client).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(32), "as soon as there was memory");
        drop((longest, later, waiting));
    };
    let (first, second, third, ()) = tokio::join!(first, second, third, script);
    assert_eq!(first.ended, Ended::MemorySpent);
    assert_eq!((second.ended.label(), third.ended.label()), ("peer", "peer"));
    assert_eq!(server.shared.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_larger_than_the_budget_ends_with_1013_even_if_the_client_never_answers() {
    let server = server(300_000);
    let (mut client, session) = server.connect_as(2 * MIB, Some(&WHOLE));
    send(&mut client, &frame(FIN | BINARY, &noise(900_000))).await;
    let report = session.await;
    assert_eq!((report.ended, report.lasted.as_secs()), (Ended::MemorySpent, 32));
    assert_eq!(next(&mut client).await.1[..2], 1013_u16.to_be_bytes());
    assert_eq!(server.shared.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_frame_that_goes_on_and_cuts_one_that_does_not() {
    for goes_on in [true, false] {
        let server = server(16 * MIB);
        let (mut client, session) = server.connect_as(4096, Some(&WHOLE));
        let message = frame(BINARY, &noise(300_000));
        let script = async {
            let mut pieces = message.chunks(60_000);
            send(&mut client, pieces.next().expect("the first")).await;
            server.shared.drain.begin(drain::Times::default());
            let begun = Instant::now();
            if goes_on {
                for piece in pieces {
                    sleep(Duration::from_secs(4)).await;
                    send(&mut client, piece).await;
                }
                assert!(next(&mut client).await == (BINARY, noise(300_000)));
                send(&mut client, &frame(FIN | CONTINUE, b"")).await;
                assert_eq!(next(&mut client).await, (FIN | CONTINUE, vec![]));
            }
            let (opcode, payload) = next(&mut client).await;
            assert_eq!((opcode, &payload[..2]), (FIN | CLOSE, &1001_u16.to_be_bytes()[..]));
            assert_eq!(begun.elapsed().as_secs(), if goes_on { 20 } else { 5 });
            assert_eq!(server.shared.budget.used(), 0);
            send(&mut client, &frame(FIN | CLOSE, &payload)).await;
            drop(client);
        };
        let (report, ()) = tokio::join!(session, script);
        assert_eq!(report.ended, Ended::Draining);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_its_frame_and_one_that_reads_nothing_is_dropped() {
    let server = server(16 * MIB);
    let message = frame(FIN | BINARY, &noise(MIB));
    let (mut client, session) = server.connect_as(4096, Some(&WHOLE));
    let script = async {
        send(&mut client, &message).await;
        let mut echoed = vec![0; 10 + MIB];
        for piece in echoed.chunks_mut(4096) {
            sleep(Duration::from_secs(20)).await;
            client.read_exact(piece).await.expect("it is not dropped");
        }
        assert!(echoed[..2] == [FIN | BINARY, 127] && echoed[10..] == noise(MIB));
        close(&mut client).await;
        drop(client);
    };
    let (report, ()) = tokio::join!(session, script);
    assert_eq!(report.ended.label(), "peer");

    let (mut client, session) = server.connect_as(4096, Some(&WHOLE));
    let (report, ()) = tokio::join!(session, send(&mut client, &message));
    assert_eq!(report.ended.label(), "write_timeout");
    assert_eq!(server.shared.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_in_the_middle_leaves_nothing_behind() {
    let server = server(MIB);
    let message = frame(FIN | BINARY, &noise(900_000));
    for sent in [3, 10, 5000, 500_000, message.len() - 1] {
        for spent in [false, true] {
            let mut others = Charge::new(&server.shared.budget);
            let (mut client, session) = server.connect_as(2 * MIB, Some(&WHOLE));
            let script = async {
                send(&mut client, &message[..sent / 2]).await;
                settle().await;
                others.set(if spent { MIB } else { 0 });
                send(&mut client, &message[sent / 2..sent]).await;
                settle().await;
                client.shutdown().await.expect("a duplex pair can");
                drop(client);
                settle().await;
                others.set(0);
            };
            let (report, ()) = tokio::join!(session, script);
            assert_eq!((report.ended.label(), report.counts.messages), ("eof", 0), "{sent}");
            assert_eq!(server.shared.budget.used(), 0, "{sent}");
        }
    }
}
