//! With the feature `faults`: a panic in one session does not affect the others, and a service that
//! hangs no longer feeds the watchdog.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::measure::{KIB, wait_for};
use super::watchdog::{WATCHDOG, watched};
use crate::engine::support::{BINARY, TEXT, frame, noise};
use crate::inside::handshake;
use crate::service::Service;

#[test]
fn a_panic_in_one_of_a_hundred_sessions_is_counted_and_affects_none_of_the_others() {
    for format in ["text", "journal", "json"] {
        let config = format!("limits.max_connections = 100\nlog.format = \"{format}\"");
        let mut service = Service::start_with_admin(&config, |_| ());
        let mut others: Vec<_> = (0..99).map(|_| Client::open(&service, "/echo")).collect();
        let mut broken = Client::open(&service, "/echo?fault=panic");
        others[0].echo(TEXT, b"the limit is reached");
        assert_eq!(service.metric("wsecho_connections"), 100);
        // An unfinished frame is held, and what is held is charged to the budget.
        let whole = frame(BINARY, &noise(60 * KIB));
        broken.write(&whole[..50 * KIB]).unwrap();
        broken.read_until_cut();
        for client in &mut others {
            client.echo(TEXT, b"unharmed");
        }
        // The panic is counted once its connection is closed, which the client may see first.
        wait_for("the panic is counted", || service.metric("wsecho_panics_total") == 1);
        assert_eq!(service.metric("wsecho_sessions"), 99);
        assert_eq!(service.metric("wsecho_connections"), 99);
        assert_eq!(service.metric("wsecho_buffer_used_bytes"), 0, "its memory was given back");
        let mut next = Client::open(&service, "/echo");
        next.echo(TEXT, b"with the permit of the one that panicked");
        let line = service.log_line("panic");
        assert!(line.contains("a client asked") && line.contains("for this fault"), "{line}");
        drop((others, next));
        let (code, log) = service.stop();
        assert_eq!(code, 0);
        assert_eq!(log.matches("a client asked").count(), 1, "{log}");
    }
}

#[test]
fn the_watchdog_is_no_longer_fed_once_all_workers_are_blocked() {
    for workers in [1, 2] {
        let service = watched(&format!("workers = {workers}"));
        assert!(service.state().contains("WATCHDOG=1"));
        // More than there are workers, since a blocked worker may hold the next session back.
        let blocked: Vec<_> = (0..2 * workers)
            .map(|_| {
                let mut stream = service.connect();
                stream.write_all(handshake("/echo?fault=block").as_bytes()).unwrap();
                stream
            })
            .collect();
        let begun = Instant::now();
        while service.state_within(10 * WATCHDOG).is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the watchdog is still fed");
        }
        drop(blocked);
    }
}
