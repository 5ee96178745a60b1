//! Requests that never end, are too large, hide a second one, or hope to be reflected: what each
//! costs, and that there is one answer, which repeats nothing of the request.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tokio::time::Instant;
use wsecho::ws::session::FREE;

use super::client::Client;
use super::measure::{KIB, cpu, descriptors, memory, wait_for};
use crate::engine::support::TEXT;
use crate::inside::handshake;
use crate::service::Service;

/// Reads until the connection ends, one way or another, and returns what came.
fn read_until_cut(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(answer).expect("answers are text")
}

#[test]
fn a_client_that_does_not_finish_its_request_is_dropped_in_time_and_leaves_nothing() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let whole = handshake("/echo");
    for proxy in ["off", "required"] {
        let config = format!("timeouts.handshake = \"1s\"\nproxy.proxy_protocol = \"{proxy}\"");
        let service = Service::start(&config);
        let open = descriptors(&service);
        let begun = Instant::now();
        let starts: [&[u8]; 5] =
            [b"", b"G", &whole.as_bytes()[..40], b"PROXY TCP4 1", b"\r\n\r\n\0\r"];
        let mut quiet: Vec<_> = (starts.iter())
            .map(|start| {
                let mut stream = service.connect();
                stream.write_all(start).expect("it reads");
                stream
            })
            .collect();
        let mut dripping = service.connect();
        let head = if proxy == "off" { whole.as_str() } else { "PROXY TCP4 192.0.2.1 192.0.2.2" };
        for byte in head.bytes().cycle() {
            // Not a wait: this is how slow the client is.
            std::thread::sleep(Duration::from_millis(100));
            if dripping.write_all(&[byte]).is_err() {
                break;
            }
            assert!(begun.elapsed() < 10 * TIMEOUT, "it is not dropped");
        }
        for (stream, start) in quiet.iter_mut().zip(starts) {
            let answer = read_until_cut(stream);
            // What cannot be a request is answered at once.
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{start:?} {answer}");
        }
        let took = begun.elapsed();
        assert!(took >= TIMEOUT && took < 10 * TIMEOUT, "{took:?}");
        wait_for("all descriptors are closed", || descriptors(&service) <= open);
    }
}

#[test]
fn sixty_four_kib_of_headers_byte_by_byte_cost_little_and_are_refused() {
    // Long enough not to be what ends this request.
    let service = Service::start("timeouts.handshake = \"60s\"");
    // Leave out what only the very first request costs.
    service.ask("GET /healthz HTTP/1.0\r\n\r\n");
    let before = cpu(&service);
    let mut stream = service.connect();
    stream.set_nodelay(true).unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(64 * 1024));
    let _ = head.bytes().try_for_each(|byte| stream.write_all(&[byte]));
    let answer = read_until_cut(&mut stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let spent = cpu(&service).saturating_sub(before);
    assert!(spent < Duration::from_millis(200), "{spent:?} of CPU time");
}

/// So many bytes of a head that does not end.
fn unfinished(length: usize) -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
    head.resize(length, b'x');
    head
}

#[test]
fn unfinished_heads_cost_their_bytes_are_charged_and_given_back() {
    const HEADS: usize = 1000;
    const HEAD: usize = 15_900;
    let service = Service::start_with_admin("timeouts.handshake = \"60s\"\nworkers = 4", |_| ());
    let before = memory(&service);
    for _ in 0..3 {
        let mut clients: Vec<_> = (0..HEADS).map(|_| service.connect()).collect();
        for piece in unfinished(HEAD).chunks(700) {
            for client in &mut clients {
                client.write_all(piece).expect("it reads");
            }
        }
        let charged = HEADS * (HEAD - FREE);
        let used = || service.metric("wsecho_buffer_used_bytes");
        wait_for("all bytes are charged", || used() as usize >= charged);
        // What the workers allocate once is not the heads'.
        let most = HEADS * (HEAD + 2 * KIB) + 256 * KIB;
        let cost = memory(&service).saturating_sub(before);
        assert!(cost <= most, "{cost} bytes for {HEADS} heads");
        drop(clients);
        wait_for("nothing is charged any more", || used() == 0);
    }
}

#[test]
fn heads_wait_for_memory_while_the_budget_is_spent_and_small_ones_do_not() {
    let service = Service::start_with_admin(
        "limits.buffer_budget = \"1 MiB\"\ntimeouts.handshake = \"3s\"\nworkers = 4",
        |_| (),
    );
    let mut clients: Vec<_> = (0..400).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.write_all(&unfinished(15_900)).expect("the kernel takes it");
    }
    let used = || service.metric("wsecho_buffer_used_bytes");
    wait_for("the budget is spent", || used() >= 1 << 20);
    let mut session = Client::open(&service, "/echo");
    session.echo(TEXT, b"hello");
    // Each worker may exceed it by one read of 4 KiB.
    assert!(used() < (1 << 20) + 16 * 1024, "{}", used());
    for client in &mut clients {
        assert_eq!(read_until_cut(client), "");
    }
    wait_for("nothing is charged any more", || used() == 0);
}

#[test]
fn a_request_hidden_behind_a_bad_one_is_never_answered() {
    let service = Service::start("");
    let hidden = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let good = handshake("/echo");
    for bad in [
        handshake("/nowhere"),
        good.replace("n: 13", "n: 8"),
        good.replace("Upgrade: websocket\r\n", "Upgrade: h2c\r\n"),
        good.replace("Connection: Upgrade\r\n", ""),
        good.replace("Host:", &format!("Content-Length: {}\r\nHost:", hidden.len())),
        good.replace("Host:", "Transfer-Encoding: chunked\r\nHost:"),
        good.replace("Host:", "Host: b\r\nHost:"),
        good.replace("GET", "POST"),
        good.replace("HTTP/1.1", "HTTP/1.0"),
        hidden.to_owned(),
    ] {
        let answer = service.ask(&format!("{bad}{hidden}"));
        let heads = answer.lines().filter(|line| line.starts_with("HTTP/1.")).count();
        assert_eq!(heads, 1, "{bad}{answer}");
    }
}

#[test]
fn no_answer_repeats_anything_from_its_request() {
    let service = Service::start("origins = []");
    let good = handshake("/echo");
    for request in [
        "GET /mark?mark=%3Cmark HTTP/1.1\r\nHost: mark\r\nUser-Agent: mark\r\n\r\n".to_owned(),
        "MARK / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / MARK/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nMark\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "Mark: mark\r\n".repeat(100)),
        good.replace("Host:", "Origin: https://mark.example\r\nHost:"),
        good.replace("Host:", "Origin: null\r\nAccept: application/json\r\nX: mark\r\nHost:"),
        good.replace("Upgrade: websocket", "Upgrade: mark"),
        good.replace("n: 13", "n: mark"),
        good.replace("Host:", "X-Forwarded-For: mark\r\nOrigin: mark\r\nHost:"),
        "PROXY MARK mark\r\n".to_owned(),
        "\x16\x03\x01mark".to_owned(),
        "SSH-2.0-mark\r\n".to_owned(),
    ] {
        let answer = service.ask(&request).to_lowercase();
        assert!(answer.starts_with("http/1.1 4"), "{request}{answer}");
        assert!(!answer.contains("mark"), "{request}{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        for line in ["content-type: ", "x-content-type-options: nosniff"] {
            assert!(!body.is_empty() && head.contains(line), "{line} in {answer}");
        }
    }
}
