//! Compressed messages: whose turn it is while they are inflated, and the memory that this takes.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{sleep, timeout};
use wsecho::ops::metrics::{Label, Now};
use wsecho::ws::deflate::inflate::INFLATER;
use wsecho::ws::session::{self, Budget, Report};

use super::{Server, next_frame, send};
use crate::engine::deflate::{compress, random};
use crate::engine::support::{BINARY, CLOSE, FIN, PING, PONG, RSV1, TEXT, frame};

/// A client whose handshake agreed to compression, and its session.
fn connect(server: &Server, room: usize) -> (DuplexStream, impl Future<Output = Report>) {
    let (client, stream) = duplex(room);
    let (echo, timeouts, shared) = (Arc::clone(&server.echo), &server.timeouts, &server.shared);
    (client, session::run(stream, Vec::new(), echo, timeouts, shared, None, true))
}

/// Sends a Close, and reads on until the session has answered it.
async fn close(client: &mut DuplexStream) {
    send(client, &frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
    while next_frame(client).await.0 != FIN | CLOSE {}
}

#[tokio::test(start_paused = true)]
async fn others_have_their_turn_while_a_bomb_is_inflated() {
    const BOMBS: usize = 60;
    let server = Server::new(1 << 20);
    let (mut client, bombed) = connect(&server, 1 << 20);
    let (mut neighbour, beside) = connect(&server, 1024);
    let bomb = compress(&vec![0; 1 << 20]);
    assert!(bomb.len() < 1100);
    let begun = frame(FIN | RSV1 | BINARY, &bomb);
    let (done, most) = (Cell::new(false), Cell::new(0));
    let bombing = async {
        send(&mut client, &begun.repeat(BOMBS)).await;
        for _ in 0..BOMBS {
            assert!(next_frame(&mut client).await == (FIN | RSV1 | BINARY, bomb.clone()));
        }
        done.set(true);
        close(&mut client).await;
    };
    let neighbour = async {
        let mut echoes = 0;
        while !done.get() {
            send(&mut neighbour, &frame(FIN | TEXT, b"next door")).await;
            assert_eq!(next_frame(&mut neighbour).await.1, b"next door");
            most.set(most.get().max(server.shared.budget.used()));
            echoes += 1;
        }
        close(&mut neighbour).await;
        echoes
    };
    let (report, _, (), echoes) = tokio::join!(bombed, beside, bombing, neighbour);
    assert!(echoes > BOMBS, "only {echoes} echoes beside {BOMBS} MiB");
    assert_eq!(report.ended.to_string(), "closed by the client with 1000");
    assert_eq!((report.counts.messages, report.counts.inflated), (60, 60 << 20));
    let metrics = server.shared.metrics.text(Now { budget_limit: 0, budget_used: 0, log_lost: 0 });
    let compressed = format!("\nwsecho_compressed_bytes_total {}\n", bomb.len() * BOMBS);
    assert!(metrics.contains(&compressed), "{metrics}");
    assert!(metrics.contains("\nwsecho_inflated_bytes_total 62914560\n"), "{metrics}");
    // What was read at once, the inflater, and replies that were not sent at once.
    let read = begun.len() * BOMBS;
    assert!(
        (read - 8192..3 * read + INFLATER).contains(&most.get()),
        "{} bytes charged",
        most.get()
    );
    assert_eq!(server.shared.budget.used(), 0);
}

/// Half of a compressed message, and the other half.
fn halves() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let payload = compress(&random(1000));
    let mut message = frame(FIN | RSV1 | BINARY, &payload);
    let rest = message.split_off(500);
    (message, rest, payload)
}

/// The next frame that is no ping; pings are answered.
async fn next_message(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    loop {
        let (first, payload) = next_frame(client).await;
        if first != FIN | PING {
            return (first, payload);
        }
        send(client, &frame(FIN | PONG, &payload)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn unfinished_messages_hold_inflaters_within_the_budget_and_the_others_wait() {
    const CLIENTS: usize = 40;
    const HOLD: usize = 10;
    let mut server = Server::new(1 << 20);
    server.shared.budget = Budget::new(HOLD * INFLATER);
    let (clients, sessions): (Vec<_>, Vec<_>) =
        (0..CLIENTS).map(|_| connect(&server, 4096)).unzip();
    let (first, rest, payload) = halves();
    let script = async {
        let mut clients = clients;
        for client in &mut clients {
            send(client, &first).await;
        }
        sleep(Duration::from_millis(1)).await;
        let used = server.shared.budget.used();
        // What is held uncharged makes room for some more.
        assert!((HOLD * INFLATER..(HOLD + 2) * INFLATER).contains(&used), "{used} bytes");
        // A message that is there needs no inflater of its own; nobody is cut for what others hold.
        let mut whole = clients.pop().expect("many");
        let mut waiting = clients.split_off(CLIENTS - 2);
        let waits = waiting.first_mut().expect("one waits");
        assert!(
            timeout(Duration::from_secs(28), waits.read_u8()).await.is_err(),
            "not even pinged"
        );
        send(&mut whole, &rest).await;
        send(waits, &rest).await;
        assert!(timeout(Duration::from_millis(500), waits.read_u8()).await.is_err());
        clients.extend(waiting);
        clients.push(whole);
        for (index, client) in clients.iter_mut().enumerate() {
            if index < CLIENTS - 2 {
                send(client, &rest).await;
            }
            assert_eq!(
                next_message(client).await,
                (FIN | RSV1 | BINARY, payload.clone()),
                "{index}"
            );
        }
        for client in &mut clients {
            close(client).await;
        }
    };
    let sessions = futures_util::future::join_all(sessions);
    let (reports, ()) = tokio::join!(sessions, script);
    assert!(reports.iter().all(|report| report.ended.label() == "peer"));
    assert_eq!(server.shared.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_an_inflater_for_long_makes_room_for_those_who_wait() {
    let mut server = Server::new(1 << 20);
    server.shared.budget = Budget::new(INFLATER / 2);
    let (first, rest, payload) = halves();
    let (mut holder, held) = connect(&server, 4096);
    let (mut waiting, waited) = connect(&server, 4096);
    let script = async {
        send(&mut holder, &first).await;
        sleep(Duration::from_millis(1)).await;
        assert!(server.shared.budget.is_spent());
        send(&mut waiting, &[&frame(FIN | TEXT, b"plain")[..], &first].concat()).await;
        assert_eq!(next_frame(&mut waiting).await, (FIN | TEXT, b"plain".to_vec()));
        send(&mut waiting, &rest).await;
        assert_eq!(next_message(&mut waiting).await, (FIN | RSV1 | BINARY, payload.clone()));
        close(&mut waiting).await;
        drop(holder);
    };
    let (held, waited, ()) = tokio::join!(held, waited, script);
    assert_eq!((held.ended.label(), held.lasted.as_secs()), ("memory_spent", 30));
    assert_eq!((waited.ended.label(), waited.counts.messages), ("peer", 2));
    assert_eq!(server.shared.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_there_are_echoed_while_the_budget_is_spent() {
    let mut server = Server::new(1 << 20);
    server.shared.budget = Budget::new(INFLATER / 2);
    let (first, rest, payload) = halves();
    let (mut holder, held) = connect(&server, 4096);
    let (mut client, beside) = connect(&server, 64 * 1024);
    let script = async {
        send(&mut holder, &first).await;
        sleep(Duration::from_millis(1)).await;
        let fits = compress(&random(4050));
        for _ in 0..20 {
            send(&mut client, &frame(FIN | RSV1 | BINARY, &fits)).await;
            assert_eq!(next_frame(&mut client).await, (FIN | RSV1 | BINARY, fits.clone()));
        }
        let longer = compress(&random(4100));
        send(&mut client, &frame(FIN | RSV1 | BINARY, &longer)).await;
        let early = timeout(Duration::from_secs(1), next_frame(&mut client)).await;
        assert!(early.is_err(), "it waits for memory");
        send(&mut holder, &rest).await;
        assert_eq!(next_frame(&mut client).await, (FIN | RSV1 | BINARY, longer));
        assert_eq!(next_frame(&mut holder).await.1, payload);
        close(&mut client).await;
        close(&mut holder).await;
    };
    let (_, beside, ()) = tokio::join!(held, beside, script);
    assert_eq!(beside.counts.messages, 21);
}

#[tokio::test(start_paused = true)]
async fn bombs_and_a_close_behind_them_are_answered_to_a_client_that_reads_late() {
    let server = Server::new(1 << 20);
    let (mut client, session) = connect(&server, 16 * 1024);
    let bomb = frame(FIN | RSV1 | TEXT, &compress(&vec![b'0'; 1 << 20]));
    let script = async {
        let mut stream = bomb.repeat(50);
        stream.extend(frame(FIN | CLOSE, &1000_u16.to_be_bytes()));
        send(&mut client, &stream).await;
        client.shutdown().await.expect("a duplex pair can");
        sleep(Duration::from_secs(3)).await;
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).await.expect("a clean end");
        echoed.len()
    };
    let (report, echoed) = tokio::join!(session, script);
    assert_eq!((report.counts.messages, report.ended.label()), (50, "peer"));
    assert_eq!(echoed, (bomb.len() - 4) * 50 + 4);
    assert_eq!(server.shared.budget.used(), 0);
}
