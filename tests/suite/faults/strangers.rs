//! Clients that claim to be others, come from other sites' pages, or take more than their share.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::client::Client;
use super::measure::wait_for;
use crate::engine::support::{CLOSE, FIN, TEXT};
use crate::inside::handshake;
use crate::service::{PATIENCE, Service};

/// Connects from this loopback address.
fn connect_from(service: &Service, source: [u8; 4]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::from(source), 0)).into()).expect("a loopback address");
    let addr: SocketAddr = service.addrs[0].parse().expect("a TCP address");
    socket.connect(&addr.into()).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.into()
}

fn with(headers: &str) -> String {
    handshake("/echo").replace("Upgrade: websocket", &format!("{headers}\r\nUpgrade: websocket"))
}

/// Sends bytes, and returns the status of the answer.
fn status(mut stream: TcpStream, bytes: &[u8]) -> (u16, Client) {
    stream.write_all(bytes).expect("it reads");
    let mut client = Client::unanswered(stream);
    let head = client.read_head();
    (head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status"), client)
}

/// Ends a session, and returns the client that its log line names.
fn named(service: &mut Service, mut client: Client) -> String {
    client.send(FIN | CLOSE, &1000_u16.to_be_bytes());
    client.read_to_end();
    let line = service.log_line("session ended");
    service.forget_log();
    let (_, rest) = line.split_once(" client=").expect("a client");
    rest.split(' ').next().expect("its address").to_owned()
}

#[test]
fn only_pages_of_allowed_origins_open_a_websocket() {
    let list = "origins = [\"https://a.example\", \"http://b.example:8080\"]";
    let cases: [(&str, u16); 12] = [
        ("https://a.example", 101),
        ("http://b.example:8080", 101),
        // No browser sends these two.
        ("HTTPS://A.EXAMPLE", 403),
        ("https://a.example:443", 403),
        ("http://a.example", 403),
        ("https://a.example:444", 403),
        ("https://a.example.evil.example", 403),
        ("https://evil.example/https://a.example", 403),
        ("https://a.example@evil.example", 403),
        ("https://evila.example", 403),
        ("http://b.example", 403),
        ("null", 403),
    ];
    let service = Service::start(list);
    for (origin, expected) in cases {
        let request = with(&format!("Origin: {origin}"));
        assert_eq!(status(service.connect(), request.as_bytes()).0, expected, "{origin}");
    }
    assert_eq!(status(service.connect(), with("X: none").as_bytes()).0, 101, "no browser");
    let service = Service::start(&format!("require_origin = true\n{list}"));
    assert_eq!(status(service.connect(), with("X: none").as_bytes()).0, 403);
}

#[test]
fn forwarded_addresses_are_believed_from_trusted_peers_only() {
    let mut service = Service::start("proxy.trusted = [\"127.0.0.8\"]");
    let proxy = [127, 0, 0, 8];
    for (source, said, believed) in [
        (proxy, "192.0.2.1", "192.0.2.1"),
        (proxy, "198.51.100.9, 192.0.2.1", "192.0.2.1"),
        (proxy, "198.51.100.9, 192.0.2.1, 127.0.0.8", "192.0.2.1"),
        ([127, 0, 0, 9], "192.0.2.1", "127.0.0.9:"),
    ] {
        let request = with(&format!("X-Forwarded-For: {said}"));
        let (status, client) = status(connect_from(&service, source), request.as_bytes());
        assert_eq!(status, 101);
        let named = named(&mut service, client);
        assert!(named.starts_with(believed), "{said} from {source:?}: {named}");
    }
}

#[test]
fn a_proxy_header_may_be_split_anywhere_and_is_believed_from_trusted_peers_only() {
    let config = "proxy.proxy_protocol = \"required\"\nproxy.trusted = [\"127.0.0.8\"]";
    let mut service = Service::start(config);
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec();
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02".to_vec();
    for header in [v1, v2] {
        let bytes = [&header[..], handshake("/echo").as_bytes()].concat();
        for cut in 0..=header.len() {
            // Few lines are logged about one client in a second: the last number of its address
            // changes, and is at the same position in both versions.
            let mut bytes = bytes.clone();
            bytes[19] += if cut < header.len() { (cut % 8) as u8 } else { 0 };
            let mut stream = connect_from(&service, [127, 0, 0, 8]);
            stream.set_nodelay(true).unwrap();
            stream.write_all(&bytes[..cut]).unwrap();
            let (status, client) = status(stream, &bytes[cut..]);
            assert_eq!(status, 101, "cut at {cut}");
            if cut == header.len() {
                assert!(named(&mut service, client).starts_with("192.0.2.1"));
            } else {
                drop(client);
                service.log_line("session ended");
                service.forget_log();
            }
        }
        let stranger = connect_from(&service, [127, 0, 0, 9]);
        assert_eq!(status(stranger, &bytes).0, 400);
    }
    let bare = connect_from(&service, [127, 0, 0, 8]);
    assert_eq!(status(bare, handshake("/echo").as_bytes()).0, 400, "the header is required");
}

#[test]
fn a_client_at_its_quota_does_not_keep_other_addresses_from_being_served() {
    let config = "limits.max_connections_per_client = 5\nproxy.trusted = [\"127.0.0.8\"]";
    let service = Service::start(config);
    let plain = handshake("/echo");
    let taken: Vec<_> = (0..5)
        .map(|_| {
            let (status, client) = status(connect_from(&service, [127, 0, 0, 2]), plain.as_bytes());
            assert_eq!(status, 101);
            client
        })
        .collect();
    let mut refused = connect_from(&service, [127, 0, 0, 2]);
    refused.write_all(plain.as_bytes()).unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nRetry-After: "),
        "{answer}"
    );
    // Another address, and two clients of one proxy, whose own address does not count.
    let mut other = status(connect_from(&service, [127, 0, 0, 3]), plain.as_bytes()).1;
    other.echo(TEXT, b"served");
    let proxied = |client: &str| {
        let request = with(&format!("X-Forwarded-For: {client}"));
        status(connect_from(&service, [127, 0, 0, 8]), request.as_bytes())
    };
    let held: Vec<_> = (0..5).map(|_| proxied("192.0.2.1")).collect();
    assert!(held.iter().all(|(status, _)| *status == 101));
    assert_eq!(proxied("192.0.2.1").0, 429);
    assert_eq!(proxied("192.0.2.2").0, 101);
    drop(taken);
    wait_for("the quota is free again", || {
        status(connect_from(&service, [127, 0, 0, 2]), plain.as_bytes()).0 == 101
    });
}
