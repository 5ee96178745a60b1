//! Messages that do not end, and lengths that are only declared: memory follows the bytes held.

use std::io::Write;
use std::thread::scope;

use super::client::{Client, clamped_service, write_what_is_taken};
use super::measure::{KIB, MIB, Peak, assert_memory_returns, memory, unread, wait_for};
use crate::engine::support::{BINARY, FIN, frame, header, noise};
use crate::service::Service;

/// Sends 64 messages of the largest size without their last byte, reads no echoes, and only then
/// completes them. Returns how much memory had grown at its peak, and in the end.
fn sixty_four_unfinished() -> (usize, usize) {
    let service = Service::start("workers = 1\nlimits.buffer_budget = \"16 MiB\"");
    let mut other = Client::open(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    let mut clients: Vec<_> = (0..64).map(|_| Client::open_clamped(&service, "/echo")).collect();
    let before = memory(&service);
    let peak = Peak::new(&service);
    let message = noise(MIB);
    let request = frame(FIN | BINARY, &message);
    let mut sent = vec![0; clients.len()];
    write_what_is_taken(&clients, &request[..request.len() - 1], &mut sent);
    other.echo(BINARY, b"unharmed");
    let grown = peak.growth();
    assert!(grown > 8 * MIB, "only {grown} bytes were held: this proves nothing");
    scope(|scope| {
        for (client, sent) in clients.iter_mut().zip(sent) {
            let writer = client.stream().try_clone().unwrap();
            let rest = &request[sent..];
            scope.spawn(move || (&writer).write_all(rest).unwrap());
            let message = &message;
            scope.spawn(move || assert!(client.read_message().unwrap() == *message));
        }
    });
    other.echo(BINARY, b"unharmed");
    (grown, memory(&service).saturating_sub(before))
}

#[test]
fn unfinished_messages_stay_within_the_budget_and_are_echoed_once_they_end() {
    let (grown, _) = sixty_four_unfinished();
    // The budget, 4 KiB that each session may hold outside of it, and what one read may add.
    assert!(grown < 18 * MIB, "{grown} bytes");
}

#[test]
fn memory_that_was_held_is_given_back_to_the_system() {
    let (_, kept) = sixty_four_unfinished();
    // Of some 16 MiB: the blocks a worker keeps for the next backlog, and the allocator's holes.
    assert!(kept < 2 * MIB, "{kept} bytes are kept");
}

#[test]
fn a_length_that_is_only_declared_costs_nothing() {
    const CLIENTS: usize = 200;
    let service = Service::start("workers = 1");
    let mut other = Client::open(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::open(&service, "/echo")).collect();
    let before = memory(&service);
    let declared = [header(FIN | BINARY, MIB as u64), vec![7; 10]].concat();
    for client in &clients {
        client.write(&declared).unwrap();
    }
    wait_for("everything is read", || unread(&service) == 0);
    other.echo(BINARY, b"unharmed");
    let each = memory(&service).saturating_sub(before) / CLIENTS;
    assert!(each < KIB, "{each} bytes each");
    for (length, code) in [((1 << 63) - 1, 1009), (1 << 63, 1002), (u64::MAX, 1002)] {
        let mut client = Client::open(&service, "/echo");
        client.write(&header(FIN | BINARY, length)).unwrap();
        assert_eq!(client.read_close().0, code, "{length}");
    }
}

#[test]
fn after_an_echo_of_the_largest_size_a_session_costs_no_more_than_before() {
    let service = clamped_service("workers = 1");
    let mut client = Client::open_clamped(&service, "/echo");
    client.echo(BINARY, &noise(MIB));
    let idle = memory(&service);
    let peak = Peak::new(&service);
    // A client that reads in time leaves nothing to be held.
    let mut echoes = 0;
    while echoes < 5 || (echoes < 100 && peak.growth() <= 256 * KIB) {
        client.echo(BINARY, &noise(MIB));
        echoes += 1;
    }
    assert!(peak.growth() > 256 * KIB, "nothing was held: this proves nothing");
    // What the allocator keeps for the next message does not grow with their number.
    assert_memory_returns(&service, idle, 512 * KIB);
}
