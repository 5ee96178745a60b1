//! SIGTERM with many sessions in every stage: each is told, none is reset, none loses an echo.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::client::{Client, clamped_service, write_what_is_taken};
use super::measure::{KIB, SetOnDrop, descriptors, wait_for};
use crate::engine::support::{BINARY, CLOSE, CONTINUE, FIN, TEXT, frame};
use crate::inside::handshake;
use crate::service::Service;

const CLIENTS: usize = 200;

/// A message that carries its number, of varying size, up to a few fragments.
fn numbered(number: u32) -> Vec<u8> {
    let len = if number % 50 == 49 { 100 * KIB } else { number as usize * 37 % 2000 };
    number.to_be_bytes().into_iter().cycle().take(4 + len).collect()
}

/// Reads echoes up to the Close, which must be 1001, and returns how many came; they must be the
/// first messages, whole and in order. Sets `told` at the end.
fn read_prefix(client: &mut Client, seen: &AtomicU32, told: &AtomicBool) -> u32 {
    let _told = SetOnDrop(told);
    let mut number = 0;
    let mut message = Vec::new();
    loop {
        let frame = client.read_frame().expect("an echo or a Close, not a reset");
        if frame.opcode == CLOSE {
            assert_eq!(frame.payload[..2], 1001_u16.to_be_bytes());
            assert!(message.is_empty(), "an echo was cut off");
            return number;
        }
        message.extend(frame.payload);
        if frame.fin {
            assert!(message == numbered(number), "message {number} was lost or altered");
            message.clear();
            number += 1;
            seen.store(number, Ordering::Release);
        }
    }
}

/// The Close of a well-behaved client, and what must follow it.
fn leave(client: &mut Client) {
    client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
    assert_eq!(client.read_to_end(), 0, "a FIN after the Close");
}

#[test]
fn two_hundred_sessions_idle_or_in_the_middle_of_a_message_all_end_with_1001_and_a_fin() {
    let mut service = Service::start("shutdown.drain_spread = \"200ms\"");
    let mut idle: Vec<_> = (0..100).map(|_| Client::open(&service, "/echo")).collect();
    let mut amid: Vec<_> = (0..100).map(|_| Client::open(&service, "/echo")).collect();
    for client in &mut idle {
        client.echo(TEXT, b"one");
    }
    for client in &mut amid {
        client.send(TEXT, b"half ");
        assert_eq!(client.read_frame().unwrap().payload, b"half ");
    }
    service.signal(Signal::TERM);
    service.log_line("draining");
    let told = |client: &mut Client| {
        let (code, reason) = client.read_close();
        assert_eq!((code, reason.as_str()), (1001, "wsecho: the service is stopping"));
    };
    let answers = |client: &mut Client| {
        // A FIN right after our Close makes proxies reset the client.
        assert!(client.has_nothing_to_read(), "the service must wait for the client's Close");
        client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
        assert_eq!(client.read_to_end(), 0, "a FIN after the Close");
    };
    idle.iter_mut().for_each(told);
    idle.iter_mut().for_each(answers);
    for client in &mut amid {
        client.send(FIN | CONTINUE, b"a message");
        client.send(FIN | TEXT, b"too late, or just in time");
        assert_eq!(
            client.read_message().unwrap(),
            b"a message",
            "a message in progress is finished"
        );
        told(client);
        answers(client);
    }
    service.log_line("stopped: every session has ended");
    assert_eq!(service.wait().0, 0);
}

#[test]
fn one_half_sent_message_does_not_hold_up_the_stop() {
    let service = Service::start("shutdown.drain_spread = \"200ms\"\ntimeouts.close = \"500ms\"");
    let mut idle: Vec<_> = (0..CLIENTS).map(|_| Client::open(&service, "/echo")).collect();
    let mut half = Client::open(&service, "/echo");
    half.send(TEXT, b"half ");
    assert_eq!(half.read_frame().unwrap().payload, b"half ");
    let begun = Instant::now();
    service.signal(Signal::TERM);
    for client in &mut idle {
        assert_eq!(client.read_close().0, 1001);
        leave(client);
    }
    assert_eq!(half.read_close().0, 1001);
    assert_eq!(service.wait().0, 0);
    // Without the cut it would take timeouts.close less than drain_timeout.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// Has all clients stream until they are told to leave; `stop` runs while they do.
fn stream_until(service: Service, stop: impl FnOnce(&Service)) {
    let counts: Vec<AtomicU32> = (0..CLIENTS).map(|_| AtomicU32::new(0)).collect();
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::open(&service, "/echo")).collect();
    let enough = &AtomicBool::new(false);
    scope(|scope| {
        let _end = SetOnDrop(enough);
        let all: Vec<_> = clients
            .into_iter()
            .zip(&counts)
            .map(|(mut client, seen)| {
                scope.spawn(move || {
                    let told = AtomicBool::new(false);
                    let read = std::thread::scope(|scope| {
                        let writer = client.stream().try_clone().expect("a descriptor");
                        let told = &told;
                        scope.spawn(move || {
                            let mut number = 0;
                            let over =
                                || told.load(Ordering::Acquire) || enough.load(Ordering::Acquire);
                            while !over() {
                                let message = frame(FIN | BINARY, &numbered(number));
                                (&writer).write_all(&message).expect("not reset");
                                number += 1;
                                // In step with its echoes, so that every client gets its turn.
                                while number > seen.load(Ordering::Acquire) + 8 && !over() {
                                    std::thread::yield_now();
                                }
                            }
                        });
                        read_prefix(&mut client, seen, told)
                    });
                    leave(&mut client);
                    read
                })
            })
            .collect();
        wait_for("all of them stream", || counts.iter().all(|it| it.load(Ordering::Acquire) > 60));
        stop(&service);
        wait_for("all are told to leave", || all.iter().all(ScopedJoinHandle::is_finished));
        for client in all {
            assert!(client.join().expect("it was told") > 60);
        }
    });
    assert_eq!(service.wait().0, 0);
}

#[test]
fn two_hundred_streams_are_exact_up_to_their_close_with_1001() {
    stream_until(Service::start("shutdown.drain_spread = \"500ms\""), |service| {
        service.signal(Signal::TERM);
    });
}

#[test]
fn a_stop_in_the_middle_of_a_reload_ends_the_streams_as_well() {
    stream_until(Service::start("shutdown.drain_spread = \"0s\""), |service| {
        service.rewrite("log.level = \"debug\"");
        // Suspended meanwhile, so that it sees both signals at once.
        service.signal(Signal::STOP);
        service.signal(Signal::HUP);
        service.signal(Signal::TERM);
        service.signal(Signal::CONT);
    });
}

#[test]
fn a_stop_during_two_hundred_handshakes_opens_and_closes_each_of_them() {
    let service = Service::start("shutdown.drain_spread = \"0s\"");
    let open = descriptors(&service);
    let request = handshake("/echo");
    let (half, rest) = request.split_at(request.len() / 2);
    let mut streams: Vec<_> = (0..CLIENTS).map(|_| service.connect()).collect();
    for stream in &mut streams[..CLIENTS / 2] {
        stream.write_all(half.as_bytes()).unwrap();
    }
    wait_for("all are accepted", || descriptors(&service) >= open + CLIENTS);
    // The heads of the second half are complete, and unread when the signal comes.
    service.signal(Signal::STOP);
    for stream in &mut streams[CLIENTS / 2..] {
        stream.write_all(request.as_bytes()).unwrap();
    }
    // These are in the backlog, not accepted yet.
    for _ in 0..CLIENTS {
        let mut stream = service.connect();
        stream.write_all(request.as_bytes()).unwrap();
        streams.push(stream);
    }
    service.signal(Signal::TERM);
    service.signal(Signal::CONT);
    while !service.state().contains("STOPPING=1") {}
    for stream in &mut streams[..CLIENTS / 2] {
        stream.write_all(rest.as_bytes()).expect("it is still read");
    }
    for stream in streams {
        let mut client = Client::unanswered(stream);
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(client.read_close().0, 1001);
        leave(&mut client);
    }
    assert_eq!(service.wait().0, 0);
}

#[test]
fn two_hundred_slow_readers_get_what_they_are_owed_and_then_their_close() {
    let service = clamped_service("shutdown.drain_spread = \"0s\"\nworkers = 1");
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|_| Client::open_clamped(&service, "/echo")).collect();
    let messages: Vec<_> = (0..100).map(|n| frame(FIN | BINARY, &numbered(n))).collect();
    let stream = messages.concat();
    let mut sent = vec![0; CLIENTS];
    write_what_is_taken(&clients, &stream[..messages[..50].concat().len() - 1], &mut sent);
    service.signal(Signal::TERM);
    while !service.state().contains("STOPPING=1") {}
    scope(|scope| {
        for (client, sent) in clients.iter_mut().zip(sent) {
            let stream = &stream;
            let messages = &messages;
            scope.spawn(move || {
                let writer = client.stream().try_clone().expect("a descriptor");
                // Finish the message in progress, and no more.
                let end = messages.iter().scan(0, |end, message| {
                    *end += message.len();
                    Some(*end)
                });
                let end = end
                    .into_iter()
                    .find(|end| *end >= sent)
                    .expect("less than everything was sent");
                let read = std::thread::scope(|scope| {
                    scope
                        .spawn(move || (&writer).write_all(&stream[sent..end]).expect("not reset"));
                    read_prefix(client, &AtomicU32::new(0), &AtomicBool::new(false))
                });
                assert!(read > 0, "none of the echoes owed came");
                leave(client);
            });
        }
    });
    assert_eq!(service.wait().0, 0);
}
