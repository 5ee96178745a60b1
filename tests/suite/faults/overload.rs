//! More clients than the limit: those over it are told so, those within it notice nothing, and the
//! kernel refuses nobody.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::client::Client;
use super::idle::raise_limit;
use super::measure::{descriptors, wait_for};
use crate::engine::support::{BINARY, FIN, TEXT, frame};
use crate::inside::handshake;
use crate::service::Service;

/// Connections over the limit that are open at a time.
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

/// How long a health check or a scrape may take.
const PROMPT: Duration = Duration::from_secs(1);

#[test]
fn silent_clients_over_the_limit_hold_up_nobody_and_cost_sessions_nothing() {
    let service = Service::start("limits.max_connections = 1\ntimeouts.handshake = \"60s\"");
    let mut session = Client::open(&service, "/echo");
    let open = descriptors(&service);
    let silent: Vec<_> = (0..1200).map(|_| service.connect()).collect();
    for n in 0..100 {
        let begun = Instant::now();
        assert!(service.ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("\r\n\r\nok\n"));
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        session.echo(TEXT, format!("{n}").as_bytes());
        assert!(descriptors(&service) <= open + OVERFLOW + 1, "too many were accepted");
    }
    for mut stream in silent {
        assert_eq!(read_to_end(&mut stream), "");
    }
    wait_for("all descriptors are closed", || descriptors(&service) <= open);
}

#[test]
fn silent_clients_of_the_admin_listener_hold_up_no_scrape() {
    let service = Service::start_with_admin("", |_| ());
    let silent: Vec<_> = (0..64).map(|_| service.connect_admin()).collect();
    for _ in 0..20 {
        let begun = Instant::now();
        assert!(service.admin("/metrics").contains("wsecho_sessions 0"));
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    }
    drop(silent);
}

#[test]
fn a_client_over_its_quota_takes_no_places_from_others() {
    let service = Service::start(
        "limits.max_connections = 200\nlimits.max_connections_per_client = 10\nproxy.trusted = []",
    );
    let (greedy, other) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let silent: Vec<_> = (0..240).map(|_| Client::silent_from(greedy, &service.addrs[0])).collect();
    for _ in 0..40 {
        Client::open_from(other, &service.addrs[0], "/echo").echo(TEXT, b"hello");
    }
    drop(silent);
}

#[test]
fn a_refusal_is_read_however_many_frames_follow_the_handshake() {
    let service = Service::start("");
    let broken = handshake("/echo").replace("Version: 13", "Version: 8");
    let request = [broken.into_bytes(), frame(FIN | BINARY, &[7; 1000]).repeat(50)].concat();
    for _ in 0..40 {
        let mut client = service.connect();
        client.write_all(&request).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let answer = read_to_end(&mut client);
        assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("version 13"), "{answer}");
    }
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
