//! The service manager's watchdog: a service that waits is alive. That one which hangs is not is
//! shown in `hooks`.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use tokio::time::Instant;

use super::client::Client;
use crate::engine::support::{CLOSE, CONTINUE, FIN, TEXT};
use crate::launch::through_shell;
use crate::service::Service;

/// How long the service manager waits for a sign of life.
pub const WATCHDOG: Duration = Duration::from_millis(300);

/// A service that is watched, as systemd says it: in microseconds, to one process.
pub fn watched(config: &str) -> Service {
    let first = format!("export WATCHDOG_USEC={} WATCHDOG_PID=$$", WATCHDOG.as_micros());
    Service::start_with(config, |command| through_shell(command, &first))
}

/// Ten signs of life come, in no less time than they should take; and no slower than ten times.
fn assert_fed(service: &Service, when: &str) {
    let begun = Instant::now();
    let mut signs = 0;
    while signs < 10 {
        let state = service.state_within(10 * WATCHDOG);
        let state = state.unwrap_or_else(|| panic!("{when}: no sign of life"));
        signs += u32::from(state.contains("WATCHDOG=1"));
    }
    // What lay in the socket came at once: at most as many datagrams as it holds.
    assert!(begun.elapsed() < 10 * 10 * WATCHDOG, "{when}: {:?}", begun.elapsed());
}

/// Reads what the service manager was told until now.
fn forget(service: &Service) {
    while service.state_within(Duration::from_millis(1)).is_some() {}
}

#[test]
fn an_idle_service_shows_its_life_three_times_as_often_as_it_has_to() {
    let service = watched("");
    let begun = Instant::now();
    assert_fed(&service, "idle");
    let took = begun.elapsed();
    assert!(took > 2 * WATCHDOG, "ten signs within {took:?} are too many");
}

#[test]
fn a_service_that_waits_for_a_free_place_is_alive() {
    // So many descriptors that few places are left, for those over the limit as well.
    let first =
        format!("ulimit -n 64; export WATCHDOG_USEC={} WATCHDOG_PID=$$", WATCHDOG.as_micros());
    let service = Service::start_with("workers = 1\ntimeouts.handshake = \"60s\"", |command| {
        through_shell(command, &first);
    });
    // Silent ones over the limit hold their places for two seconds; others stand behind them.
    let crowd: Vec<_> = (0..200).map(|_| service.connect()).collect();
    forget(&service);
    assert_fed(&service, "all places are taken");
    drop(crowd);
}

#[test]
fn a_service_that_is_out_of_descriptors_is_alive() {
    let mut service = watched("");
    let few = Rlimit { current: Some(24), maximum: Some(24) };
    prlimit(Some(service.process()), Resource::Nofile, few).expect("it is our child");
    let crowd: Vec<_> = (0..100).map(|_| service.connect()).collect();
    service.log_line("no connection can be accepted");
    forget(&service);
    assert_fed(&service, "out of descriptors");
    drop(crowd);
}

#[test]
fn a_service_that_drains_is_alive() {
    let service = watched("shutdown.drain_spread = \"0s\"");
    let mut client = Client::open(&service, "/echo");
    // A message that has begun holds the drain up.
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
fn a_service_manager_that_reads_nothing_holds_nobody_up() {
    let service = watched("shutdown.drain_spread = \"0s\"");
    let mut client = Client::open(&service, "/echo");
    // Far more signs of life than its socket holds; nothing tells when one more is lost.
    std::thread::sleep(20 * WATCHDOG);
    client.echo(TEXT, b"unharmed");
    Client::open(&service, "/echo").echo(TEXT, b"served");
    service.signal(Signal::HUP);
    Client::open(&service, "/echo").echo(TEXT, b"served");
    service.signal(Signal::TERM);
    assert_eq!(client.read_close().0, 1001);
    client.send(FIN | CLOSE, &1001_u16.to_be_bytes());
    assert_eq!(service.wait().0, 0);
}
