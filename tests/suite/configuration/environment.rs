//! Keys from environment variables: over the file, under the command line.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use wsecho::config::keys::{KEYS, Key};
use wsecho::config::{Config, Environment, Overrides, parse, read};

use crate::service::{Outcome, wsecho};

/// The configuration of a file under these variables, or everything that is wrong.
fn config(file: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let environment = Environment::new(variables.iter().map(|(k, v)| (k.into(), v.into())));
    let overrides = Overrides { environment, ..Overrides::default() };
    let told = |it: wsecho::config::Finding| match it.variable {
        Some(name) => format!("{name}: {}", it.message),
        None => format!("{}:{}: {}", it.line, it.column, it.message),
    };
    read(file.as_bytes(), &overrides)
        .map(|loaded| loaded.config)
        .map_err(|found| found.into_iter().map(told).collect())
}

#[test]
fn a_variable_says_what_a_line_of_the_file_would() {
    for (variable, value, line) in [
        ("WSECHO_BIND", "[::]:8888", "bind = \"[::]:8888\""),
        ("WSECHO_BIND", r#"["[::]:1", "unix:/w.sock"]"#, r#"bind = ["[::]:1", "unix:/w.sock"]"#),
        ("WSECHO_BIND", "unix:/a b/#", "bind = \"unix:/a b/#\""),
        ("WSECHO_ADMIN_BIND", "127.0.0.1:9", "admin.bind = \"127.0.0.1:9\""),
        ("WSECHO_WORKERS", "2", "workers = 2"),
        ("WSECHO_LIMITS_MAX_CONNECTIONS", "500", "limits.max_connections = 500"),
        ("WSECHO_LIMITS_MAX_MESSAGE_SIZE", "2 MiB", "limits.max_message_size = \"2 MiB\""),
        ("WSECHO_UNIX_MODE", "0600", "unix_mode = \"0600\""),
        ("WSECHO_HTTP_NAME", "123", "http.name = \"123\""),
        ("WSECHO_HTTP_NAME", "true", "http.name = \"true\""),
        ("WSECHO_HTTP_NAME", "pod \\ 1", "http.name = 'pod \\ 1'"),
        ("WSECHO_HTTP_NAME", "'1'", "http.name = '1'"),
        ("WSECHO_HTTP_PAGE", "false", "http.page = false"),
        ("WSECHO_LOG_LEVEL", "warn", "log.level = \"warn\""),
        ("WSECHO_PROXY_TRUSTED", r#"["10.0.0.0/8"]"#, r#"proxy.trusted = ["10.0.0.0/8"]"#),
        ("WSECHO_SHUTDOWN_DRAIN_TIMEOUT", "4s", "shutdown.drain_timeout = \"4s\""),
    ] {
        let meant = parse(line).unwrap();
        assert_ne!(meant, Config::default(), "{line} must show");
        assert_eq!(config("", &[(variable, value)]), Ok(meant), "{variable}={value}");
    }
    for nothing in [("WSECHO_BIND", ""), ("BIND", "x"), ("wsecho_bind", "x"), ("WSECHO_BINDS", "x")]
    {
        assert_eq!(config("", &[nothing]), Ok(Config::default()), "{nothing:?}");
    }
}

#[test]
fn what_is_wrong_names_the_variable() {
    for (variables, finding) in [
        (&[("WSECHO_WORKERS", "two")][..], "WSECHO_WORKERS: workers: invalid "),
        (
            &[("WSECHO_PORT", "9000")],
            "WSECHO_PORT: there is no such key; write the address and the port in WSECHO_BIND",
        ),
        (
            &[("WSECHO_ADMIN_PORT", ":9001")],
            "WSECHO_ADMIN_PORT: there is no such key; write the address and the port in \
             WSECHO_ADMIN_BIND",
        ),
        (
            &[("WSECHO_BIND", "127.0.0.1:1,[::1]:1")],
            "WSECHO_BIND: bind: \"127.0.0.1:1,[::1]:1\" is several; write [\"127.0.0.1:1\", \
             \"[::1]:1\"]",
        ),
        (&[("WSECHO_WORKERS", "-1")], "WSECHO_WORKERS: workers: "),
        (&[("WSECHO_BIND", "localhost:80")], "WSECHO_BIND: bind: "),
        (&[("WSECHO_BIND", "[\"127.0.0.1:1\"")], "WSECHO_BIND: bind: "),
        (&[("WSECHO_UNIX_MODE", "'0600'\nworkers = 1")], "WSECHO_UNIX_MODE: unix_mode: "),
        (&[("WSECHO_HTTP_NAME", "a\nworkers = 2")], "WSECHO_HTTP_NAME: http.name: "),
        (&[("WSECHO_LOG_LEVEL", "['warn']")], "WSECHO_LOG_LEVEL: log.level: "),
        (
            &[("WSECHO_ADMIN_BIND", "127.0.0.1:8888")],
            "WSECHO_ADMIN_BIND: admin.bind: \"127.0.0.1:8888\" is in bind too",
        ),
    ] {
        let found = config("", variables).expect_err(finding);
        assert!(found.len() == 1 && found[0].starts_with(finding), "{finding}: {found:?}");
    }
    let found = config(
        "workers = 1\nbind = 1\nadmin.bind = \"127.0.0.1:1\"",
        &[("WSECHO_LOG_LEVEL", "loud"), ("WSECHO_BIND", "127.0.0.1:1")],
    )
    .unwrap_err();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("2:8: bind: "), "{found:?}");
    assert!(found[1].starts_with("3:14: admin.bind: \"127.0.0.1:1\" is in bind too"), "{found:?}");
    assert!(found[2].starts_with("WSECHO_LOG_LEVEL: log.level: "), "{found:?}");

    let odd = Environment::new([("WSECHO_BIND".into(), OsString::from_vec(b"unix:/\xff".into()))]);
    let overrides = Overrides { environment: odd, ..Overrides::default() };
    let found = read(b"", &overrides).err().expect("it is not UTF-8");
    assert_eq!(found[0].message, "the value is not UTF-8");
}

#[test]
fn the_command_line_stands_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    fs::write(&file, "bind = \"127.0.0.1:1\"\nworkers = 3\n[log]\nlevel = \"warn\"\n").unwrap();
    let check = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = wsecho();
        command.args(["check", "--print"]).args(args).arg(&file).envs(variables.iter().copied());
        let outcome = Outcome::of(&mut command);
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
        outcome
    };
    let variables = [("WSECHO_BIND", "127.0.0.1:2"), ("WSECHO_LOG_LEVEL", "error")];
    let shown = check(&["--bind", "127.0.0.1:3"], &variables).stdout;
    assert!(shown.starts_with("bind = [\"127.0.0.1:3\"]  # --bind\n"), "{shown}");
    assert!(shown.contains(&format!("workers = 3  # {}:2\n", file.display())), "{shown}");
    assert!(shown.contains("level = \"error\"  # WSECHO_LOG_LEVEL\n"), "{shown}");
    assert!(parse(&shown).is_ok(), "{shown}");

    let cluster = [
        ("WSECHO_PORT", "tcp://10.0.0.1:8888"),
        ("WSECHO_SERVICE_HOST", "10.0.0.1"),
        ("WSECHO_PORT_8888_TCP_ADDR", "10.0.0.1"),
        ("WSECHO_ADMIN_PORT", "tcp://10.0.0.2:9090"),
        ("WSECHO_ADMIN_PORT_9090_TCP_PORT", "9090"),
        ("WSECHO_LOGLEVEL", "debug"),
    ];
    let warning = "warning: WSECHO_LOGLEVEL in the environment sets nothing; wsecho.toml(5) has the \
                   names of the variables\n";
    assert_eq!(check(&[], &cluster).stderr, warning);
}

#[test]
fn no_variable_has_a_name_that_kubernetes_gives_away() {
    let names: Vec<String> = KEYS.iter().filter_map(Key::variable).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "each is unique");
    for name in names {
        let taken =
            name.ends_with("_PORT") || name.contains("_PORT_") || name.contains("_SERVICE_");
        assert!(!taken && name != "WSECHO_CONFIG", "{name}");
    }
}
