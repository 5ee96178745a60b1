//! Paths that fail during a session: it ends in time, its end is logged correctly, and nobody else
//! is affected.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::client::Client;
use super::measure::{KIB, MIB, descriptors, wait_for};
use crate::engine::support::{BINARY, CLOSE, FIN, PING, PONG, TEXT, frame, noise};
use crate::fault_proxy::{self, Fault};
use crate::inside::handshake;
use crate::service::{PATIENCE, Service};

/// Timers short enough for a test, yet far longer than anything here takes on its own.
const TIMERS: &str = r#"
log.format = "json"
timeouts.handshake = "3s"
timeouts.close = "1s"
timeouts.write = "1s"
timeouts.ping_interval = "300ms"
timeouts.pong = "2s"
"#;

/// A service with failing paths to it, and a session beside them that must never notice.
struct Scene {
    service: Service,
    neighbour: Client,
    /// The count with only the neighbour connected.
    descriptors: usize,
    runtime: Runtime,
}

impl Scene {
    fn new() -> Self {
        let service = Service::start(TIMERS);
        let mut neighbour = Client::open(&service, "/echo?ping=off");
        neighbour.echo(TEXT, b"here");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        Self { descriptors: descriptors(&service), service, neighbour, runtime }
    }

    fn connect(&self, fault: Fault) -> TcpStream {
        let service = self.service.addrs[0].parse().expect("a TCP address");
        let stream = self.runtime.block_on(fault_proxy::connect(service, fault));
        let stream = stream.and_then(tokio::net::TcpStream::into_std).expect("it listens");
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    fn open(&self, fault: Fault) -> Client {
        Client::upgrade(self.connect(fault), "/echo")
    }

    /// A session whose path fails after this many of its bytes.
    fn open_failing(&self, after: usize, fault: fn(usize) -> Fault) -> Client {
        self.open(fault(handshake("/echo").len() + after))
    }

    /// Waits until the session has ended, and checks how, and that nothing is left of it.
    fn assert_ended(&mut self, label: &str) {
        let line = self.service.log_line("session ended");
        let record: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(record["ended"], label, "{line}");
        self.service.forget_log();
        self.assert_nothing_is_left();
    }

    fn assert_nothing_is_left(&mut self) {
        self.neighbour.echo(BINARY, &noise(100 * KIB));
        wait_for("its descriptor is closed", || descriptors(&self.service) <= self.descriptors);
    }
}

fn cut(after: usize) -> Fault {
    Fault::Cut { after }
}

fn reset(after: usize) -> Fault {
    Fault::Reset { after }
}

fn half_close(after: usize) -> Fault {
    Fault::HalfClose { after }
}

fn stall(after: usize) -> Fault {
    Fault::Stall { after }
}

#[test]
fn a_path_with_a_delay_costs_nothing_but_time() {
    let mut scene = Scene::new();
    let delay = Duration::from_millis(100);
    let mut client = scene.open(Fault::Slow { piece: 64 * KIB, delay });
    let begun = Instant::now();
    for n in 0..5 {
        client.echo(TEXT, format!("{n}").as_bytes());
    }
    assert!(begun.elapsed() >= 10 * delay, "there and back: {:?}", begun.elapsed());
    client.echo(BINARY, &noise(MIB));
    client.send(FIN | CLOSE, &4000_u16.to_be_bytes());
    assert_eq!(client.read_close().0, 4000);
    assert_eq!(client.read_to_end(), 0);
    scene.assert_ended("peer");
}

#[test]
fn a_path_that_trickles_counts_as_alive_however_long_it_takes() {
    let mut scene = Scene::new();
    let mut client = scene.open(Fault::Slow { piece: 1, delay: Duration::from_millis(5) });
    let begun = Instant::now();
    let texts: Vec<_> = (10..60).map(|n| format!("number {n}").into_bytes()).collect();
    for text in &texts {
        client.send(FIN | TEXT, text);
    }
    for text in &texts {
        let echo = loop {
            let frame = client.read_frame().unwrap();
            if frame.opcode != PING {
                break frame.payload;
            }
            client.send(FIN | PONG, &frame.payload);
        };
        assert_eq!(echo, *text);
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(3), "no longer than silence may last: {took:?}");
    client.stream().shutdown(Shutdown::Write).unwrap();
    scene.assert_ended("eof");
}

#[test]
fn a_path_that_is_cut_in_the_middle_of_a_message_ends_the_session_as_eof() {
    let mut scene = Scene::new();
    for after in [1, 5, 5 + 64 * KIB + 1, MIB / 2] {
        let mut client = scene.open_failing(after, cut);
        // The path goes on reading, so the whole message can be written.
        client.send(FIN | BINARY, &noise(MIB));
        client.read_until_cut();
        scene.assert_ended("eof");
    }
}

#[test]
fn a_path_that_resets_ends_the_session_as_broken() {
    let mut scene = Scene::new();
    for after in [1, 5 + 64 * KIB + 1, MIB / 2] {
        let mut client = scene.open_failing(after, reset);
        // The reset may come before everything is written.
        let _ = client.write(&frame(FIN | BINARY, &noise(MIB)));
        client.read_until_cut();
        scene.assert_ended("broken");
    }
}

#[test]
fn a_path_that_closes_one_direction_still_delivers_every_echo_owed() {
    let mut scene = Scene::new();
    let whole = frame(FIN | BINARY, &noise(200 * KIB));
    let mut client = scene.open_failing(3 * whole.len() + 10, half_close);
    for _ in 0..4 {
        client.write(&whole).unwrap();
    }
    for _ in 0..3 {
        assert!(client.read_message().unwrap() == noise(200 * KIB));
    }
    // Ten bytes of the fourth came: an unfinished frame is owed nothing.
    assert_eq!(client.read_to_end(), 0, "a FIN after the last whole message");
    scene.assert_ended("eof");
}

#[test]
fn a_path_that_stalls_under_an_idle_session_is_noticed_by_a_missing_pong() {
    let mut scene = Scene::new();
    let words = frame(FIN | TEXT, b"words").len();
    let mut client = scene.open_failing(2 * words, stall);
    client.echo(TEXT, b"words");
    let begun = Instant::now();
    // The path stalls at the last byte: neither this echo nor a ping gets through.
    client.send(FIN | TEXT, b"words");
    scene.assert_ended("pong_timeout");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_path_that_stalls_under_unsent_echoes_is_noticed_by_the_write_timeout() {
    let mut scene = Scene::new();
    // Far more than the path can buffer, so that the service is stuck with the rest.
    let client = scene.open_failing(MIB + 32 * KIB, stall);
    let begun = Instant::now();
    for _ in 0..2 {
        // The path goes on reading.
        client.send(FIN | BINARY, &noise(MIB));
    }
    scene.assert_ended("write_timeout");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_path_that_fails_within_the_request_head_holds_its_permit_only_briefly() {
    let mut scene = Scene::new();
    // At this rate, a head would take longer than the whole test.
    let trickle = Fault::Slow { piece: 1, delay: Duration::from_millis(200) };
    for fault in [cut(20), reset(20), half_close(20), stall(20), trickle] {
        let mut stream = scene.connect(fault);
        stream.write_all(handshake("/echo").as_bytes()).unwrap();
        scene.assert_nothing_is_left();
    }
}
