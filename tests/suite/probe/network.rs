//! Before the request: names, addresses, Unix sockets, PROXY headers and HTTP proxies.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::peer::{Peer, serve, value};
use super::{probe, shown, verdict};
use crate::service::{Outcome, Service};

/// The failures that are tested here. A firewall that drops packets is in tests/faults' namespace, and
/// what getaddrinfo(3) says when no resolver answers depends on the host.
pub const LABELS: &[&str] = &[
    "no_such_name",
    "no_address",
    "resolver_failed",
    "tcp_refused",
    "tcp_timeout",
    "tcp_unreachable",
    "tcp_failed",
    "unix_missing",
    "unix_denied",
    "proxy_unreachable",
    "proxy_auth",
    "proxy_refused",
    "proxy_broken",
];

/// A port on which nothing listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port()
}

#[test]
fn a_port_without_a_listener_is_refused() {
    let port = closed_port();
    let outcome = Outcome::of(&mut probe(&[&format!("ws://127.0.0.1:{port}/")]));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (1, ""));
    assert_eq!(
        shown(&outcome, port),
        "\
ws://127.0.0.1:PORT/
  - resolve              not needed: an address
  ✗ tcp T ms  127.0.0.1:PORT: connection refused

127.0.0.1:PORT refused the connection.
The host is up, but nothing listens on this port, or a firewall rejects the connection.
Run `ss -ltn` on the server: something must listen on this port, and not only on 127.0.0.1.

(tcp_refused)
"
    );
}

#[test]
fn a_name_that_does_not_exist_and_a_family_without_addresses_are_told_apart() {
    let (code, text) = verdict(&["-6", "ws://127.0.0.1/"], 80);
    assert_eq!(code, 1);
    assert!(
        text.ends_with("127.0.0.1 has no IPv6 address, only 127.0.0.1. (no_address)"),
        "{text}"
    );
    // By RFC 6761 it exists nowhere; without a resolver nobody knows.
    let (code, text) = verdict(&["ws://wsecho.invalid/"], 80);
    assert_eq!(code, 1);
    let said = text.strip_prefix("ws://wsecho.invalid/: wsecho.invalid cannot be resolved: ");
    assert!(
        matches!(
            said,
            Some(
                "Name or service not known. (no_such_name)"
                    | "Temporary failure in name resolution. (resolver_failed)"
            )
        ),
        "{text}"
    );
}

#[test]
fn a_listener_that_accepts_nothing_more_is_a_timeout() {
    let (_full, held) = dropping((Ipv4Addr::LOCALHOST, 0).into());
    let addr = held.peer_addr().expect("connected");
    let (code, text) = verdict(&["-t", "700ms", &format!("ws://{addr}/")], addr.port());
    let expected =
        "ws://127.0.0.1:PORT/: 127.0.0.1:PORT did not answer within 0.7 s. (tcp_timeout)";
    assert_eq!((code, &*text), (1, expected));
}

/// An address that drops packets from now on: a backlog of 0 holds one connection.
fn dropping(addr: SocketAddr) -> (Socket, TcpStream) {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    socket.bind(&addr.into()).expect("the port is free");
    socket.listen(0).expect("it listens");
    let addr = socket.local_addr().expect("bound").as_socket().expect("an address");
    let held = TcpStream::connect(addr).expect("one is held");
    (socket, held)
}

#[test]
fn addresses_that_drop_packets_leave_the_other_family_its_time() {
    let port = serve(|peer| {
        peer.accept("");
        peer.echo_but(|_, _, _, _| false);
    });
    let _dropping = dropping((Ipv6Addr::LOCALHOST, port).into());
    let args = ["--timeout=3s", "--resolve=a.test:::1", "--resolve=a.test:127.0.0.1"];
    let url = format!("ws://a.test:{port}/");
    let outcome =
        Outcome::of(&mut probe(&[&args[..], &["--format=nagios", "--warn=tcp=1s", &url]].concat()));
    let text = shown(&outcome, port);
    let warning = "IPv6 does not work ([::1]:PORT: no answer)";
    assert!(text.contains(warning), "{text}");
    // Of the time of its own family only.
    assert_eq!(outcome.code(), 0, "{text}");
}

#[test]
fn a_server_that_gives_a_request_little_time_is_not_kept_waiting_for_the_other_family() {
    let port = serve(|peer| {
        if peer.is_silent(Duration::from_secs(1)) {
            peer.say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n");
            return peer.linger();
        }
        peer.accept("");
        peer.echo_but(|_, _, _, _| false);
    });
    let _dropping = dropping((Ipv6Addr::LOCALHOST, port).into());
    let args = ["--timeout=4s", "--resolve=a.test:::1", "--resolve=a.test:127.0.0.1"];
    let url = format!("ws://a.test:{port}/");
    let load = ["--format=json", "--load=1", &url];
    let outcome = Outcome::of(&mut probe(&[&args[..], &load].concat()));
    assert_eq!(outcome.code(), 0, "{}", outcome.stdout);
    let found: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let opening = found["probes"][0]["load"]["handshakes_seconds"].as_f64().expect("a time");
    assert!(opening < 1.5, "the family that does not work is not tried again: {opening} s");
}

#[test]
fn an_address_without_a_route_is_unreachable() {
    // In a network namespace of its own there is not even loopback.
    let script = "exec unshare --user --map-root-user --net \"$0\" probe -q ws://192.0.2.1/";
    let mut shell = std::process::Command::new("sh");
    let outcome = Outcome::of(shell.args(["-c", script, env!("CARGO_BIN_EXE_wsecho")]));
    if outcome.stderr.contains("unshare") {
        eprintln!("SKIPPED: no network namespace: {}", outcome.stderr);
        return;
    }
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    let expected = "ws://192.0.2.1/: 192.0.2.1:80: network is unreachable. (tcp_unreachable)\n";
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn an_address_that_cannot_be_connected_to_is_named_with_the_systems_error() {
    // TCP connects to no broadcast address.
    let (code, text) = verdict(&["ws://255.255.255.255:9/"], 9);
    assert_eq!(code, 1);
    let ends = ["(tcp_failed)", "(tcp_unreachable)"];
    assert!(ends.iter().any(|end| text.ends_with(end)), "{text}");
}

#[test]
fn a_family_that_does_not_work_is_a_warning() {
    let port = serve(|peer| {
        peer.accept("");
        peer.echo_but(|_, _, _, _| false);
    });
    let args = ["--resolve=a.test:::1", "--resolve=a.test:127.0.0.1"];
    let url = format!("ws://a.test:{port}/");
    let outcome = Outcome::of(&mut probe(&[&args[..], &[&url]].concat()));
    let text = shown(&outcome, port);
    assert_eq!(outcome.code(), 0, "{text}");
    let Some((_, warning)) = text.split_once("\nWarning: IPv6 does not work ([::1]:PORT: ") else {
        panic!("{text}");
    };
    assert!(warning.ends_with(").\n"), "{text}");
    assert!(text.contains(" ms  127.0.0.1:PORT ([::1]:PORT: "), "{text}");
}

/// A host that has no IPv6 connects to no AAAA record's address, which is nobody's fault.
#[test]
fn a_family_that_this_host_does_not_have_is_no_warning() {
    // In a network namespace of its own, where there are only loopback addresses.
    let script = r#"
        ip link set lo up || exit 77
        "$0" serve --bind 127.0.0.1:1 >&2 & service=$!
        trap 'kill $service' EXIT
        for _ in $(seq 500); do ss -ltnH | grep -q . && break; sleep 0.02; done
        "$0" probe --resolve=a.test:2001:db8::1 --resolve=a.test:127.0.0.1 ws://a.test:1/echo
        code=$?
        "$0" probe -q -6 --resolve=a.test:2001:db8::1 ws://a.test:1/echo
        exit $code
    "#;
    let args = ["--user", "--map-root-user", "--net", "sh", "-c", script];
    let mut unshare = std::process::Command::new("unshare");
    let outcome = Outcome::of(unshare.args(args).arg(env!("CARGO_BIN_EXE_wsecho")));
    if outcome.code() == 77 || outcome.stderr.contains("unshare") {
        eprintln!("SKIPPED: no network namespace: {}", outcome.stderr);
        return;
    }
    let (code, text) = (outcome.code(), outcome.stdout);
    assert_eq!(code, 0, "{text}{}", outcome.stderr);
    assert!(text.contains("127.0.0.1:1 ([2001:db8::1]:1: network is unreachable)"), "{text}");
    assert!(!text.contains("Warning"), "{text}");
    let end = "[2001:db8::1]:1: network is unreachable. (tcp_unreachable)\n";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn unix_sockets_are_probed_and_their_faults_told_apart() {
    let service = Service::start_in(|dir| format!("bind = \"unix:{}/s\"", dir.display()));
    let path = service.dir.path().join("s");
    let path = path.to_str().expect("UTF-8");
    let (code, text) = verdict(&["--unix", path, "ws://echo.example/socket"], 80);
    assert_eq!(code, 0, "{text}");
    let dir = tempfile::tempdir().expect("a folder");
    let gone = dir.path().join("gone");
    drop(UnixListener::bind(&gone).expect("a socket"));
    let none = dir.path().join("none");
    for (path, error) in [(&none, "no such file or directory"), (&gone, "connection refused")] {
        let path = path.to_str().expect("UTF-8");
        let (code, text) = verdict(&["--unix", path, "ws://a.test/"], 80);
        let expected = format!("ws://a.test/: {path}: {error}. (unix_missing)");
        assert_eq!((code, text), (1, expected));
    }
    let _listener = UnixListener::bind(&none).expect("a socket");
    fs::set_permissions(&none, fs::Permissions::from_mode(0o000)).expect("its owner");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its owner");
    let script = "exec setpriv --reuid=65534 --clear-groups --inh-caps=-all \"$0\" probe -q --unix \"$1\" ws://a.test/";
    let mut shell = std::process::Command::new("sh");
    let none = none.to_str().expect("UTF-8");
    let outcome = Outcome::of(shell.args(["-c", script, env!("CARGO_BIN_EXE_wsecho"), none]));
    if outcome.code() == 127 || outcome.stderr.contains("setpriv") || outcome.code() == 126 {
        eprintln!("SKIPPED: cannot become another user: {}", outcome.stderr);
        return;
    }
    let expected = format!("ws://a.test/: {none}: permission denied. (unix_denied)\n");
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
}

#[test]
fn wsecho_behind_a_required_proxy_header_is_healthy_with_one_and_says_what_is_missing_without() {
    let config = "[proxy]\nproxy_protocol = \"required\"\ntrusted = [\"127.0.0.1\"]";
    let service = Service::start(config);
    let url = format!("ws://{}/socket", service.addrs[0]);
    for version in ["v1", "v2"] {
        let (code, text) = verdict(&["--proxy-protocol", version, &url], 0);
        assert_eq!(code, 0, "{text}");
    }
    let outcome = Outcome::of(&mut probe(&[&url]));
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stdout.contains("there is no PROXY header"), "{}", outcome.stdout);
}

/// An HTTP proxy that connects to nothing but itself: behind the tunnel it is the echo.
fn tunnel(peer: &mut Peer) {
    let head = peer.head();
    assert!(head.starts_with("CONNECT echo.test:81 HTTP/1.1\r\n"), "{head}");
    assert_eq!(value(&head, "Host"), "echo.test:81");
    // "me:pass" in base64.
    assert_eq!(value(&head, "Proxy-Authorization"), "Basic bWU6cGFzcw==");
    peer.say("HTTP/1.1 200 Connection established\r\n\r\n");
    peer.accept("");
    peer.echo_but(|_, _, _, _| false);
}

#[test]
fn the_way_out_through_an_http_proxy_is_taken_from_the_option_or_the_environment() {
    let port = serve(tunnel);
    let proxy = format!("http://me:pass@127.0.0.1:{port}");
    let url = "ws://echo.test:81/";
    let outcome = Outcome::of(&mut probe(&["--proxy", &proxy, url]));
    let text = shown(&outcome, port);
    assert_eq!(outcome.code(), 0, "{text}");
    let line = " ms  127.0.0.1:PORT, through the HTTP proxy 127.0.0.1:PORT\n";
    assert!(text.contains(line), "{text}");
    let outcome =
        Outcome::of(&mut probe(&["-q", "--load=1", "--i-own-this", "--proxy", &proxy, url]));
    assert_eq!(outcome.code(), 0, "{}", outcome.stdout);
    let outcome = Outcome::of(probe(&["-q", url]).env("http_proxy", &proxy));
    assert_eq!(outcome.code(), 0, "{}", outcome.stdout);
    for (args, exempt) in [(&["--proxy=none"][..], ""), (&[][..], "echo.test")] {
        let mut command = probe(&[&["-q", "--resolve=echo.test:127.0.0.1"], args].concat());
        let closed = format!("ws://echo.test:{}/", closed_port());
        command.arg(closed).env("http_proxy", &proxy).env("no_proxy", exempt);
        let outcome = Outcome::of(&mut command);
        assert!(outcome.stdout.ends_with(" (tcp_refused)\n"), "{}", outcome.stdout);
    }
}

/// A label, the proxy that leads to it, and what is seen.
type Case = (&'static str, fn(&mut Peer), &'static str);

#[test]
fn each_fault_of_an_http_proxy_is_told_apart() {
    let cases: [Case; 7] = [
        (
            "proxy_auth",
            |peer| peer.answer("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
            "The HTTP proxy answered CONNECT a.test:80 with 407 Proxy Authentication Required.",
        ),
        (
            "proxy_refused",
            |peer| peer.answer("HTTP/1.1 403 Forbidden\r\n\r\n"),
            "The HTTP proxy answered CONNECT a.test:80 with 403 Forbidden.",
        ),
        (
            "proxy_refused",
            |peer| {
                peer.head();
                peer.say("HTTP/1.1 204 No Content\r\n\r\n");
                peer.wait();
            },
            "The HTTP proxy answered CONNECT a.test:80 with 204 No Content.",
        ),
        (
            "proxy_refused",
            |peer| {
                peer.head();
                peer.say("HTTP/1.1 101 Switching Protocols\r\n\r\n");
                peer.wait();
            },
            "The HTTP proxy answered CONNECT a.test:80 with 101 Switching Protocols.",
        ),
        ("proxy_broken", |peer| peer.answer("\x05\x01\x00"), "The answer to CONNECT is not HTTP."),
        (
            "proxy_broken",
            |peer| peer.answer(""),
            "The HTTP proxy closed the connection without answering CONNECT a.test:80.",
        ),
        ("proxy_broken", Peer::wait, "CONNECT a.test:80 was not answered in time."),
    ];
    for (label, server, seen) in cases {
        let port = serve(server);
        let proxy = format!("--proxy=http://127.0.0.1:{port}");
        let (code, text) = verdict(&["-t", "700ms", &proxy, "ws://a.test/"], port);
        assert_eq!((code, text), (1, format!("ws://a.test/: {seen} ({label})")));
    }
    let proxy = format!("--proxy=http://127.0.0.1:{}", closed_port());
    let (code, text) = verdict(&[&proxy, "ws://a.test/"], 80);
    assert!(code == 1 && text.ends_with("refused the connection. (proxy_unreachable)"), "{text}");
    let (code, text) = verdict(&["--proxy=http://proxy.invalid:1", "ws://a.test/"], 80);
    let begins =
        "ws://a.test/: The HTTP proxy cannot be reached: proxy.invalid cannot be resolved: ";
    assert!(code == 1 && text.starts_with(begins), "{text}");
    assert!(text.ends_with("(proxy_unreachable)"), "{text}");
}

#[test]
fn of_what_an_http_proxy_says_only_text_is_quoted() {
    for (kind, quote) in [
        ("text/html;charset=utf-8", ""),
        ("text/plain\r\nContent-Encoding: gzip", ""),
        ("Text/Plain", "  | <p>No & no.\n"),
    ] {
        let port = serve(move |peer| {
            peer.answer(&format!(
                "HTTP/1.1 403 Forbidden\r\nServer: squid/5.7\r\nContent-Type: {kind}\r\n\r\n<p>No & no."
            ));
        });
        let proxy = format!("--proxy=http://127.0.0.1:{port}");
        let outcome = Outcome::of(&mut probe(&[&proxy, "ws://a.test/"]));
        let quoted: String = outcome
            .stdout
            .lines()
            .filter(|it| it.starts_with("  |"))
            .map(|it| it.to_owned() + "\n")
            .collect();
        assert_eq!(quoted, quote, "{}", outcome.stdout);
    }
}

/// Only where it is for the target: a host may have SOCKS for others.
#[test]
fn a_proxy_of_the_environment_that_cannot_be_used_is_named() {
    let closed = format!("ws://a.test:{}/", closed_port());
    for (name, value, said) in [
        (
            "ALL_PROXY",
            "socks5h://me:secret@127.0.0.1:1",
            "ALL_PROXY=socks5h://…@127.0.0.1:1: only http:// proxies are supported",
        ),
        ("http_proxy", "https://127.0.0.1:1", "http_proxy=https://127.0.0.1:1: only http://"),
        ("HTTP_PROXY", "http://127.0.0.1:99999", ": the port is a number from 1 to 65535."),
        ("HTTP_PROXY", "127.0.0.1:99999", ": the port is a number from 1 to 65535."),
        ("HTTP_PROXY", "http://127.0.0.1:1#x", "a proxy has no path, query or fragment"),
        ("HTTP_PROXY", "http://:1", "HTTP_PROXY=http://:1: write http://HOST:PORT"),
        ("HTTP_PROXY", "http://a b", ": write http://HOST:PORT"),
        ("HTTP_PROXY", "ftp://127.0.0.1:1", "only http:// proxies are supported"),
    ] {
        let args = ["-q", "--resolve=a.test:127.0.0.1", &closed];
        let outcome = Outcome::of(probe(&args).env(name, value));
        assert_eq!(outcome.code(), 1, "{name}={value}");
        assert!(outcome.stdout.contains(said), "{name}={value}: {}", outcome.stdout);
        assert!(outcome.stdout.ends_with(" (proxy_broken)\n"), "{}", outcome.stdout);
        let mut exempt = probe(&args);
        exempt.env(name, value).env("NO_PROXY", "a.test");
        let outcome = Outcome::of(&mut exempt);
        assert!(outcome.stdout.ends_with(" (tcp_refused)\n"), "{}", outcome.stdout);
    }
    let address = format!("ws://127.0.0.1:{}/", closed_port());
    let mut all_exempt = probe(&["-q", &address]);
    let outcome = Outcome::of(all_exempt.env("ALL_PROXY", "socks5://a").env("NO_PROXY", "*"));
    assert!(outcome.stdout.ends_with(" (tcp_refused)\n"), "{}", outcome.stdout);
    let mut other = probe(&["-q", "--resolve=a.test:127.0.0.1", &closed]);
    let outcome = Outcome::of(other.env("HTTPS_PROXY", "socks5://127.0.0.1:1"));
    assert!(outcome.stdout.ends_with(" (tcp_refused)\n"), "{}", outcome.stdout);
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_to_write() {
    for (args, said) in [
        (&["http://a.test/x"][..], "write \"ws://a.test/x\""),
        (&["a.test"], "write \"wss://a.test\""),
        (&[], "<URL>"),
        (&["--timeout=0s", "ws://a.test"], "write 1ms to 1h"),
        (&["--timeout=5", "ws://a.test"], "such as \"10s\""),
        (&["--resolve=a.test", "ws://a.test"], "write HOST:IP"),
        (&["--header=X", "ws://a.test"], "write \"Name: value\""),
        (&["-H", "Sec-WebSocket-Protocol: x", "ws://a.test"], "--subprotocol"),
        (&["-H", "Sec-WebSocket-Extensions: x", "ws://a.test"], "permessage-deflate"),
        (&["--subprotocol=a b", "ws://a.test"], "a subprotocol is a token"),
        (&["--expect=(", "ws://a.test"], "invalid value '(' for '--expect <REGEX>'"),
        (&["--send=x", "ws://a.test"], "--expect <REGEX>"),
        (&["--proxy=socks5://x", "ws://a.test"], "only http:// proxies are supported"),
        (&["--proxy=h:3128", "ws://a.test"], "write http://HOST:PORT"),
        (&["--proxy=http://h:99999", "ws://a.test"], "the port is a number from 1 to 65535"),
        (&["--proxy=http://h:+80", "ws://a.test"], "the port is a number from 1 to 65535"),
        (&["--proxy=http://h:0", "ws://a.test"], "the port is a number from 1 to 65535"),
        (&["--proxy=http://:1", "ws://a.test"], "--proxy http://:1: write http://HOST:PORT"),
        (&["--proxy=http://h#x", "ws://a.test"], "a proxy has no path, query or fragment"),
        (&["--proxy=http://h/x", "ws://a.test"], "a proxy has no path, query or fragment"),
        (&["--proxy=http://[::1%25lo]:1", "ws://a.test"], "write http://HOST:PORT"),
        (&["-p", "80", "ws://a.test"], "write the address and the port in the URL"),
        (&["--address=a", "ws://a.test"], "write the address and the port in the URL"),
        (&["--bind=a", "ws://a.test"], "write the address and the port in the URL"),
        (&["--ca=/nonexistent", "ws://a.test"], "--ca /nonexistent: "),
        (&["--ca=/dev/null", "ws://a.test"], "no certificate in PEM form"),
        (&["--key=/dev/null", "ws://a.test"], "--cert <FILE>"),
        (&["-4", "-6", "ws://a.test"], "cannot be used with"),
        (&["--file=x", "ws://a.test"], "unexpected argument '--file'"),
    ] {
        let outcome = Outcome::of(&mut probe(args));
        assert_eq!(outcome.code(), 2, "{args:?}: {}", outcome.stdout);
        assert!(outcome.stderr.contains(said), "{args:?}: {}", outcome.stderr);
        let of_service =
            ["write '--bind", "write '--config"].iter().any(|it| outcome.stderr.contains(it));
        assert!(!of_service, "{args:?}: {}", outcome.stderr);
    }
}
