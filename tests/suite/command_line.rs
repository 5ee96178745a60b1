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
    for part in ["--config", "--bind", "--log-level", "serve", "check", "78 configuration"] {
        assert!(outcome.stdout.contains(part), "{part} in {}", outcome.stdout);
    }
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_is_wrong() {
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
fn a_config_that_is_named_must_exist() {
    for command in ["serve", "check"] {
        let outcome = Outcome::of(wsecho().args([command, "--config", "/nonexistent/wsecho.toml"]));
        assert_eq!(outcome.code(), 78, "{command}");
        let expected = "wsecho: cannot read /nonexistent/wsecho.toml: No such file or directory";
        assert!(outcome.stderr.starts_with(expected), "{}", outcome.stderr);
    }
}

#[test]
fn a_config_that_cannot_be_read_is_not_taken_for_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = Outcome::of(wsecho().arg("--config").arg(dir.path()));
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
    let file = dir.path().join("latin1.toml");
    std::fs::write(&file, b"# gr\xfc\xdfe\n").unwrap();
    let outcome = Outcome::of(wsecho().arg("--config").arg(file));
    assert_eq!(outcome.code(), 78, "{}", outcome.stderr);
}
