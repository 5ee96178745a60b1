//! More echoes are owed than the memory budget can hold.

use std::thread;

use super::client::{Client, clamped_service};
use super::measure::{KIB, MIB, Peak, assert_memory_returns, descriptors, memory, wait_for};
use crate::engine::support::{BINARY, FIN, TEXT, frame, noise};

#[test]
fn blocking_clients_are_held_back_once_the_budget_is_spent_and_memory_is_given_back() {
    const CLIENTS: usize = 40;
    let service =
        clamped_service("workers = 1\nlimits.buffer_budget = \"1 MiB\"\ntimeouts.write = \"1s\"");
    let mut other = Client::open_clamped(&service, "/echo");
    other.echo(BINARY, &noise(100 * KIB));
    let (before, open) = (memory(&service), descriptors(&service));
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|_| Client::open_clamped(&service, "/echo")).collect();
    let peak = Peak::new(&service);
    let message = noise(MIB);
    let request = frame(FIN | BINARY, &message);
    let echoed = thread::scope(|scope| {
        let all: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    // Being dropped is as good as an echo; hanging or a wrong echo is not.
                    let echo = client.write(&request).and_then(|()| client.read_message());
                    echo.is_ok_and(|echo| {
                        assert!(echo == message);
                        true
                    })
                })
            })
            .collect();
        for n in 0..200 {
            other.echo(TEXT, format!("{n}").as_bytes());
        }
        all.into_iter().map(|it| usize::from(it.join().unwrap())).sum::<usize>()
    });
    eprintln!("{echoed} of {CLIENTS} were echoed");
    // The budget, what each session may hold outside of it, and what one read may add.
    assert!(peak.growth() < 3 * MIB, "{} bytes", peak.growth());
    drop(clients);
    wait_for("all have been dropped", || descriptors(&service) <= open);
    assert_memory_returns(&service, before, 2 * MIB);
    // The budget is free again: this takes half of it.
    other.echo(BINARY, &noise(500 * KIB));
}
