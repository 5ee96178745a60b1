//! Clients that forge log lines or flood the log, and a log that nobody reads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::scope;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::process::Signal;
use tokio::time::Instant;

use super::client::Client;
use super::measure::wait_for;
use crate::engine::support::{CLOSE, FIN, TEXT};
use crate::inside::handshake;
use crate::service::{PATIENCE, Service};

/// What someone might send to forge log lines, among arbitrary bytes.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<char>().prop_map(|it| it.to_string().into_bytes()),
        prop::sample::select(vec![
            "\n<3>forged",
            "\r\n",
            "\n2026-01-01T00:00:00Z ERROR forged",
            "\u{202e}",
            "\u{2028}",
            "\u{2029}",
            "\u{85}",
            "\u{9b}31m",
            "\u{1b}[2J",
            "\u{7f}",
            "\0",
            "\"",
            "\\",
            " x=1",
            "\"}\n{\"level\":\"ERROR\"",
            "\t",
            "\u{200b}",
            "\u{feff}",
            "\u{e0041}",
        ])
        .prop_map(|it| it.as_bytes().to_vec()),
    ];
    vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// One field of a request; now and then it contains bytes that HTTP forbids.
fn field() -> impl Strategy<Value = Vec<u8>> {
    (hostile(), prop::bool::weighted(0.9)).prop_map(|(mut bytes, legal)| {
        bytes.retain(|byte| !legal || (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t');
        bytes
    })
}

/// Whether a line begins the way its format requires, and contains no control characters.
fn is_well_formed(format: &str, line: &str) -> bool {
    let (text, begins) = match format {
        "journal" => {
            let rest = ["<3>", "<4>", "<6>", "<7>"].iter().find_map(|it| line.strip_prefix(it));
            (rest, true)
        }
        "json" => {
            let record = serde_json::from_str::<serde_json::Value>(line);
            (Some(line), record.is_ok_and(|it| it["timestamp"].is_string()))
        }
        _ => (Some(line), line.len() > 30 && line.as_bytes()[..4].iter().all(u8::is_ascii_digit)),
    };
    let hidden = |it: char| {
        it.is_control()
            || matches!(it, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(it, '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    begins && text.is_some_and(|it| !it.starts_with('<') && !it.contains(hidden))
}

/// An address that no client had before: few lines are logged about one in a second.
fn next_client() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Ipv4Addr::from_bits(
        Ipv4Addr::new(127, 1, 0, 1).to_bits() + NEXT.fetch_add(1, Ordering::Relaxed),
    )
}

#[test]
fn whatever_a_client_sends_every_line_of_the_log_is_one_the_service_wrote() {
    for format in ["text", "journal", "json"] {
        let config = format!("log.level = \"debug\"\nlog.format = \"{format}\"\norigins = []");
        let service = Service::start(&config);
        let mut runner = TestRunner::new(Config { cases: 100, ..Config::default() });
        let input = (field(), field(), field(), field(), hostile());
        let ran = runner.run(&input, |(path, origin, agent, forwarded, reason)| {
            let head = |path: &[u8], origin: &[u8]| {
                let name = |name: &str, value: &[u8]| [name.as_bytes(), value, b"\r\n"].concat();
                let request = handshake("/PATH");
                let (before, after) = request.split_once("/PATH").expect("a path");
                let (line, rest) = after.split_once("\r\n").expect("a line");
                [
                    before.as_bytes(),
                    b"/",
                    path,
                    line.as_bytes(),
                    b"\r\n",
                    &name("Origin: ", origin),
                    &name("User-Agent: ", &agent),
                    &name("X-Forwarded-For: ", &forwarded),
                    rest.as_bytes(),
                ]
                .concat()
            };
            for request in [head(&path, b""), head(b"echo", &origin)] {
                let mut stream = service.connect();
                stream.write_all(&request).unwrap();
                // If it is a complete handshake, only the client can end the connection.
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            }
            let client = Client::open_from(next_client(), &service.addrs[0], "/echo");
            let reason: String = String::from_utf8_lossy(&reason).chars().take(30).collect();
            client.send(FIN | CLOSE, &[&4000_u16.to_be_bytes(), reason.as_bytes()].concat());
            let mut client = client;
            client.read_to_end();
            Ok(())
        });
        ran.unwrap();
        let (_, log) = service.stop();
        // Split as journald and shells do, at line feeds only.
        for line in log.split('\n') {
            assert!(is_well_formed(format, line), "{format}: {line:?}");
        }
        assert!(log.matches("session ended").count() >= 100, "lines are missing: {log}");
        assert!(log.contains("no such path") && log.contains("client resolved"), "{log}");
        assert!(log.contains("stopped: "), "the end of the log is missing");
    }
}

/// A service that logs to a socket.
fn logging_into(stderr: UnixStream, config: &str) -> Service {
    Service::start_with_admin(config, |command| {
        command.stderr(std::os::fd::OwnedFd::from(stderr));
    })
}

#[test]
fn a_log_that_nobody_reads_is_lost_and_holds_up_no_session() {
    let (mut reader, stderr) = UnixStream::pair().unwrap();
    let service = logging_into(stderr, "log.level = \"debug\"");
    let mut session = Client::open(&service, "/echo");
    let addr = service.addrs[0].as_str();
    let good = handshake("/echo");
    let bad = good.replace("n: 13", "n: 8");
    let mut times = Vec::new();
    scope(|scope| {
        let flood = || {
            let send = |request: &str| {
                let mut stream = TcpStream::connect(addr).expect("it listens");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                stream.write_all(request.as_bytes()).expect("it reads");
                Client::unanswered(stream)
            };
            // Each causes at least one line; ten thousand fill the queue and the socket.
            for _ in 0..2500 {
                assert!(send(&bad).read_head().starts_with("HTTP/1.1 426 "));
            }
            for _ in 0..50 {
                let mut client = send(&good);
                client.read_head();
                client.send(FIN | CLOSE, &1000_u16.to_be_bytes());
                client.read_to_end();
            }
        };
        let floods: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        while !floods.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let begun = Instant::now();
            session.echo(TEXT, b"unharmed");
            times.push(begun.elapsed());
        }
    });
    times.sort();
    assert!(times.len() >= 100, "too few to judge: {}", times.len());
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < Duration::from_millis(500), "{p99:?}");
    assert!(service.metric("wsecho_log_lost_total") > 0, "nothing was lost: this proves nothing");
    // Once it is read, the log consists of whole lines, and the service goes on logging.
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).map(|_| log)
    });
    drop(session);
    service.signal(Signal::TERM);
    assert_eq!(service.wait().0, 0);
    let log = reading.join().unwrap().unwrap();
    let is_line = |line: &str| [" INFO ", "DEBUG ", " WARN "].iter().any(|it| line.contains(it));
    assert!(log.ends_with('\n') && log.lines().all(is_line), "a line was torn");
    assert!(log.contains("listening on "), "{log}");
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_exit_either() {
    let (_reader, stderr) = UnixStream::pair().unwrap();
    let service = logging_into(stderr, "log.level = \"debug\"");
    for _ in 0..5000 {
        service.ask("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let begun = Instant::now();
    assert_eq!(service.stop().0, 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_log_whose_reader_is_gone_does_not_stop_the_service() {
    let (reader, stderr) = UnixStream::pair().unwrap();
    let service = logging_into(stderr, "");
    drop(reader);
    for n in 0..100 {
        let mut client = Client::open_from(next_client(), &service.addrs[0], "/echo");
        client.echo(TEXT, format!("{n}").as_bytes());
        client.send(FIN | CLOSE, &1000_u16.to_be_bytes());
        client.read_to_end();
    }
    service.reload();
    let mut client = Client::open(&service, "/echo");
    client.echo(TEXT, b"alive");
    wait_for("each lost line is counted", || service.metric("wsecho_log_lost_total") >= 100);
    drop(client);
    assert_eq!(service.stop().0, 0);
}

#[test]
fn a_log_on_a_full_disk_does_not_stop_the_service_and_is_counted() {
    let service = Service::start_with_admin("", |command| {
        command.stderr(std::fs::File::create("/dev/full").unwrap());
    });
    let before = service.metric("wsecho_log_lost_total");
    let mut client = Client::open(&service, "/echo");
    client.echo(TEXT, b"alive");
    client.send(FIN | CLOSE, &1000_u16.to_be_bytes());
    client.read_to_end();
    wait_for("the lost line is counted", || service.metric("wsecho_log_lost_total") > before);
    assert_eq!(service.stop().0, 0);
}
