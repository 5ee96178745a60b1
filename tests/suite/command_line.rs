//! The command line: what it prints, and its exit codes.

use std::process::Command;

use crate::service::{Outcome, wsecho};

/// A probe serves nothing: it neither has nor takes what only the service needs.
#[test]
fn the_options_of_the_service_are_not_those_of_a_probe() {
    let help = Outcome::of(wsecho().args(["probe", "--help"]));
    assert_eq!(help.code(), 0);
    let url = "ws://127.0.0.1:1/";
    for (option, value) in [("--config", "/x"), ("--bind", "127.0.0.1:1"), ("--log-level", "info")]
    {
        assert!(!help.stdout.contains(&format!("{option} ")), "{}", help.stdout);
        let behind = Outcome::of(wsecho().args(["probe", option, value, url]));
        assert_eq!(behind.code(), 2);
        let said = format!("unexpected argument '{option}'");
        assert!(behind.stderr.contains(&said), "{}", behind.stderr);
        let before = Outcome::of(wsecho().args([option, value, "probe", url]));
        assert_eq!(before.code(), 2);
        let said = "a probe takes no --config, --bind or --log-level";
        assert!(before.stderr.contains(said), "{}", before.stderr);
        // Where they belong, they may stand on either side.
        for args in [[option, value, "snippet", "nginx"], ["snippet", option, value, "nginx"]] {
            let outcome = Outcome::of(wsecho().args(args));
            let is_read = option != "--config" || outcome.stderr.contains("/x");
            assert!(is_read && outcome.code() != 2, "{args:?}: {}", outcome.stderr);
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let outcome = Outcome::of(wsecho().arg("--version"));
    assert_eq!(outcome.code(), 0);
    let expected = concat!("wsecho ", env!("CARGO_PKG_VERSION"));
    assert!(outcome.stdout.starts_with(expected), "{}", outcome.stdout);
}

#[test]
fn help_names_every_option_and_the_exit_codes() {
    let outcome = Outcome::of(wsecho().arg("--help"));
    assert_eq!(outcome.code(), 0);
    for part in [
        "--config",
        "--bind",
        "--log-level",
        "serve",
        "check",
        "snippet",
        "78 configuration",
        "127.0.0.1:8888",
        "/socket",
        "/echo",
        "[::1]:8888",
        "unix:/",
        "systemd",
        "Example: ",
    ] {
        assert!(outcome.stdout.contains(part), "{part} in {}", outcome.stdout);
    }
}

#[test]
fn an_invalid_command_line_exits_with_2_and_says_what_is_wrong() {
    for (args, sentence) in [
        (&["--bnd", "x"][..], "--bind"),
        (&["--bind", "localhost:80"], "host names are not resolved"),
        (&["-b", ":80"], "write \"127.0.0.1:80\""),
        (&["--port", "80"], "write '--bind 127.0.0.1:8888'"),
        (&["serve", "--port=80"], "write '--bind 127.0.0.1:8888'"),
        (&["127.0.0.1:80"], "write '--bind 127.0.0.1:80'"),
        (&["localhost:80"], "write '--bind ADDR': host names are not resolved"),
        (&["/etc/w.toml"], "write '--config /etc/w.toml'"),
        (&["check", "--user", "no-such-user"], "no user \"no-such-user\""),
        (&["check", "a", "--config", "b"], "cannot be used with"),
        (&["--bind", "127.0.0.1"], "the port is missing: write \"127.0.0.1:8888\""),
        (&["--log-level", "loud"], "debug"),
        (&["chek"], "check"),
    ] {
        let outcome = Outcome::of(wsecho().args(args));
        assert_eq!(outcome.code(), 2, "{args:?}");
        assert!(outcome.stderr.contains(sentence), "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn an_explicit_config_must_exist() {
    for command in ["serve", "check"] {
        let outcome = Outcome::of(wsecho().args([command, "--config", "/nonexistent/wsecho.toml"]));
        assert_eq!(outcome.code(), 78, "{command}");
        let expected = "wsecho: cannot read /nonexistent/wsecho.toml: No such file or directory";
        assert!(outcome.stderr.starts_with(expected), "{}", outcome.stderr);
    }
}

#[test]
fn an_unreadable_config_does_not_fall_back_to_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = Outcome::of(wsecho().arg("--config").arg(dir.path()));
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
    let file = dir.path().join("latin1.toml");
    std::fs::write(&file, b"# gr\xfc\xdfe\n").unwrap();
    let outcome = Outcome::of(wsecho().arg("--config").arg(file));
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
}

#[test]
fn a_snippet_is_printed_for_the_addresses_and_paths_of_this_service() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wsecho.toml");
    std::fs::write(&file, "bind = \"0.0.0.0:8000\"\n[[endpoint]]\npath = \"/ws\"\n").unwrap();
    for (proxy, address, path) in [
        ("nginx", "server 127.0.0.1:8000 max_fails=0;", "^(/ws)$"),
        ("haproxy", "server wsecho 127.0.0.1:8000 check", "{ path /ws }"),
        ("apache", "ProxyPass \"/ws\" \"ws://127.0.0.1:8000/ws\"", "\"/ws\""),
        ("caddy", "reverse_proxy 127.0.0.1:8000 {", "@wsecho path /ws\n"),
    ] {
        let outcome = Outcome::of(wsecho().args(["snippet", proxy, "--config"]).arg(&file));
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
        let text = outcome.stdout;
        assert!(text.contains(address) && text.contains(path), "{text}");
        assert!(!text.contains("/socket"), "{text}");
    }
    let bound = ["snippet", "nginx", "--bind", "unix:/run/wsecho.sock", "--config"];
    let outcome = Outcome::of(wsecho().args(bound).arg(&file));
    assert!(
        outcome.stdout.contains("\n    server unix:/run/wsecho.sock max_fails=0;\n"),
        "{}",
        outcome.stdout
    );
    std::fs::write(&file, "proxy.proxy_protocol = \"required\"\n").unwrap();
    let outcome = Outcome::of(wsecho().args(["snippet", "nginx", "--config"]).arg(&file));
    assert!(outcome.stdout.contains("\n        proxy_protocol on;\n"), "{}", outcome.stdout);
}

#[test]
fn a_snippet_for_several_machines_names_each_of_them() {
    let machines = ["--upstream", "192.0.2.11:8888", "[2001:db8::12]:80"];
    for (proxy, server) in [("nginx", "server "), ("haproxy", "server wsecho2 ")] {
        let outcome = Outcome::of(wsecho().args(["snippet", proxy]).args(machines));
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
        assert!(outcome.stdout.contains(&format!("{server}[2001:db8::12]:80 ")), "{server}");
        assert!(outcome.stdout.contains(" 192.0.2.11:8888 "), "{}", outcome.stdout);
        assert!(!outcome.stdout.contains(" 127.0.0."), "{}", outcome.stdout);
    }
    for (args, sentence) in [
        (&["nginx", "--upstream", "0.0.0.0:80"][..], "cannot connect to every address"),
        (&["nginx", "--upstream", "echo1:80"], "host names are not resolved"),
        (&["nginx", "--upstream", "192.0.2.1:80", "192.0.2.1:80"], "192.0.2.1:80 twice"),
        (&["varnish", "--upstream", "192.0.2.1:80"], "for nginx and haproxy"),
        (&["nginx", "--upstream", "192.0.2.1:80", "--bind", "192.0.2.1:80"], "cannot be used with"),
    ] {
        let outcome = Outcome::of(wsecho().arg("snippet").args(args));
        assert_eq!((outcome.code(), outcome.stdout.as_str()), (2, ""), "{args:?}");
        assert!(outcome.stderr.contains(sentence), "{sentence} in {}", outcome.stderr);
    }
}

#[test]
fn no_snippet_is_printed_for_a_service_that_would_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wsecho.toml");
    std::fs::write(&file, "bnd = \"0.0.0.0:8000\"\n").unwrap();
    let outcome = Outcome::of(wsecho().args(["snippet", "nginx", "--config"]).arg(&file));
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (78, ""));
    assert!(outcome.stderr.contains("did you mean \"bind\"?"), "{}", outcome.stderr);
}

/// Runs a command of the shell in which `$0` is the program.
fn in_shell(script: &str) -> Outcome {
    Outcome::of(Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_wsecho")]))
}

#[test]
fn output_that_nobody_takes_is_no_panic() {
    let good = "$0 check --bind 127.0.0.1:0";
    let bad = "$0 check --config /nonexistent";
    for (script, code) in [
        // The reader is gone before anything is printed.
        (format!("mkfifo $D/f; (sleep 0 < $D/f) & exec > $D/f; wait; {good}"), 0),
        (format!("mkfifo $D/f; (sleep 0 < $D/f) & exec > $D/f; wait; {good} --print"), 0),
        ("mkfifo $D/f; (sleep 0 < $D/f) & exec > $D/f; wait; $0 snippet nginx".to_owned(), 0),
        ("mkfifo $D/f; (sleep 0 < $D/f) & exec > $D/f; wait; $0 --help".to_owned(), 0),
        (format!("mkfifo $D/f; (sleep 0 < $D/f) & exec 2> $D/f; wait; {bad}"), 78),
        (format!("{good} > /dev/full"), 1),
        ("$0 snippet nginx > /dev/full".to_owned(), 1),
        ("$0 --help > /dev/full".to_owned(), 1),
        ("$0 --version > /dev/full".to_owned(), 1),
        (format!("{bad} 2> /dev/full"), 78),
        ("$0 --nonsense 2> /dev/full".to_owned(), 2),
        (format!("{good} >&- 2>&-"), 0),
        (format!("{bad} >&- 2>&-"), 78),
        ("$0 snippet nginx >&-".to_owned(), 0),
        ("$0 --help >&-".to_owned(), 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let outcome = in_shell(&format!("D={}; {script}", dir.path().display()));
        assert_eq!(outcome.code(), code, "{script}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{script}: {}", outcome.stderr);
    }
}

#[test]
fn help_has_colour_only_where_it_is_wanted() {
    let is_coloured = |name: &str, value: &str| {
        let mut command = wsecho();
        let outcome =
            Outcome::of(command.arg("--help").env("CLICOLOR_FORCE", "1").env(name, value));
        outcome.stdout.contains('\x1b')
    };
    assert!(is_coloured("TERM", "xterm"));
    assert!(!is_coloured("NO_COLOR", "1"));
    assert!(!Outcome::of(wsecho().arg("--help").env("TERM", "dumb")).stdout.contains('\x1b'));
}
