//! The configuration file: all findings at once, each with its position and its remedy.

mod check;
mod environment;

use std::time::Duration;

use wsecho::config::{Changes, Config, Overrides, parse};
use wsecho::net::addr::PeerAddr;
use wsecho::proxy::protocol::Expect;
use wsecho::ws::handshake::{Origins, Subprotocols};

use crate::launch::through_shell;
use crate::service::{Outcome, Service, echo, wsecho};

/// The findings of a file, as `line:column: message`.
fn findings(text: &str) -> Vec<String> {
    let found = parse(text).expect_err("this is wrong");
    found.iter().map(|it| format!("{}:{}: {}", it.line, it.column, it.message)).collect()
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn every_key_is_read() {
    let text = r#"
        bind = ["127.0.0.1:1", "unix:/run/w.sock"]
        workers = 2
        unix_mode = "0600"
        origins = ["https://example.com"]
        require_origin = true
        [[endpoint]]
        path = "/a"
        prefix = "> "
        subprotocols = ["chat", "mqtt"]
        [[endpoint]]
        path = "/b"
        subprotocols = "none"
        compression = false
        [limits]
        max_connections = 7
        max_message_size = "64 KiB"
        max_connections_per_client = 3
        buffer_budget = "1 MiB"
        [proxy]
        trusted = ["10.0.0.0/8"]
        proxy_protocol = "required"
        [admin]
        bind = "127.0.0.1:2"
        [timeouts]
        handshake = "1s 500ms"
        close = "2s"
        write = "3s"
        ping_interval = "4s"
        pong = "5s"
        [shutdown]
        drain_timeout = "9s"
        drain_spread = "1s"
        [log]
        level = "debug"
        format = "json"
    "#;
    let config = parse(text).unwrap();
    assert_eq!(config.boot.bind.len(), 2);
    assert_eq!((config.boot.workers, config.boot.unix_mode), (2, 0o600));
    assert_eq!(config.boot.max_connections, Some(7));
    assert_eq!(config.boot.admin[0].to_string(), "127.0.0.1:2");
    let policy = &config.policy;
    assert_eq!(policy.handshake_timeout, Duration::from_millis(1500));
    assert_eq!(policy.max_connections_per_client, 3);
    assert_eq!(policy.proxy.protocol, Expect::Required);
    let peer = |ip: [u8; 4]| PeerAddr::Tcp((ip, 1).into());
    assert!(policy.proxy.trusted.contains(peer([10, 1, 2, 3])));
    assert!(!policy.proxy.trusted.contains(peer([127, 0, 0, 1])));
    assert_eq!(policy.shutdown.spread, Duration::from_secs(1));
    let [first, second] = &policy.endpoints[..] else { panic!("{:?}", policy.endpoints) };
    assert_eq!((first.path.as_str(), &*first.prefix), ("/a", "> "));
    assert_eq!(second.subprotocols, Subprotocols::None);
    assert!(first.compression && !second.compression);
    assert!(policy.origins != Origins::Any && policy.require_origin);
    assert_eq!(policy.max_message_size, 65_536);
    let times = policy.timeouts;
    let seconds = [times.close, times.write, times.ping_interval, times.pong];
    assert_eq!(seconds.map(|time| time.as_secs()), [2, 3, 4, 5]);
    let changes = Config::default().changes(&config);
    assert_eq!(changes.reloaded.len() + changes.need_restart.len(), 22, "{changes:?}");
    assert_eq!(config.changes(&config), Changes::default());
}

#[test]
fn a_single_address_needs_no_list() {
    assert_eq!(parse("bind = \"[::1]:0\"").unwrap().boot.bind[0].to_string(), "[::1]:0");
}

#[test]
fn each_mistake_is_reported_at_its_position_with_its_remedy() {
    let cases = [
        ("bnd = 1", "1:1: unknown key \"bnd\"; did you mean \"bind\"?"),
        (
            "[timeouts]\nhandshak = \"1s\"",
            "2:1: unknown key \"handshak\" in [timeouts]; did you mean \"handshake\"?",
        ),
        ("[timeots]\nclose = \"1s\"", "1:2: unknown key \"timeots\"; did you mean \"timeouts\"?"),
        ("[log]\ncolour = 1", "2:1: unknown key \"colour\" in [log]; valid keys: level, format"),
        (
            "bind = 5",
            "1:8: bind: invalid type: integer `5`, expected an address in quotes, such as \"127.0.0.1:8888\"",
        ),
        ("bind = []", "1:8: bind: the list is empty; add an address"),
        ("bind = [\"127.0.0.1:1\", \"x\"]", "1:24: bind: \"x\": not an address to listen on"),
        (
            "bind = [\"[::1]:1\", \"[::1]:1\"]",
            "1:20: bind: \"[::1]:1\" is listed twice; remove one",
        ),
        (
            "unix_mode = 660",
            "1:13: unix_mode: invalid type: integer `660`, expected an octal mode in quotes, such as \"0660\"",
        ),
        ("unix_mode = \"0888\"", "1:13: unix_mode: \"0888\" is not an octal mode"),
        (
            "workers = \"2\"",
            "1:11: workers: invalid type: string \"2\", expected a number from 0 to 1024",
        ),
        ("workers = -1", "1:11: workers: -1 is out of range (0 to 1024)"),
        (
            "timeouts.close = 10",
            "1:18: timeouts.close: invalid type: integer `10`, expected a duration in quotes with its unit, such as \"10s\"",
        ),
        (
            "timeouts.close = \"10\"",
            "1:18: timeouts.close: \"10\" is not a duration; write whole numbers of ms, s, m or h, such as",
        ),
        ("timeouts.close = \"0s\"", "1:18: timeouts.close: \"0s\" is out of range (1ms to 24h)"),
        (
            "limits.max_message_size = 1048576",
            "1:27: limits.max_message_size: invalid type: integer `1048576`, expected a size in quotes with its unit, such as \"1 MiB\"",
        ),
        (
            "limits.max_message_size = \"1048576\"",
            "1:27: limits.max_message_size: \"1048576\" is not a size; write \"1048576 B\"",
        ),
        (
            "limits.max_message_size = \"2 GiB\"",
            "1:27: limits.max_message_size: \"2 GiB\" is out of range (125 B to 1 GiB)",
        ),
        (
            "limits.max_connections = 0",
            "1:26: limits.max_connections: 0 is out of range (1 to 1000000)",
        ),
        ("limits = 5", "1:10: limits is a table; write [limits]"),
        (
            "shutdown.drain_spread = \"31s\"",
            "1:25: shutdown.drain_spread: drain_spread = \"31s\" is longer than drain_timeout = \"30s\"; lower",
        ),
        (
            "log.level = \"loud\"",
            "1:13: log.level: \"loud\" is unknown; write \"error\", \"warn\", \"info\" or \"debug\"",
        ),
        ("log.level = \"INFO\"", "1:13: log.level: \"INFO\" is unknown; write \"info\""),
        ("[endpoint]\npath = \"/a\"", "1:1: endpoint is an array of tables; write [[endpoint]]"),
        (
            "[[endpoint]]\nprefix = \"\"",
            "1:1: endpoint.path is missing; every [[endpoint]] needs it",
        ),
        ("[[endpoint]]\npath = \"a\"", "2:8: endpoint.path: \"a\" is not absolute; write \"/a\""),
        (
            "[[endpoint]]\npath = \"/info\"",
            "2:8: endpoint.path: \"/info\" is reserved; choose another path",
        ),
        (
            "[[endpoint]]\npath = \"/a?b\"",
            "2:8: endpoint.path: \"/a?b\" is not a URL path; leave out",
        ),
        (
            "[[endpoint]]\npath = \"/a\"\n[[endpoint]]\npath = \"/a\"",
            "4:8: endpoint.path: \"/a\" is used twice; remove one",
        ),
        (
            "[[endpoint]]\npath = \"/a\"\nsubprotocols = \"chat\"",
            "3:16: endpoint.subprotocols: \"chat\" is neither \"any\" nor \"none\"; for a list write [\"chat\"]",
        ),
        (
            "[[endpoint]]\npath = \"/a\"\nsubprotocols = [\"a/b\"]",
            "3:16: endpoint.subprotocols: \"a/b\" is not a token",
        ),
        ("workers = 1\nworkers = 2", "2:1: invalid TOML: duplicate key"),
        ("workers =", "1:10: invalid TOML: "),
    ];
    assert_found(&cases);
}

/// Each text has one finding, which begins as expected.
fn assert_found(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let found = findings(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].starts_with(expected), "{text}:\n{}\n{expected}", found[0]);
    }
}

#[test]
fn mistakes_about_addresses_and_trust_name_their_remedy() {
    assert_found(&[
        (
            "bind = \"[::1]:1\"\nadmin.bind = \"[::1]:1\"",
            "2:14: admin.bind: \"[::1]:1\" is in bind too; choose another address",
        ),
        (
            "admin.bind = \"systemd\"",
            "1:14: admin.bind: sockets passed by systemd are for bind only; write an address",
        ),
        (
            "origins = \"https://example.com\"",
            "1:11: origins: \"https://example.com\" is neither \"any\" nor \"same-host\"; for a list write [",
        ),
        (
            "origins = [\"https://example.com/\"]",
            "1:11: origins: \"https://example.com/\": an origin ends with the host or port: write",
        ),
        ("proxy.trusted = [\"10.0.0.1/8\"]", "1:18: proxy.trusted: \"10.0.0.1/8\": "),
        (
            "proxy.proxy_protocol = \"on\"",
            "1:24: proxy.proxy_protocol: \"on\" is unknown; write \"off\" or \"required\"",
        ),
    ]);
}

#[test]
fn several_items_in_one_text_are_answered_with_the_list() {
    assert_found(&[
        (
            "[[endpoint]]\npath = \"/a\"\nsubprotocols = [\"a b\"]",
            "3:16: endpoint.subprotocols: \"a b\" is several; write [\"a\", \"b\"]",
        ),
        (
            "origins = \"https://a.example, https://b.example\"",
            "1:11: origins: \"https://a.example, https://b.example\" is neither \"any\" nor \"same-host\"; \
             for a list write [\"https://a.example\", \"https://b.example\"]",
        ),
        (
            "origins = [\"https://a.example;https://b.example\"]",
            "1:11: origins: \"https://a.example;https://b.example\" is several; write [\"https://a.example\", ",
        ),
        (
            "origins = \"https://a.example/, https://b.example\"",
            "1:11: origins: \"https://a.example/, https://b.example\" is neither \"any\" nor \"same-host\"; \
             for a list write brackets, and \"https://a.example/\": an origin ends with the host",
        ),
        (
            "proxy.trusted = \"10.0.0.0/8 unix\"",
            "1:17: proxy.trusted: \"10.0.0.0/8 unix\" is several; write [\"10.0.0.0/8\", \"unix\"]",
        ),
        (
            "bind = [\"127.0.0.1:1, [::1]:1\"]",
            "1:9: bind: \"127.0.0.1:1, [::1]:1\" is several; write [\"127.0.0.1:1\", \"[::1]:1\"]",
        ),
    ]);
}

#[test]
fn a_number_beyond_any_is_out_of_range() {
    assert_found(&[
        (
            "timeouts.ping_interval = \"9999999999999999h\"",
            "1:26: timeouts.ping_interval: \"9999999999999999h\" is out of range (1ms to 24h)",
        ),
        (
            "limits.max_message_size = \"99999999999999999999 MiB\"",
            "1:27: limits.max_message_size: \"99999999999999999999 MiB\" is out of range (125 B to 1 GiB)",
        ),
    ]);
}

#[test]
fn texts_repeated_in_every_log_line_or_echo_are_short() {
    let path = format!("[[endpoint]]\npath = \"/{}\"", "x".repeat(256));
    assert!(findings(&path)[0].ends_with("257 bytes is too long; the limit is 256"));
    let prefix = format!("[[endpoint]]\npath = \"/\"\nprefix = \"{}\"", "x".repeat(1025));
    assert!(findings(&prefix)[0].ends_with("1025 bytes is too long; the limit is 1024"));
}

#[test]
fn columns_count_characters() {
    assert!(
        findings("# \u{fc}\nlog = { level = \"\u{fc}\u{fc}\", x = 1 }")[1].starts_with("2:23: ")
    );
}

#[test]
fn all_findings_are_reported_at_once_and_in_order() {
    let found = findings(
        "bnd = 1\nworkers = \"x\"\n[limits]\nmax_connections = 0\n[log]\nlevel = 1\nformt = 1",
    );
    let lines: Vec<&str> = found.iter().map(|it| it.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["1", "2", "4", "6", "7"], "{found:#?}");
}

#[test]
fn check_and_serve_print_the_same_findings_and_exit_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    std::fs::write(&file, "bnd = 1\n[timeouts]\nclose = 5\n").unwrap();
    let [check, serve] = ["check", "serve"].map(|command| {
        let outcome = Outcome::of(wsecho().arg(command).arg("--config").arg(&file));
        assert_eq!((outcome.code(), outcome.stdout.as_str()), (78, ""), "{command}");
        outcome.stderr
    });
    assert_eq!(check, serve);
    assert_eq!(check.lines().count(), 2, "{check}");
    let position = format!("wsecho: {}:3:9: timeouts.close: ", file.display());
    assert!(check.lines().nth(1).unwrap().starts_with(&position), "{check}");
}

#[test]
fn check_says_ok_and_warns_without_failing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    std::fs::write(&file, "bind = \"0.0.0.0:0\"\nshutdown.drain_timeout = \"36s\"\n").unwrap();
    let outcome = Outcome::of(wsecho().arg("check").arg("--config").arg(&file));
    let ok = format!("{}: ok\n", file.display());
    assert_eq!((outcome.code(), &outcome.stdout), (0, &ok), "{}", outcome.stderr);
    for warning in [
        "warning: bind = \"0.0.0.0:0\" is reachable from other hosts",
        "warning: shutdown.drain_timeout",
    ] {
        assert!(outcome.stderr.contains(warning), "{warning} in {}", outcome.stderr);
    }
}

#[test]
fn check_compares_with_the_shells_descriptor_limit() {
    let binary = env!("CARGO_BIN_EXE_wsecho");
    let script = format!("ulimit -n 100 && exec {binary} check --bind 127.0.0.1:0");
    let outcome = Outcome::of(std::process::Command::new("sh").args(["-c", &script]));
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("only 100 file descriptors are allowed"), "{}", outcome.stderr);
}

#[test]
fn serving_more_connections_than_descriptors_is_refused_and_the_default_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    let run = |config: &str, command: &str| {
        std::fs::write(&file, format!("bind = \"127.0.0.1:0\"\n{config}")).unwrap();
        let (binary, file) = (env!("CARGO_BIN_EXE_wsecho"), file.display());
        let script = format!("ulimit -n 100 && exec {binary} {command} --config {file}");
        Outcome::of(std::process::Command::new("sh").args(["-c", &script]))
    };
    let explicit = "limits.max_connections = 1000";
    let outcome = run(explicit, "serve");
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
    for part in ["max_connections = 1000", "100 are allowed", "LimitNOFILE="] {
        assert!(outcome.stderr.contains(part), "{part} in {}", outcome.stderr);
    }
    let outcome = run(explicit, "check");
    assert!(outcome.code() == 0 && outcome.stdout.ends_with(": ok\n"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("max_connections = 1000"), "{}", outcome.stderr);

    let few = |command: &mut std::process::Command| through_shell(command, "ulimit -n 100");
    let mut service = Service::start_with("", few);
    assert!(service.log_line("only 100 file descriptors are allowed").contains(" WARN "));
    assert_eq!(echo(&mut service.open("/echo"), "served"), "served");
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let low = |command: &mut std::process::Command| through_shell(command, "ulimit -Sn 100");
    let service = Service::start_with("limits.max_connections = 500", low);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}

#[test]
fn a_slip_in_toml_is_answered_with_the_line_that_was_meant() {
    for (above, slip, meant) in [
        ("", "bind = 127.0.0.1:8888", "bind = \"127.0.0.1:8888\""),
        ("", "bind = [::1]:8888", "bind = \"[::1]:8888\""),
        ("", "bind = [127.0.0.1:8888]", "bind = [\"127.0.0.1:8888\"]"),
        ("", "bind = \"127.0.0.1:1\", \"[::1]:1\"", "bind = [\"127.0.0.1:1\", \"[::1]:1\"]"),
        ("", "bind = [\"127.0.0.1:1\" \"[::1]:1\"]", "bind = [\"127.0.0.1:1\", \"[::1]:1\"]"),
        ("", "bind = \"127.0.0.1:8888", "bind = \"127.0.0.1:8888\""),
        ("", "bind = \u{201c}127.0.0.1:8888\u{201d}", "bind = \"127.0.0.1:8888\""),
        ("", "bind: \"127.0.0.1:8888\"", "bind = \"127.0.0.1:8888\""),
        ("", "bind == \"127.0.0.1:8888\"", "bind = \"127.0.0.1:8888\""),
        ("", "workers 2", "workers = 2"),
        ("", "\u{a0}workers = 2", "workers = 2"),
        ("", "workers = 2;", "workers = 2"),
        ("", "workers = 2 // two of them", "workers = 2"),
        ("", "// two of them", "# two of them"),
        ("", "; two of them", "# two of them"),
        ("", "require_origin = yes", "require_origin = true"),
        ("", "require_origin = on", "require_origin = true"),
        ("", "require_origin = True", "require_origin = true"),
        ("", "require_origin = no", "require_origin = false"),
        ("", "unix_mode = 0660", "unix_mode = \"0660\""),
        ("", "origins = any", "origins = \"any\""),
        ("", "origins = [https://a.example]", "origins = [\"https://a.example\"]"),
        ("", "[limits", "[limits]"),
        ("", "limits]", "[limits]"),
        ("", "limits:", "[limits]"),
        ("[limits]", "max_connections = 10,000", "max_connections = 10000"),
        ("[limits]", "max_message_size = 64 KiB", "max_message_size = \"64 KiB\""),
        ("[timeouts]", "close = 5s", "close = \"5s\""),
        ("[log]", "level = info", "level = \"info\""),
        ("[[endpoint]]\npath = \"/\"", "prefix = \"a\\qb\"", "prefix = 'a\\qb'"),
    ] {
        let found = findings(&format!("{above}\n{slip}\nx"));
        let said = found.iter().find(|it| it.contains("invalid TOML")).expect("it is not TOML");
        assert!(said.ends_with(&format!("; write: {meant}")), "{slip}: {said}");
        assert!(parse(&format!("{above}\n{meant}\n")).is_ok(), "{meant}");
    }
    for (text, remedy) in [
        ("workers = 1\n\nworkers = 2", "3:1: invalid TOML: duplicate key; the other is in line 1;"),
        ("[log]\n[limits]\n[log]", "3:2: invalid TOML: duplicate key; [log] begins in line 1;"),
        ("bind = [\"127.0.0.1:1\"\nworkers = 1", "2:1: invalid TOML: missing comma between"),
        ("[log] level = \"info\"", "1:7: invalid TOML: unexpected key or value; put what follows"),
        ("bind = localhost:80", "1:8: invalid TOML: string values must be quoted; bind: \"localh"),
    ] {
        let found = findings(text);
        assert!(found[0].starts_with(remedy) && found[0].contains("; "), "{text}: {found:#?}");
    }
    let cascade = findings("[limits\nmax_connections = 5\n[log]\nlevel = 5");
    assert_eq!(cascade.len(), 2, "keys below a broken header are not misplaced: {cascade:#?}");
}

#[test]
fn a_remedy_that_is_followed_works() {
    for (key, wrong, right) in [
        ("origins", "\"*\"", "\"any\""),
        ("origins", "[\"*\"]", "\"any\""),
        ("origins", "\"ANY\"", "\"any\""),
        ("origins", "\"https://example.com\"", "[\"https://example.com\"]"),
        ("origins", "[\"example.com\"]", "\"https://example.com\""),
        ("origins", "[\"wss://example.com\"]", "\"https://example.com\""),
        ("origins", "[\"https://example.com/\"]", "\"https://example.com\""),
        ("log.level", "\"Info\"", "\"info\""),
        ("proxy.proxy_protocol", "\"REQUIRED\"", "\"required\""),
        ("timeouts.close", "\"1 hour\"", "\"1h\""),
        ("timeouts.close", "\"1M\"", "\"1m\""),
        ("limits.max_message_size", "\"1M\"", "\"1 MiB\""),
        ("limits.max_message_size", "\"1m\"", "\"1 MB\""),
        ("limits.max_message_size", "\"1048576\"", "\"1048576 B\""),
        ("bind", "\"::1:8888\"", "\"[::1]:8888\""),
        ("bind", "\":8888\"", "\"127.0.0.1:8888\""),
        ("bind", "\"[::ffff:127.0.0.1]:8888\"", "\"127.0.0.1:8888\""),
        ("endpoint", "[{ path = \"/gr\u{fc}n\" }]", "\"/gr%C3%BCn\""),
        ("endpoint", "[{ path = \"/{id}\" }]", "\"/%7Bid%7D\""),
    ] {
        let found = findings(&format!("{key} = {wrong}"));
        assert!(found[0].contains(right), "{key} = {wrong}: {found:?}");
        let value = match (key, wrong.starts_with('['), right) {
            ("endpoint", ..) => format!("[{{ path = {right} }}]"),
            (_, true, right) if right != "\"any\"" => format!("[{right}]"),
            _ => right.to_owned(),
        };
        assert!(parse(&format!("{key} = {value}")).is_ok(), "{key} = {value}");
    }
}

#[test]
fn a_value_that_could_never_match_is_refused() {
    for (text, said) in [
        ("origins = [\"https://*.example.com\"]", "an asterisk matches nothing: list each origin"),
        ("origins = [\"https://example.com:99999\"]", "from 1 to 65535"),
        ("origins = [\"https://example.com:\"]", "from 1 to 65535"),
        ("origins = [\"https://example.com:0\"]", "from 1 to 65535"),
        ("origins = [\"same-host\"]", "write it without brackets"),
        ("endpoint = [{ path = \"/a/../b\" }]", "leave them out"),
        ("endpoint = [{ path = \"/%2E/b\" }]", "leave them out"),
        ("endpoint = [{ path = \"/a\\\\b\" }]", "is sent as \"/a/b\""),
        ("bind = [\"0.0.0.0:80\", \"127.0.0.1:80\"]", "collides with \"0.0.0.0:80\""),
        ("bind = [\"[::1]:80\", \"[::]:80\"]", "collides with \"[::1]:80\""),
        (
            "bind = \"0.0.0.0:80\"\nadmin.bind = \"127.0.0.1:80\"",
            "collides with \"0.0.0.0:80\" in bind",
        ),
        ("admin.bind = \"127.0.0.1:8888\"", "\"127.0.0.1:8888\" is in bind too"),
        ("proxy.proxy_protocol = \"required\"\nproxy.trusted = []", "list the proxy there"),
        ("proxy.proxy_protocol = \"required\"\nproxy.trusted = [\"unix\"]", "list the proxy there"),
        ("origins = []\nrequire_origin = true", "no Origin would do"),
    ] {
        let found = findings(text);
        assert!(found.len() == 1 && found[0].contains(said), "{text}: {found:#?}");
    }
    for text in [
        "bind = [\"0.0.0.0:0\", \"127.0.0.1:0\"]",
        "bind = [\"0.0.0.0:80\", \"[::]:80\"]",
        "bind = \"0.0.0.0:80\"\nadmin.bind = \"127.0.0.1:81\"",
        "origins = [\"https://example.com:8443\", \"http://[::1]:3000\", \"http://[::1]\"]",
        "endpoint = [{ path = \"/a/.b/c..\" }, { path = \"/%7Bid%7D|\" }]",
        "proxy.proxy_protocol = \"required\"\nproxy.trusted = [\"unix\"]\nbind = \"unix:/run/w.sock\"",
    ] {
        assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
    }
}

#[test]
fn values_are_compared_with_defaults_too() {
    let spread = |text: &str| parse(text).unwrap().policy.shutdown.spread;
    assert_eq!(spread(""), Duration::from_secs(5));
    assert_eq!(spread("shutdown.drain_timeout = \"3s\""), Duration::from_millis(1500));
    assert_eq!(spread("shutdown.drain_timeout = \"0s\""), Duration::ZERO);
    assert_eq!(spread("shutdown.drain_timeout = \"1h\""), Duration::from_secs(5));
    assert_found(&[
        (
            "shutdown.drain_timeout = \"3s\"\nshutdown.drain_spread = \"5s\"",
            "2:25: shutdown.drain_spread: drain_spread = \"5s\" is longer than drain_timeout = \"3s\"",
        ),
        (
            &format!(
                "limits.max_message_size = \"125 B\"\nendpoint = [{{ path = \"/a\" }}, {{ path = \"/b\", \
                 prefix = \"{}\" }}]",
                "x".repeat(125)
            ),
            "2:54: endpoint.prefix: 125 bytes leave no room for text in limits.max_message_size = ",
        ),
    ]);
    let unrelated = findings("shutdown.drain_timeout = 60\nshutdown.drain_spread = \"50s\"");
    assert_eq!(unrelated.len(), 1, "a bad value is related to nothing: {unrelated:#?}");
}

#[test]
fn a_key_in_the_wrong_section_is_told_its_own() {
    assert_found(&[
        ("max_connections = 5", "1:1: unknown key \"max_connections\"; it belongs below [limits]"),
        (
            "[limits]\nclose = \"1s\"",
            "2:1: unknown key \"close\" in [limits]; it belongs below [timeouts]",
        ),
        (
            "[log]\norigins = \"any\"",
            "2:1: unknown key \"origins\" in [log]; it belongs at the top of the file, above every",
        ),
        ("path = \"/a\"", "1:1: unknown key \"path\"; it belongs below [[endpoint]]"),
        (
            "[limits]\nmax-connections = 5",
            "2:1: unknown key \"max-connections\" in [limits]; write \"max_connections\"",
        ),
        ("Workers = 5", "1:1: unknown key \"Workers\"; write \"workers\""),
    ]);
}

#[test]
fn a_file_in_another_encoding_is_told_where_and_what_to_do() {
    let found = |file: &[u8]| {
        let found = wsecho::config::read(file, &Overrides::default()).err().expect("not UTF-8");
        format!("{}:{}: {}", found[0].line, found[0].column, found[0].message)
    };
    let said = found(b"# \xc3\xbc\n# gr\xfc\xdfe\n");
    assert!(
        said.starts_with("2:5: byte 0xFC is not UTF-8; save the file as UTF-8 (`iconv"),
        "{said}"
    );
    assert!(found(b"\xff\xfeb\0i\0").starts_with("1:1: the file is UTF-16; save it as UTF-8"));
    assert!(parse("\u{feff}workers = 1\r\n").is_ok(), "a byte order mark is harmless");
}
