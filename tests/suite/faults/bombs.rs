//! Compressed messages that are small and inflate to much, for long or to nothing.

use std::io::Write;
use std::thread::scope;
use std::time::Duration;

use super::client::Client;
use super::measure::{KIB, MIB, Peak, cpu, unread, wait_for};
use crate::engine::deflate::{compress, random};
use crate::engine::support::{BINARY, FIN, RSV1, TEXT, frame, noise};
use crate::service::Service;
use wsecho::ws::deflate::inflate::INFLATER;

/// 1,024 MiB of zeros in a little over 1 MiB.
fn gigabyte() -> Vec<u8> {
    let mut mebibyte = compress(&vec![0; MIB]);
    mebibyte.extend([0, 0, 0xff, 0xff]);
    let mut message = mebibyte.repeat(1024);
    message.truncate(message.len() - 4);
    message
}

#[test]
fn a_gigabyte_in_a_megabyte_is_refused_as_soon_as_it_is_too_much() {
    let service = Service::start("workers = 1");
    let mut other = Client::open_compressing(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    other.echo(RSV1 | BINARY, &compress(b"warm"));
    let bomb = frame(FIN | RSV1 | BINARY, &gigabyte());
    let (peak, before) = (Peak::new(&service), cpu(&service));
    for _ in 0..10 {
        let mut client = Client::open_compressing(&service, "/echo");
        client.write(&bomb).unwrap();
        let reason = "wsecho: message over 1 MiB (limits.max_message_size)";
        assert_eq!(client.read_close(), (1009, reason.into()));
        other.echo(TEXT, b"unharmed");
    }
    let spent = cpu(&service).saturating_sub(before);
    assert!(spent < Duration::from_secs(1), "{spent:?} of CPU time");
    assert!(peak.growth() < 2 * MIB, "{} bytes", peak.growth());
}

#[test]
fn a_gigabyte_that_is_allowed_is_echoed_in_turns_and_costs_no_memory() {
    let service = Service::start("workers = 1\nlimits.max_message_size = \"1 GiB\"");
    let mut other = Client::open_compressing(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    other.echo(RSV1 | BINARY, &compress(b"warm"));
    let message = gigabyte();
    let mut client = Client::open_compressing(&service, "/echo");
    let peak = Peak::new(&service);
    let writer = client.stream().try_clone().unwrap();
    let echoes = scope(|scope| {
        let bomb = scope.spawn(|| {
            (&writer).write_all(&frame(FIN | RSV1 | BINARY, &message)).unwrap();
            assert!(client.read_message().unwrap() == message, "the echo is another message");
        });
        let mut echoes = 0;
        while !bomb.is_finished() {
            other.echo(TEXT, b"unharmed");
            echoes += 1;
        }
        bomb.join().unwrap();
        echoes
    });
    // It takes some 2,000 turns, and without them three reads.
    assert!(echoes > 10, "only {echoes} echoes beside it");
    assert!(peak.growth() < 3 * MIB, "{} bytes", peak.growth());
}

#[test]
fn two_hundred_unfinished_compressed_messages_stay_within_the_budget_and_end_well() {
    const CLIENTS: usize = 200;
    for (budget, most) in [(4, 4 * MIB), (64, CLIENTS * INFLATER)] {
        let service =
            Service::start(&format!("workers = 1\nlimits.buffer_budget = \"{budget} MiB\""));
        let mut other = Client::open_compressing(&service, "/echo");
        other.echo(BINARY, &noise(MIB));
        other.echo(RSV1 | BINARY, &compress(b"warm"));
        let mut clients: Vec<_> =
            (0..CLIENTS).map(|_| Client::open_compressing(&service, "/echo")).collect();
        let peak = Peak::new(&service);
        let payload = compress(&random(4 * KIB));
        let message = frame(FIN | RSV1 | BINARY, &payload);
        let (first, rest) = message.split_at(2 * KIB);
        // What the allocator keeps of one round it uses for the next.
        for _ in 0..3 {
            for client in &clients {
                client.write(first).unwrap();
            }
            wait_for("everything is read", || unread(&service) == 0);
            other.echo(RSV1 | TEXT, &compress(b"unharmed"));
            let grown = peak.growth();
            // Most of a window is not written to.
            assert!(grown > most / 4, "only {grown} bytes were held: this proves nothing");
            // What each session may hold beyond the budget, and holes.
            assert!(grown < most + CLIENTS * 6 * KIB + MIB, "{grown} bytes of {most}");
            for client in &clients {
                client.write(rest).unwrap();
            }
            for client in &mut clients {
                assert!(client.read_message().unwrap() == payload, "the echo is another message");
            }
        }
    }
}

#[test]
fn a_million_messages_that_inflate_to_nothing_cost_bounded_work_and_no_memory() {
    const THOUSANDS: usize = 1000;
    let service = Service::start("workers = 1");
    let mut other = Client::open_compressing(&service, "/echo");
    other.echo(BINARY, &noise(MIB));
    let mut client = Client::open_compressing(&service, "/echo");
    // Two streams, and an empty block: 14 bytes with the header.
    let empty = frame(FIN | RSV1 | BINARY, &[3, 0, 0, 0, 0, 0xff, 0xff, 0]);
    let (peak, before) = (Peak::new(&service), cpu(&service));
    let mut writer = client.stream().try_clone().unwrap();
    scope(|scope| {
        let flood = scope.spawn(move || {
            for _ in 0..THOUSANDS {
                writer.write_all(&empty.repeat(1000)).unwrap();
            }
        });
        scope.spawn(|| {
            let mut echoed = vec![0; 10 * 1000];
            for _ in 0..THOUSANDS {
                let mut filled = 0;
                while filled < echoed.len() {
                    filled += client.read(&mut echoed[filled..]).unwrap();
                }
            }
        });
        while !flood.is_finished() {
            other.echo(TEXT, b"unharmed");
        }
    });
    let spent = cpu(&service).saturating_sub(before);
    // Ten times what it takes without optimization.
    assert!(spent < Duration::from_secs(20), "{spent:?} of CPU time");
    eprintln!("{spent:?} of CPU time, {} bytes", peak.growth());
    assert!(peak.growth() < 3 * MIB, "{} bytes", peak.growth());
}
