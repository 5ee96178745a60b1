//! The command line: what it prints, and its exit codes.

use crate::service::{Outcome, wsecho};

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
    for part in
        ["--config", "--bind", "--log-level", "serve", "check", "snippet", "78 configuration"]
    {
        assert!(outcome.stdout.contains(part), "{part} in {}", outcome.stdout);
    }
}

#[test]
fn an_invalid_command_line_exits_with_2_and_says_what_is_wrong() {
    for (args, sentence) in [
        (&["--bnd", "x"][..], "--bind"),
        (&["--bind", "localhost:80"], "host names are not resolved"),
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
        ("nginx", "server 127.0.0.1:8000;", "^(/ws)$"),
        ("haproxy", "server wsecho 127.0.0.1:8000 check", "{ path /ws }"),
        ("apache", "ProxyPass \"/ws\" \"ws://127.0.0.1:8000/ws\"", "\"/ws\""),
    ] {
        let outcome = Outcome::of(wsecho().args(["snippet", proxy, "--config"]).arg(&file));
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
        let text = outcome.stdout;
        assert!(text.contains(address) && text.contains(path), "{text}");
        assert!(!text.contains("/socket"), "{text}");
    }
    let bound = ["snippet", "nginx", "--bind", "unix:/run/wsecho.sock", "--config"];
    let outcome = Outcome::of(wsecho().args(bound).arg(&file));
    assert!(outcome.stdout.contains("\n    server unix:/run/wsecho.sock;\n"), "{}", outcome.stdout);
    std::fs::write(&file, "proxy.proxy_protocol = \"required\"\n").unwrap();
    let outcome = Outcome::of(wsecho().args(["snippet", "nginx", "--config"]).arg(&file));
    assert!(outcome.stdout.contains("\n        proxy_protocol on;\n"), "{}", outcome.stdout);
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
