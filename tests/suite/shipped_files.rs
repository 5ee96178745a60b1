//! Shipped files agree with the code.
//!
//! With `UPDATE=1` in the environment the generated ones are written instead of compared.

mod reference;
mod security;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap_complete::Shell;
use wsecho::config::{Config, parse};
use wsecho::http::options::{Documented, OPTIONS};
use wsecho::net::addr::ListenAddr;
use wsecho::ops::metrics::Label;
use wsecho::proxy::diagnosis::{Diagnosis, Verdict};
use wsecho::proxy::snippet::{Backend, Product, render};
use wsecho::ws::handshake::{Connection, Front, Trace, Upgrade};

fn shipped(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn compare(path: &str, generated: &[u8]) {
    let mut committed = fs::read(shipped(path)).unwrap_or_default();
    // Other tests read it meanwhile.
    if committed != generated && std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(shipped(path).parent().expect("a folder")).unwrap();
        fs::write(shipped(path), generated).unwrap();
        committed = generated.to_vec();
    }
    assert!(
        committed == generated,
        "{path} is out of date: run `UPDATE=1 cargo test --test suite`"
    );
}

/// The command as it is installed: without the commit, which only a release build knows.
fn command() -> clap::Command {
    wsecho::cli::command().version(env!("CARGO_PKG_VERSION"))
}

/// A page from docs/templates, with the text for each of its marks.
fn filled(template: &str, marks: &[(&str, &str)]) -> String {
    let mut page = fs::read_to_string(shipped("docs/templates").join(template)).unwrap();
    for (mark, text) in marks {
        assert!(page.contains(mark), "{mark} in {template}");
        page = page.replace(mark, text);
    }
    page
}

/// An option of a command.
fn option(option: &clap::Arg) -> Option<String> {
    let name = option.get_long()?.replace('-', "\\-");
    let value = if option.get_action().takes_values() {
        let names = option.get_value_names().expect("it takes a value");
        format!(" \\fI{}\\fR", names[0])
    } else {
        String::new()
    };
    let help = option.get_help().expect("every option says what it does");
    Some(format!(".TP\n\\fB\\-\\-{name}\\fR{value}\n{help}.\n"))
}

/// Each command and what it does, with its own options unless they have a page of their own.
fn commands(command: &clap::Command) -> String {
    let entry = |subcommand: &clap::Command| {
        let about = subcommand.get_about().expect("every command says what it does");
        if subcommand.get_name() == "probe" {
            return format!(".TP\n.B probe\n{about}: see\n.BR wsecho\\-probe (1).\n");
        }
        let values = subcommand.get_positionals().flat_map(clap::Arg::get_possible_values);
        let values: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
        let name = format!("{} {}", subcommand.get_name(), values.join("|"));
        // Those of the service are described once, above.
        let is_own = |it: &&clap::Arg| command.get_arguments().all(|of| of.get_id() != it.get_id());
        let options = subcommand.get_arguments().filter(is_own);
        let options: String = options.filter_map(option).collect();
        let options = if options.is_empty() { options } else { format!(".RS\n{options}.RE\n") };
        format!(".TP\n.B {}\n{about}.\n{options}", name.trim_end())
    };
    command.get_subcommands().map(entry).collect()
}

/// Each option in the URL of a session.
fn sessions() -> String {
    let entry = |option: &Documented| {
        // What is in capitals stands for something.
        let set = |piece: &str| {
            let word = piece.trim_end_matches(|sign: char| !sign.is_alphabetic());
            let sign = &piece[word.len()..];
            let stands = !word.is_empty() && word.chars().all(char::is_uppercase);
            if stands { format!("\\fI{word}\\fB{sign}") } else { piece.to_owned() }
        };
        let pieces = option.value.split_inclusive(|sign: char| !sign.is_alphabetic());
        let value: String = pieces.map(set).collect();
        let bold = |(index, part): (usize, &str)| {
            if index % 2 == 0 { part.to_owned() } else { format!("\\fB{part}\\fR") }
        };
        let meaning: String = option.meaning.split('`').enumerate().map(bold).collect();
        format!(".TP\n\\fB{}={value}\\fR\n{}.\n", option.name, meaning.replace(". ", ".\n"))
    };
    OPTIONS.iter().map(entry).collect()
}

#[test]
fn the_man_page_is_that_of_the_command_line() {
    let command = command();
    let mut options = Vec::new();
    clap_mangen::Man::new(command.clone()).render_options_section(&mut options).unwrap();
    let page = filled(
        "wsecho.8",
        &[
            ("@VERSION@", env!("CARGO_PKG_VERSION")),
            ("@ABOUT@", &command.get_about().expect("it says what it is").to_string()),
            ("@COMMANDS@\n", &commands(&command)),
            ("@OPTIONS@\n", std::str::from_utf8(&options).unwrap()),
            ("@SESSIONS@\n", &sessions()),
        ],
    );
    compare("docs/wsecho.8", page.as_bytes());
}

#[test]
fn the_man_page_of_the_probe_is_that_of_its_options_and_failures() {
    let command = command();
    let probe = command.find_subcommand("probe").expect("it is a command");
    let mut options = Vec::new();
    let without_help = probe.clone().after_help(None::<&str>);
    clap_mangen::Man::new(without_help).render_options_section(&mut options).unwrap();
    let page = filled(
        "wsecho-probe.1",
        &[
            ("@VERSION@", env!("CARGO_PKG_VERSION")),
            ("@ABOUT@", &probe.get_about().expect("it says what it is").to_string()),
            ("@OPTIONS@\n", std::str::from_utf8(&options).unwrap()),
            ("@FAILURES@\n", &reference::failures()),
        ],
    );
    compare("docs/wsecho-probe.1", page.as_bytes());
}

#[test]
fn the_man_page_of_the_configuration_is_that_of_the_keys() {
    let version = ("@VERSION@", env!("CARGO_PKG_VERSION"));
    let page = filled("wsecho.toml.5", &[version, ("@KEYS@\n", &reference::manual())]);
    compare("docs/wsecho.toml.5", page.as_bytes());
}

#[test]
fn the_shipped_configuration_is_that_of_the_keys() {
    let text = filled("wsecho.toml", &[("@KEYS@\n", &reference::configuration())]);
    compare("config/wsecho.toml", text.as_bytes());
}

#[test]
fn the_completions_are_those_of_the_command_line() {
    for (shell, path) in [
        (Shell::Bash, "packaging/completions/wsecho.bash"),
        (Shell::Zsh, "packaging/completions/_wsecho"),
        (Shell::Fish, "packaging/completions/wsecho.fish"),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command(), "wsecho", &mut script);
        compare(path, &script);
    }
}

/// A key's line is `#key = value`; other comments begin with `# `.
fn uncommented() -> String {
    let text = fs::read_to_string(shipped("config/wsecho.toml")).unwrap();
    let bare = |line: &str| {
        line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned()
    };
    text.lines().map(|line| bare(line) + "\n").collect()
}

#[test]
fn the_shipped_configuration_is_the_defaults_also_when_uncommented() {
    let shipped = fs::read_to_string(shipped("config/wsecho.toml")).unwrap();
    assert_eq!(parse(&shipped), Ok(Config::default()));
    let mut uncommented = parse(&uncommented()).expect("it is valid");
    // Given as a value, it is binding; as the default, it adapts to the descriptor limit.
    assert_eq!(uncommented.boot.max_connections.take(), Some(10_000));
    assert_eq!(uncommented, Config::default());
}

#[test]
fn the_shipped_configuration_shows_every_key() {
    // The finding about an unknown key lists the valid ones.
    let wrong =
        "zz=1\nlimits.zz=1\ntimeouts.zz=1\nshutdown.zz=1\nlog.zz=1\n[[endpoint]]\npath=\"/\"\nzz=1";
    let findings = parse(wrong).unwrap_err();
    assert_eq!(findings.len(), 6, "{findings:?}");
    let text = uncommented();
    for finding in findings {
        let (_, keys) = finding.message.split_once("valid keys: ").expect("no key is near \"zz\"");
        for key in keys.split(", ") {
            let shown = [format!("\n{key} = "), format!("\n[{key}]"), format!("\n[[{key}]]")];
            assert!(shown.iter().any(|shown| text.contains(shown)), "{key}");
        }
    }
}

/// The configuration of a proxy for the service as it is installed.
fn snippet(product: Product) -> String {
    let Config { boot, policy } = Config::default();
    let paths = policy.endpoints.iter().map(|endpoint| endpoint.path.as_str()).collect();
    let bind = &boot.bind;
    render(product, &Backend { bind, machines: &[], paths, proxy_protocol: false })
}

#[test]
fn the_packaged_configurations_of_proxies_are_those_that_the_command_prints() {
    for (product, path) in [
        (Product::Nginx, "packaging/nginx/wsecho.conf"),
        (Product::Haproxy, "packaging/haproxy/wsecho.cfg"),
        (Product::Apache, "packaging/apache/wsecho.conf"),
        (Product::Caddy, "packaging/caddy/wsecho.caddyfile"),
        (Product::Traefik, "packaging/traefik/wsecho.yml"),
        (Product::Envoy, "packaging/envoy/envoy.yaml"),
        (Product::Varnish, "packaging/varnish/wsecho.vcl"),
        (Product::Lighttpd, "packaging/lighttpd/wsecho.conf"),
    ] {
        compare(path, snippet(product).as_bytes());
    }
}

#[test]
fn the_page_about_proxies_shows_the_packaged_configurations() {
    let mut page = fs::read_to_string(shipped("docs/proxies.md")).unwrap();
    for (product, name) in
        [(Product::Nginx, "nginx"), (Product::Haproxy, "haproxy"), (Product::Apache, "apache")]
    {
        let begin = format!("<!-- wsecho snippet {name} -->\n```{name}\n");
        let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
        let (_, after) = rest.split_once("```\n").expect("the block ends");
        page = format!("{before}{begin}{}```\n{after}", snippet(product));
    }
    compare("docs/proxies.md", page.as_bytes());
}

#[test]
fn the_page_about_proxies_explains_every_verdict() {
    let page = fs::read_to_string(shipped("docs/proxies.md")).unwrap();
    let upgrades = [Upgrade::Absent, Upgrade::WebSocket, Upgrade::Other];
    let connections =
        [Connection::Absent, Connection::Upgrade, Connection::KeepAlive, Connection::Other];
    // Whatever a handshake can look like.
    for bits in 0..8 {
        let [http_1_1, key, named] = [1, 2, 4].map(|bit| bits & bit != 0);
        let fronts = if named { [Front::Apache, Front::Envoy] } else { [Front::Unnamed; 2] };
        for upgrade in upgrades {
            for connection in connections {
                for front in fronts {
                    let trace = Trace { http_1_1, upgrade, connection, key, front };
                    explained(&page, Diagnosis::of(trace).verdict);
                }
            }
        }
    }
    for verdict in [
        Verdict::TlsSpoken,
        Verdict::Http2Spoken,
        Verdict::ProxyUnexpected,
        Verdict::ProxyMissing,
        Verdict::ProxyMalformed(""),
        Verdict::ProxyTooLong,
        Verdict::ProxyDoubled,
        Verdict::ProxyUntrusted,
        Verdict::HostLost,
        Verdict::NoEndpoint,
    ] {
        explained(&page, verdict);
    }
}

fn explained(page: &str, verdict: Verdict) {
    let label = verdict.label();
    assert!(page.contains(&format!("| `{label}` |")), "{label}");
}

#[test]
fn the_address_assumed_for_sockets_from_systemd_is_that_of_the_shipped_unit() {
    let unit = fs::read_to_string(shipped("systemd/wsecho.socket")).unwrap();
    let addr = unit.lines().find_map(|line| line.strip_prefix("ListenStream=")).unwrap();
    let (bind, paths) = (&[ListenAddr::Inherited], vec!["/"]);
    let backend = Backend { bind, machines: &[], paths, proxy_protocol: false };
    let text = render(Product::Nginx, &backend);
    assert!(text.contains(&format!("\n    server {addr} max_fails=0;\n")), "{addr} in {text}");
}

#[test]
fn an_instance_runs_as_the_service_does_but_for_what_it_shares() {
    let [service, instance] = ["wsecho.service", "wsecho@.service"].map(|name| {
        let unit = fs::read_to_string(shipped(&format!("systemd/{name}"))).unwrap();
        let settings = unit.lines().filter(|line| line.contains('=') && !line.starts_with('#'));
        settings.map(str::to_owned).collect::<BTreeSet<_>>()
    });
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
        one.difference(other).cloned().collect()
    };
    assert_eq!(
        only(&service, &instance),
        [
            "After=network-online.target",
            "Description=WebSocket echo service",
            "Environment=WSECHO_CONFIG=/etc/wsecho.toml",
            "RuntimeDirectory=wsecho",
            "StartLimitBurst=50",
            "StartLimitInterval=10s",
            "WantedBy=multi-user.target",
        ]
    );
    assert_eq!(
        only(&instance, &service),
        [
            "After=network-online.target wsecho.socket",
            "Description=WebSocket echo service, instance %i",
            "Environment=WSECHO_ADMIN_BIND=unix:/run/wsecho-%i/admin.sock",
            "Environment=WSECHO_BIND=systemd",
            "Environment=WSECHO_CONFIG=/etc/wsecho/%i.toml:/etc/wsecho.toml",
            "Environment=WSECHO_INSTANCE=%i",
            "PartOf=wsecho.target wsecho.socket",
            "RuntimeDirectory=wsecho-%i",
            "Sockets=wsecho.socket",
            "StartLimitInterval=0",
            "SyslogIdentifier=wsecho@%i",
            "TimeoutStartSec=20s",
            "WantedBy=wsecho.target",
        ]
    );
}
