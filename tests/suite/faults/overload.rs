//! More clients than the limit: those over it are told so, those within it notice nothing, and the
//! kernel refuses nobody.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::client::Client;
use super::idle::raise_limit;
use super::measure::{descriptors, wait_for};
use crate::engine::support::TEXT;
use crate::inside::handshake;
use crate::service::Service;

/// Connections over the limit that are answered; any more wait in the backlog.
const OVERFLOW: usize = 256;

fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and a FIN, not a reset");
    answer
}

#[test]
fn thirty_clients_over_the_limit_are_told_when_to_retry_and_fifty_sessions_notice_nothing() {
    let service = Service::start("limits.max_connections = 50");
    let mut sessions: Vec<_> = (0..50).map(|_| Client::open(&service, "/echo")).collect();
    let mut told = HashSet::new();
    for round in 0..30 {
        let mut refused = service.connect();
        refused.write_all(handshake("/echo").as_bytes()).unwrap();
        let answer = read_to_end(&mut refused);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("limits.max_connections"), "{answer}");
        let after = answer.lines().find_map(|line| line.strip_prefix("Retry-After: "));
        let after: u16 = after.expect("a Retry-After").trim().parse().expect("seconds");
        assert!((1..=5).contains(&after), "{after} s");
        told.insert(after);
        assert!(service.ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("\r\n\r\nok\n"));
        for client in &mut sessions {
            client.echo(TEXT, format!("{round}").as_bytes());
        }
    }
    assert!(told.len() > 1, "all would retry at the same time: {told:?}");
    drop(sessions.pop());
    wait_for("the permit is free again", || {
        let mut stream = service.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_to_end(&mut stream).starts_with("HTTP/1.1 200 ")
    });
}

#[test]
fn silent_clients_over_the_limit_hold_up_others_for_two_seconds_and_cost_sessions_nothing() {
    let service = Service::start("limits.max_connections = 1\ntimeouts.handshake = \"60s\"");
    let mut session = Client::open(&service, "/echo");
    let open = descriptors(&service);
    let begun = Instant::now();
    let silent: Vec<_> = (0..OVERFLOW).map(|_| service.connect()).collect();
    wait_for("all are accepted", || descriptors(&service) >= open + OVERFLOW);
    let mut waiting = service.connect();
    waiting.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    for n in 0..100 {
        session.echo(TEXT, format!("{n}").as_bytes());
    }
    assert!(descriptors(&service) <= open + OVERFLOW + 1, "too many were accepted");
    assert!(read_to_end(&mut waiting).ends_with("\r\n\r\nok\n"));
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");
    for mut stream in silent {
        assert_eq!(read_to_end(&mut stream), "");
    }
    wait_for("all descriptors are closed", || descriptors(&service) <= open);
}

#[test]
fn a_thousand_clients_that_reconnect_at_once_are_all_served() {
    const CLIENTS: usize = 1000;
    if !raise_limit(2 * CLIENTS as u64) {
        return;
    }
    let service = Service::start("");
    let all = || (0..CLIENTS).map(|_| service.connect()).collect::<Vec<_>>();
    drop(all());
    // Suspended, so that they all come at once, however slow this test is.
    service.signal(Signal::STOP);
    let mut clients = all();
    for client in &mut clients {
        client.write_all(handshake("/echo").as_bytes()).expect("the backlog holds it");
    }
    service.signal(Signal::CONT);
    let begun = Instant::now();
    for client in clients {
        let mut client = Client::adopt(client);
        client.echo(TEXT, b"served");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}
