//! `wsecho check`: what holds, what may surprise, and what a start would meet here.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::geteuid;
use wsecho::config::{Overrides, parse, read};
use wsecho::ops::machine::Machine;

use crate::launch::inherit;
use crate::service::{Outcome, Service, wsecho};

/// A host with room for everything.
const ROOMY: Machine = Machine { descriptors: 65_536, somaxconn: 4096 };

#[test]
fn what_works_but_surprises_is_warned_of_and_nothing_else() {
    for (text, warning) in [
        ("", ""),
        ("shutdown.drain_timeout = \"10s\"\ntimeouts.write = \"20s\"", ""),
        ("limits.max_connections_per_client = 10000\nlimits.max_connections = 10000", ""),
        ("proxy.trusted = [\"10.0.0.0/8\", \"::1\"]", ""),
        ("bind = \"[::]:80\"", "bind = \"[::]:80\" is reachable from other hosts"),
        ("admin.bind = \"0.0.0.0:9\"", "admin.bind = \"0.0.0.0:9\" is reachable from other hosts"),
        ("proxy.trusted = [\"0.0.0.0/0\"]", "proxy.trusted covers 0.0.0.0/0: anyone can pretend"),
        ("proxy.trusted = [\"::/0\"]", "proxy.trusted covers ::/0: anyone can pretend"),
        ("origins = []", "origins = [] admits no page"),
        ("limits.max_connections_per_client = 10001", "10001 is never reached"),
        (
            "limits.max_message_size = \"2 MiB\"\nlimits.buffer_budget = \"1 MiB\"",
            "limits.max_message_size = \"2 MiB\" is over limits.buffer_budget = \"1 MiB\"",
        ),
        ("shutdown.drain_timeout = \"36s\"", "systemd kills the service"),
        (
            "shutdown.drain_timeout = \"3s\"",
            "shutdown.drain_spread = \"1s 500ms\" and timeouts.close = \"5s\" exceed shutdown.drain_timeout",
        ),
        ("timeouts.close = \"26s\"", "exceed shutdown.drain_timeout = \"30s\" together"),
        ("timeouts.ping_interval = \"55s\"", "nginx closes a silent connection"),
        (
            "timeouts.write = \"19s\"",
            "timeouts.write = \"19s\" is shorter than timeouts.pong = \"20s\"",
        ),
        (
            "timeouts.pong = \"31s\"",
            "timeouts.write = \"30s\" is shorter than timeouts.pong = \"31s\"",
        ),
    ] {
        let warnings = parse(text).unwrap().warnings(ROOMY);
        let expected = usize::from(!warning.is_empty());
        assert_eq!(warnings.len(), expected, "{text}: {warnings:#?}");
        assert!(warnings.iter().all(|it| it.contains(warning)), "{text}: {warnings:#?}");
    }
}

#[test]
fn the_start_warns_as_check_does() {
    let config = "bind = \"0.0.0.0:0\"\nproxy.trusted = [\"0.0.0.0/0\"]\ntimeouts.write = \"19s\"";
    let mut service = Service::start(config);
    for warning in ["is reachable from other hosts", "covers 0.0.0.0/0", "shorter than"] {
        assert!(service.log_line(warning).contains(" WARN "), "{warning}");
    }
}

#[test]
fn what_a_start_would_meet_on_this_host_is_known_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let obstacles = |bind: &str| parse(&format!("bind = \"{bind}\"")).unwrap().obstacles(ROOMY);
    for (bind, said) in [
        ("192.0.2.1:8888".to_owned(), "this host has no such address"),
        ("[2001:db8::1]:8888".to_owned(), "this host has no such address"),
        ("unix:/nonexistent/w.sock".to_owned(), "its folder does not exist"),
        (format!("unix:{}", file.display()), "this is not a socket"),
    ] {
        let found = obstacles(&bind);
        assert!(found.len() == 1 && found[0].contains(said), "{bind}: {found:?}");
        assert!(found[0].starts_with(&format!("bind = \"{bind}\": ")), "{found:?}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = format!("unix:{}", dir.path().join("w.sock").display());
    for bind in ["127.0.0.1:0", &taken.to_string(), "systemd", &socket, "unix:/run/wsecho/w.sock"] {
        assert_eq!(obstacles(bind), Vec::<String>::new(), "{bind}: perhaps by the service itself");
    }
    let of_instance = |folder: &str| {
        let bind = format!("instance = \"a\"\nadmin.bind = \"unix:{folder}/admin.sock\"");
        parse(&bind).unwrap().obstacles(ROOMY)
    };
    assert_eq!(of_instance("/run/wsecho-a"), Vec::<String>::new(), "its unit makes that");
    let found = of_instance("/run/wsecho-b");
    assert!(found[0].ends_with("create it, or use /run/wsecho-a"), "{found:?}");
    let machine = Machine { descriptors: 100, ..ROOMY };
    let found = parse("limits.max_connections = 1000").unwrap().obstacles(machine);
    assert!(found[0].contains("max_connections = 1000"), "{found:?}");
}

#[test]
fn check_judges_by_the_rights_of_the_user_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let file = dir.path().join("w.toml");
    let check = |user: &str| Outcome::of(wsecho().args(["check", "--user", user]).arg(&file));
    fs::write(&file, "bind = [\"127.0.0.1:81\", \"unix:/w.sock\"]\n").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let nobody = check("nobody");
    assert_eq!(nobody.code(), 0, "{}", nobody.stderr);
    if !geteuid().is_root() {
        assert!(
            nobody.stderr.contains("only root can check for another user"),
            "{}",
            nobody.stderr
        );
        return;
    }
    assert!(nobody.stderr.contains("may not open ports below 1024"), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("may not create files in its folder"), "{}", nobody.stderr);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let nobody = check("nobody");
    assert_eq!((nobody.code(), nobody.stdout.as_str()), (78, ""), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("Permission denied"), "{}", nobody.stderr);
    assert_eq!(check("root").code(), 0);
}

#[test]
fn a_socket_that_systemd_passed_for_an_address_of_bind_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.sock");
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let dual = TcpListener::bind("[::]:0").unwrap();
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let v4_addr = v4.local_addr().unwrap();
    let port = dual.local_addr().unwrap().port();
    let passed: [(&dyn std::os::fd::AsFd, String); 4] = [
        (&v4, v4_addr.to_string()),
        (&v4, format!("0.0.0.0:{}", v4_addr.port())),
        (&dual, format!("127.0.0.1:{port}")),
        (&unix, format!("unix:{}", path.display())),
    ];
    for (socket, bind) in passed {
        let mut command = wsecho();
        command.args(["--bind", &bind]);
        inherit(&[socket], &mut command);
        let outcome = Outcome::of(&mut command);
        assert_eq!(outcome.code(), 78, "{bind}: {}", outcome.stderr);
        let said =
            format!("systemd listens on {bind} already and passed that socket: write bind = ");
        assert!(outcome.stderr.contains(&said), "{bind}: {}", outcome.stderr);
    }
}

#[test]
fn what_is_shown_says_the_same_and_where_it_comes_from() {
    let text = "workers = 2\nbind = [ # two\n  \"127.0.0.1:1\",\n  'unix:/run/w.sock'\n]\n\
                log.level = \"warn\"\n[[endpoint]]\npath = \"/a\"\n[[endpoint]]\nprefix = \"> \"\n\
                path = \"/b\"\n[shutdown]\ndrain_timeout = \"9s\"\n";
    let overrides =
        Overrides { log_level: Some(wsecho::ops::logging::Level::Debug), ..Overrides::default() };
    let loaded = read(text.as_bytes(), &overrides).expect("it is valid");
    let shown = loaded.show(Path::new("/etc/w.toml"));
    for line in [
        "workers = 2  # /etc/w.toml:1",
        "  'unix:/run/w.sock'\n]  # /etc/w.toml:2",
        "unix_mode = \"0660\"  # default",
        "path = \"/a\"  # /etc/w.toml:8\nprefix = \"\"  # default",
        "path = \"/b\"  # /etc/w.toml:11\nprefix = \"> \"  # /etc/w.toml:10",
        "drain_spread = \"4s 500ms\"  # default, follows drain_timeout",
        "level = \"debug\"  # --log-level",
    ] {
        assert!(shown.contains(&format!("{line}\n")), "{line} in {shown}");
    }
    let mut again = parse(&shown).expect("it is a configuration");
    assert_eq!(again.boot.max_connections.take(), Some(10_000));
    assert_eq!(again, loaded.config);
}

#[test]
fn check_prints_every_key_of_the_file_under_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    fs::write(&file, "bind = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"\n").unwrap();
    let mut command = wsecho();
    command.args(["check", "--print", "-b", "127.0.0.1:0", "-b", "unix:/run/w.sock"]).arg(&file);
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    let bind = "bind = [\"127.0.0.1:0\", \"unix:/run/w.sock\"]  # --bind\n";
    assert!(outcome.stdout.starts_with(bind), "{}", outcome.stdout);
    let level = format!("level = \"warn\"  # {}:3\n", file.display());
    assert!(outcome.stdout.contains(&level), "{}", outcome.stdout);
    for key in wsecho::config::keys::KEYS {
        assert!(outcome.stdout.contains(&format!("{} = ", key.name())), "{}", key.path);
    }
}

#[test]
fn addresses_of_the_command_line_are_compared_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    fs::write(&file, "admin.bind = \"127.0.0.1:9\"\n").unwrap();
    let outcome = Outcome::of(wsecho().args(["check", "--bind", "0.0.0.0:9"]).arg(&file));
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("collides with \"0.0.0.0:9\" in bind"), "{}", outcome.stderr);
}
