//! Behind a proxy: who the client is, what is trusted, and what the wrong protocol is told.

use std::io::{Read, Write};
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use wsecho::net::addr::PeerAddr;

use crate::inside::{Inside, handshake, read_head, read_to_end};
use crate::service::{Service, upgrade};

const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn peer(addr: &str) -> PeerAddr {
    PeerAddr::Tcp(addr.parse::<SocketAddr>().unwrap())
}

/// A handshake with these headers added.
fn with(headers: &[&str]) -> String {
    let mut lines = headers.to_vec();
    lines.push("Upgrade: websocket");
    handshake("/socket").replace("Upgrade: websocket", &lines.join("\r\n"))
}

/// The status a peer gets for these bytes.
async fn status(inside: &Inside, from: PeerAddr, bytes: &[u8]) -> u16 {
    let (mut client, _) = inside.connect_from(from, 1 << 20, false);
    client.write_all(bytes).await.unwrap();
    let head = read_head(&mut client).await;
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap()
}

/// The whole answer to a local peer.
async fn answer(inside: &Inside, bytes: &[u8]) -> String {
    let mut client = inside.connect();
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    read_to_end(&mut client).await
}

#[tokio::test(start_paused = true)]
async fn the_wrong_protocol_is_named_and_counted() {
    let inside = Inside::new("");
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01\0\x01\0\x02GET / HTTP";
    let cases: [(&[u8], &str, &str); 4] = [
        (b"\x16\x03\x01\x00\xa5\x01", "tls_spoken", "not `https://`"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2_spoken", "HTTP/1.1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "proxy_protocol_unexpected", "\"required\""),
        (v2, "proxy_protocol_unexpected", "send-proxy"),
    ];
    for (index, (bytes, reason, sentence)) in cases.into_iter().enumerate() {
        let said = answer(&inside, bytes).await;
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{said}");
        assert!(said.contains(sentence), "{sentence} in {said}");
        let name = format!("wsecho_handshakes_refused_total{{reason=\"{reason}\"}}");
        let before = cases[..index].iter().filter(|case| case.1 == reason).count() as u64;
        assert_eq!(inside.metric(&name), before + 1, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_required_proxy_header_may_come_in_pieces_and_may_not_be_missing() {
    let inside = Inside::new("proxy.proxy_protocol = \"required\"");
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec();
    let request = handshake("/socket");
    for header in [&v1[..], V2_LOCAL] {
        let bytes = [header, request.as_bytes()].concat();
        for cut in [0, 1, 5, header.len() - 1, header.len(), header.len() + 1] {
            let (mut client, _) = inside.connect_from(PeerAddr::Unix, 1 << 20, false);
            client.write_all(&bytes[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            client.write_all(&bytes[cut..]).await.unwrap();
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 101 "), "cut at {cut}: {head}");
        }
    }
    for (bytes, label) in [
        (request.as_bytes().to_vec(), "proxy_protocol_missing"),
        (b"PROXY TCP4 192.0.2.1 nonsense\r\n".to_vec(), "proxy_protocol_malformed"),
        ([&v1[..], &v1[..]].concat(), "proxy_protocol_doubled"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), "proxy_protocol_too_long"),
    ] {
        let said = answer(&inside, &bytes).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
        let remedy = match label {
            "proxy_protocol_missing" => "make the proxy send one",
            "proxy_protocol_malformed" => "belongs to no address or port: make sure that only",
            "proxy_protocol_doubled" => "only the nearest proxy may send one",
            _ => "send fewer optional fields",
        };
        assert!(said.contains(remedy), "{remedy} in {said}");
        let name = format!("wsecho_handshakes_refused_total{{reason=\"{label}\"}}");
        assert_eq!(inside.metric(&name), 1, "{label}");
    }
    let stranger = peer("198.51.100.1:5");
    assert_eq!(status(&inside, stranger, &[&v1[..], request.as_bytes()].concat()).await, 400);
    let name = "wsecho_handshakes_refused_total{reason=\"proxy_protocol_untrusted\"}";
    assert_eq!(inside.metric(name), 1);
}

#[tokio::test(start_paused = true)]
async fn half_a_proxy_header_does_not_extend_the_deadline_of_the_request() {
    let config = "proxy.proxy_protocol = \"required\"\ntimeouts.handshake = \"3s\"";
    let inside = Inside::new(config);
    let start = tokio::time::Instant::now();
    let mut client = inside.connect();
    client.write_all(b"PROXY TCP4 192.0.2.1").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, "");
    assert_eq!(start.elapsed().as_secs(), 3);
    let mut client = inside.connect();
    client.write_all(V2_LOCAL).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    read_to_end(&mut client).await;
    assert_eq!(start.elapsed().as_secs(), 6, "the header buys no time for the request");
}

#[tokio::test(start_paused = true)]
async fn pages_of_other_sites_are_refused_by_the_host_the_client_asked_for() {
    let inside = Inside::new("origins = \"same-host\"");
    let local = peer("127.0.0.1:5");
    let forwarded = "X-Forwarded-Host: echo.example";
    let cases: [(&[&str], u16); 5] = [
        (&["Origin: https://server.example.com"], 101),
        (&["Origin: https://evil.example"], 403),
        (&["Origin: https://echo.example", forwarded, "X-Forwarded-For: 192.0.2.1"], 101),
        (&["Origin: null"], 403),
        (&[], 101),
    ];
    for (headers, expected) in cases {
        assert_eq!(status(&inside, local, with(headers).as_bytes()).await, expected, "{headers:?}");
    }
    let stranger = peer("198.51.100.1:5");
    let spoofed = with(&["Origin: https://evil.example", "X-Forwarded-Host: evil.example"]);
    assert_eq!(
        status(&inside, stranger, spoofed.as_bytes()).await,
        403,
        "the header is not trusted"
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_lost_by_the_proxy_is_diagnosed_where_origins_are_checked() {
    let inside = Inside::new("origins = \"same-host\"");
    let lost = with(&["Origin: https://echo.example", "X-Forwarded-For: 192.0.2.1"])
        .replace("server.example.com", "127.0.0.1:8888");
    let said = answer(&inside, lost.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 403 "), "{said}");
    assert!(said.contains("\n    proxy_set_header Host $http_host;\n"), "{said}");
    assert!(said.contains("(host_lost)"), "{said}");
    let direct = lost.replace("X-Forwarded-For: 192.0.2.1\r\n", "");
    let said = answer(&inside, direct.as_bytes()).await;
    assert!(!said.contains("proxy"), "no proxy to blame: {said}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_the_client_itself_named_is_not_lost() {
    let forwarded = "X-Forwarded-For: 192.0.2.1";
    let named = |host: &str| {
        with(&["Origin: https://echo.example", forwarded]).replace("server.example.com", host)
    };
    let inside = Inside::new("origins = \"same-host\"");
    inside.listens_on([8888]);
    let verdict = async |inside: &Inside, request: &str| {
        let said = answer(inside, request.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 403 "), "{said}");
        said.contains("(host_lost)")
    };
    assert!(verdict(&inside, &named("127.0.0.1:8888")).await);
    for host in ["localhost:8080", "localhost", "192.0.2.7", "intranet:8080"] {
        assert!(!verdict(&inside, &named(host)).await, "{host}");
    }
    let listed = Inside::new("origins = [\"https://www.example.com\"]");
    assert!(!verdict(&listed, &named("127.0.0.1:8888")).await, "Host is not what was compared");
    let passed_on = Inside::new("origins = \"same-host\"\nproxy.proxy_protocol = \"required\"");
    let request = named("127.0.0.1:8888").replace(&format!("{forwarded}\r\n"), "");
    let request = format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{request}");
    assert!(!verdict(&passed_on, &request).await, "a proxy of bytes replaces nothing");
}

#[tokio::test(start_paused = true)]
async fn a_refused_page_is_told_what_its_origin_was_compared_with() {
    let same_host = Inside::new("origins = \"same-host\"");
    let listed = Inside::new("origins = [\"null\", \"https://www.example.com\"]");
    let cases: [(&Inside, &[&str], &str); 3] = [
        (&same_host, &["Origin: https://evil.example"], "compared with Host"),
        (
            &same_host,
            &["Origin: https://evil.example", "X-Forwarded-Host: echo.example"],
            "named in X-Forwarded-Host",
        ),
        (&listed, &["Origin: https://evil.example"], "not in the list"),
    ];
    for (inside, headers, sentence) in cases {
        let said = answer(inside, with(headers).as_bytes()).await;
        assert!(said.contains(sentence) && !said.contains("evil"), "{sentence} in {said}");
    }
    assert_eq!(status(&listed, PeerAddr::Unix, with(&["Origin: null"]).as_bytes()).await, 101);
}

#[test]
fn the_log_names_the_path_of_a_handshake_that_misses_the_endpoints() {
    let mut service = Service::start("");
    service.ask(&handshake("/ws/%3Cb%3E/socket"));
    let line = service.log_line("reason=no_endpoint");
    assert!(line.contains(" path=/ws/%3Cb%3E/socket "), "{line}");
    assert!(line.contains("/socket is probably meant"), "{line}");
}

#[test]
fn the_log_says_which_host_an_origin_was_compared_with() {
    let mut service = Service::start("origins = \"same-host\"");
    service.ask(&with(&["Origin: https://evil.example"]));
    let line = service.log_line("reason=origin");
    assert!(line.contains("origin=https://evil.example host=server.example.com"), "{line}");
}

const FAULTS: &str = "wsecho_proxy_faults_total";

/// What is left of a handshake behind a proxy that drops `Upgrade`.
fn broken(client: &str) -> String {
    with(&[&format!("X-Forwarded-For: {client}")]).replace("Upgrade: websocket\r\n", "")
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_breaks_handshakes_is_counted_once_for_each_client() {
    let inside = Inside::new("");
    let local = peer("127.0.0.1:5");
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"] {
        assert_eq!(status(&inside, local, broken(client).as_bytes()).await, 426);
    }
    assert_eq!(inside.metric(&format!("{FAULTS}{{reason=\"proxy_upgrade_lost\"}}")), 4);
    assert_eq!(status(&inside, local, b"\x16\x03\x01\0\xa5\x01").await, 400);
    assert_eq!(inside.metric(&format!("{FAULTS}{{reason=\"tls_spoken\"}}")), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_cannot_feign_the_fault_of_a_proxy() {
    let inside = Inside::new("");
    let (local, stranger) = (peer("127.0.0.1:5"), peer("198.51.100.1:5"));
    // Directly, whatever it names.
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert_eq!(status(&inside, stranger, broken(client).as_bytes()).await, 426);
        assert_eq!(status(&inside, stranger, b"\x16\x03\x01\0\xa5\x01").await, 400);
    }
    // Through a proxy that works: its own address is appended.
    for _ in 0..3 {
        let request = broken("192.0.2.66, 198.51.100.1");
        assert_eq!(status(&inside, local, request.as_bytes()).await, 426);
    }
    assert_eq!(inside.metric(&format!("{FAULTS}{{reason=\"proxy_upgrade_lost\"}}")), 1);
    // And with many addresses, while others get through.
    let good = with(&["X-Forwarded-For: 203.0.113.1"]);
    assert_eq!(status(&inside, local, good.as_bytes()).await, 101);
    for host in 1..20 {
        let request = broken(&format!("203.0.113.{host}"));
        assert_eq!(status(&inside, local, request.as_bytes()).await, 426);
    }
    assert_eq!(inside.metric(&format!("{FAULTS}{{reason=\"proxy_upgrade_lost\"}}")), 1);
    // Through a proxy of bytes, which cannot break a handshake.
    let inside = Inside::new("proxy.proxy_protocol = \"required\"");
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    for rest in
        [with(&[]).replace("Upgrade: websocket\r\n", ""), "\x16\x03\x01".into(), header.into()]
    {
        let said = answer(&inside, format!("{header}{rest}").as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert!(!inside.metrics().contains(&format!("{FAULTS}{{")), "{}", inside.metrics());
}

#[tokio::test(start_paused = true)]
async fn a_client_must_send_an_origin_where_one_is_required() {
    let inside = Inside::new("require_origin = true");
    assert_eq!(status(&inside, PeerAddr::Unix, with(&[]).as_bytes()).await, 403);
    let named = with(&["Origin: https://anything.example"]);
    assert_eq!(status(&inside, PeerAddr::Unix, named.as_bytes()).await, 101);
}

#[tokio::test(start_paused = true)]
async fn a_client_at_its_quota_does_not_affect_other_clients() {
    let inside = Inside::new("limits.max_connections_per_client = 2");
    let open = async |from: PeerAddr, client: &str| {
        let (mut stream, end) = inside.connect_from(from, 1 << 20, false);
        let request = with(&[&format!("X-Forwarded-For: {client}")]);
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        (head.split(' ').nth(1).map(str::to_owned).unwrap(), stream, end)
    };
    let proxy = peer("127.0.0.1:5");
    let one = open(proxy, "192.0.2.1").await;
    let two = open(proxy, "192.0.2.1").await;
    assert_eq!((one.0.as_str(), two.0.as_str()), ("101", "101"));
    assert_eq!(open(proxy, "192.0.2.1").await.0, "429");
    assert_eq!(open(proxy, "192.0.2.2").await.0, "101", "another client of the same proxy");
    drop(one.1);
    one.2.await;
    while inside.metric("wsecho_sessions") > 1 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(open(proxy, "192.0.2.1").await.0, "101", "its quota is free again");

    let direct = peer("198.51.100.1:5");
    let silent =
        [inside.connect_from(direct, 1024, false), inside.connect_from(direct, 1024, false)];
    tokio::task::yield_now().await;
    assert_eq!(
        open(direct, "192.0.2.9").await.0,
        "429",
        "a direct client counts as soon as it is accepted"
    );
    drop(silent);
}

#[test]
fn the_log_names_the_client_and_the_trusted_peer_that_reported_it() {
    let mut service = Service::start("log.level = \"debug\"");
    let mut stream = service.connect();
    stream.write_all(with(&["X-Forwarded-For: 198.51.100.7, 192.0.2.1"]).as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    service.log_line("client resolved");
    drop(stream);
    let line = service.log_line("session ended");
    assert!(line.contains("client=192.0.2.1 via=127.0.0.1:"), "{line}");
}

#[test]
fn a_refused_origin_is_escaped_in_the_log() {
    let mut service = Service::start("origins = []");
    service.ask(&with(&["Origin: https://evil.example/\t<3>x"]));
    let line = service.log_line("reason=origin");
    assert!(line.contains("https://evil.example/\\t<3>x"), "{line}");
}

#[test]
fn a_peer_causes_one_line_of_each_kind_and_the_rest_are_counted() {
    let mut service = Service::start_with_admin("", |_| ());
    for _ in 0..5 {
        service.ask("GET /socket HTTP/1.1\r\nHost: a\r\n\r\n");
        service.ask("\x16\x03\x01 hello");
    }
    let count = |kind, label, value| format!("wsecho_{kind}_total{{{label}=\"{value}\"}}");
    for reason in ["no_websocket", "tls_spoken"] {
        assert_eq!(service.metric(&count("handshakes_refused", "reason", reason)), 5);
        assert_eq!(service.metric(&count("log_suppressed", "kind", reason)), 4);
    }
    service.log_line("reason=no_websocket");
    let (_, log) = service.stop();
    for reason in ["no_websocket", "tls_spoken"] {
        assert_eq!(log.matches(&format!("reason={reason}")).count(), 1, "{log}");
    }
}

#[test]
fn the_admin_listener_serves_metrics_and_health_to_the_end_and_no_endpoints() {
    let service = Service::start_with_admin("shutdown.drain_spread = \"5s\"", |_| ());
    let mut session = service.open("/echo");
    let metrics = service.admin("/metrics");
    assert!(metrics.contains("Content-Type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nwsecho_sessions 1\n"), "{metrics}");
    assert!(metrics.contains("\nwsecho_handshake_duration_seconds_count 1\n"), "{metrics}");
    assert!(service.admin("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(service.admin("/echo").starts_with("HTTP/1.1 404 "));
    for (path, status) in [("/healthz", 200), ("/metrics", 200), ("/", 200), ("/echo", 405)] {
        let mut stream = service.connect_admin();
        write!(stream, "OPTIONS {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{path}: {answer}");
        assert!(answer.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), "{path}: {answer}");
    }
    assert!(service.ask("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(!service.admin("/metrics").contains("wsecho_messages_total 1"));
    crate::service::echo(&mut session, "hello");
    // A turn is counted when it is over, which may be after the client has read its echo.
    crate::faults::measure::wait_for("the message is counted", || {
        service.admin("/metrics").contains("\nwsecho_messages_total 1\n")
    });
    let bytes = "wsecho_bytes_total{direction=\"out\"}";
    assert_eq!(service.metric(bytes), 5);
    service.reload();
    assert_eq!(service.metric("wsecho_config_reloads_total{result=\"ok\"}"), 1);
    // A message in progress holds up the drain.
    let stream = session.get_mut();
    stream.write_all(&[0x01, 0x81, 0, 0, 0, 0, b'x']).unwrap();
    service.signal(rustix::process::Signal::TERM);
    while !service.state().contains("STOPPING=1") {}
    assert!(service.admin("/healthz").starts_with("HTTP/1.1 503 "));
    stream.write_all(&[0x80, 0x81, 0, 0, 0, 0, b'y']).unwrap();
    while session.read().is_ok() {}
    let (code, _) = service.wait();
    assert_eq!(code, 0);
}

#[test]
fn peers_on_a_unix_socket_are_trusted() {
    let service = Service::start_in(|dir| format!("bind = \"unix:{}/w.sock\"", dir.display()));
    let stream = crate::service::connect_unix(&service.dir.path().join("w.sock"));
    upgrade(stream, "/echo");
}
