//! The service manager's watchdog: a service that waits is alive. For one that hangs see `hooks`.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use tokio::time::Instant;

use super::client::Client;
use crate::engine::support::{CLOSE, CONTINUE, FIN, TEXT};
use crate::launch::through_shell;
use crate::service::Service;

/// How long the service manager waits for a keep-alive ping.
pub const WATCHDOG: Duration = Duration::from_millis(300);

/// A service with a watchdog, set up the way systemd does.
pub fn watched(config: &str) -> Service {
    let first = format!("export WATCHDOG_USEC={} WATCHDOG_PID=$$", WATCHDOG.as_micros());
    Service::start_with(config, |command| through_shell(command, &first))
}

/// Ten watchdog pings come, at most ten times slower than they should.
fn assert_fed(service: &Service, when: &str) {
    let begun = Instant::now();
    let mut pings = 0;
    while pings < 10 {
        let state = service.state_within(10 * WATCHDOG);
        let state = state.unwrap_or_else(|| panic!("{when}: no watchdog ping"));
        pings += u32::from(state.contains("WATCHDOG=1"));
    }
    // No lower bound: pings that were queued in the socket come at once.
    assert!(begun.elapsed() < 10 * 10 * WATCHDOG, "{when}: {:?}", begun.elapsed());
}

/// Drains the notifications sent so far.
fn forget(service: &Service) {
    while service.state_within(Duration::from_millis(1)).is_some() {}
}

#[test]
fn an_idle_service_pings_the_watchdog_three_times_as_often_as_it_has_to() {
    let service = watched("");
    let begun = Instant::now();
    assert_fed(&service, "idle");
    let took = begun.elapsed();
    assert!(took > 2 * WATCHDOG, "ten pings within {took:?} are too many");
}

#[test]
fn a_service_at_its_connection_limit_is_alive() {
    // Few descriptors, so that few connections fit, even over the limit.
    let first =
        format!("ulimit -n 64; export WATCHDOG_USEC={} WATCHDOG_PID=$$", WATCHDOG.as_micros());
    let service = Service::start_with("workers = 1\ntimeouts.handshake = \"60s\"", |command| {
        through_shell(command, &first);
    });
    // Silent clients over the limit hold their permits for two seconds; the others queue up.
    let crowd: Vec<_> = (0..200).map(|_| service.connect()).collect();
    forget(&service);
    assert_fed(&service, "at the limit");
    drop(crowd);
}

#[test]
fn a_service_that_is_out_of_descriptors_is_alive() {
    let mut service = watched("");
    let few = Rlimit { current: Some(24), maximum: Some(24) };
    prlimit(Some(service.process()), Resource::Nofile, few).expect("our own child");
    let crowd: Vec<_> = (0..100).map(|_| service.connect()).collect();
    service.log_line("cannot accept connections");
    forget(&service);
    assert_fed(&service, "out of descriptors");
    drop(crowd);
}

#[test]
fn a_service_that_drains_is_alive() {
    let service = watched("shutdown.drain_spread = \"0s\"");
    let mut client = Client::open(&service, "/echo");
    // A message in progress holds up the drain.
    client.send(TEXT, b"half");
    assert_eq!(client.read_frame().unwrap().payload, b"half");
    service.signal(Signal::TERM);
    while !service.state().contains("STOPPING=1") {}
    assert_fed(&service, "draining");
    client.send(FIN | CONTINUE, b"whole");
    assert_eq!(client.read_message().unwrap(), b"whole");
    assert_eq!(client.read_close().0, 1001);
    client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
    assert_eq!(service.wait().0, 0);
}

#[test]
fn a_service_manager_that_reads_nothing_holds_up_nobody() {
    let service = watched("workers = 1\nshutdown.drain_spread = \"0s\"");
    let mut client = Client::open(&service, "/echo");
    // Not a wait: far more pings are due in this time than the socket holds.
    std::thread::sleep(20 * WATCHDOG);
    client.echo(TEXT, b"unharmed");
    Client::open(&service, "/echo").echo(TEXT, b"served");
    service.signal(Signal::HUP);
    // The reload is announced for a second, in vain.
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(2) {
        let sent = Instant::now();
        client.echo(TEXT, b"unharmed");
        longest = longest.max(sent.elapsed());
    }
    assert!(longest < Duration::from_millis(800), "an echo took {longest:?}");
    Client::open(&service, "/echo").echo(TEXT, b"served");
    service.signal(Signal::TERM);
    assert_eq!(client.read_close().0, 1001);
    client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
    assert_eq!(service.wait().0, 0);
}
