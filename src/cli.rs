//! The command line: syntax and exit codes.
//!
//! Owns clap and the meaning of each exit code. It does not know how anything is served.
//!
//! Sources: sysexits(3) for 70 and 78; the conventions of clap for 2.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{self, Config, Loaded, Source, UserError};
use crate::doctor;
use crate::net::addr::ListenAddr;
use crate::ops::logging::{self, Level};
use crate::ops::machine::Machine;
use crate::probe;
use crate::probe::args::Format;
use crate::probe::report::{Report, json, nagios, prometheus, terminal};
use crate::proxy::protocol::Expect;
use crate::proxy::snippet::{self, Backend, Product};
use crate::serve::{self, ServeError};

/// A failure at run time, such as an address in use.
const FAILURE: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// An internal error: `EX_SOFTWARE`.
const INTERNAL: u8 = 70;
/// The configuration is invalid: `EX_CONFIG`. The unit does not restart on it.
const CONFIG: u8 = 78;

/// WebSocket echo service to prove that WebSockets get through proxies and firewalls
#[derive(Debug, Parser)]
#[command(name = "wsecho", version = version(), after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until SIGTERM (the default)
    Serve(Options),
    /// Check the configuration: print "ok", or everything that is wrong with it
    Check(Check),
    /// Print a proxy configuration that passes WebSockets to this service
    Snippet {
        #[command(flatten)]
        options: Options,
        /// The proxy in front of the service
        proxy: Product,
        /// Share sessions among machines that listen on these addresses; nginx and haproxy only
        #[arg(long, value_name = "ADDR", num_args = 1.., value_parser = snippet::machine)]
        upstream: Vec<SocketAddr>,
    },
    /// Prove that WebSockets work on a path, stage by stage, or say why they do not
    #[command(after_help = probe::args::AFTER_HELP)]
    Probe(Box<probe::args::Args>),
    /// Find what is wrong on this host, from the unit to the proxy in front, and what fixes it
    #[command(after_help = doctor::AFTER_HELP)]
    Doctor {
        #[command(flatten)]
        options: Options,
        /// The form of the report: terminal or json
        #[arg(long, value_name = "FORM", value_enum, default_value_t)]
        format: doctor::Format,
    },
}

/// What the service itself takes, before or after the name of a command that reads its configuration.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
struct Options {
    /// Read this configuration file instead of /etc/wsecho.toml; it must exist
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on this address instead of those in the file; can be repeated
    #[arg(short, long, value_name = "ADDR")]
    bind: Vec<ListenAddr>,
    /// Log at this level instead of the one in the file
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<Level>,
}

impl Options {
    /// These, or else those in front of the command.
    fn or(self, before: Self) -> Source {
        let mut source = Source::new(std::env::vars_os());
        source.path = self.config.or(before.config);
        source.overrides.bind = if self.bind.is_empty() { before.bind } else { self.bind };
        source.overrides.log_level = self.log_level.or(before.log_level);
        source
    }
}

#[derive(Debug, clap::Args)]
struct Check {
    #[command(flatten)]
    options: Options,
    /// The same as --config
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
    /// Print every key with its value and where that comes from
    #[arg(long)]
    print: bool,
    /// Check as this user, such as wsecho: whether it may read the file and open the ports
    #[arg(long)]
    user: Option<String>,
}

const AFTER_HELP: &str = "\
By default it listens on 127.0.0.1:8888, and echoes on /socket (with the prefix \"server: \") and
/echo (verbatim): ws://127.0.0.1:8888/echo.

ADDR is one of
  127.0.0.1:8888                  this host only; 0.0.0.0:8888 is every IPv4 address
  [::1]:8888                      the same for IPv6; [::]:8888 is every IPv6 address
  unix:/run/wsecho/wsecho.sock    a Unix socket
  systemd                         the sockets that wsecho.socket passes
Example: wsecho --bind 127.0.0.1:9000 --bind '[::1]:9000'

Exit codes: 0 success, 1 failure at run time, 2 usage, 70 internal error, 78 configuration.
SIGHUP reloads the configuration; SIGTERM and SIGINT drain and exit, a second one aborts.";

/// The version, with the commit if the build knew it.
fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("WSECHO_COMMIT") {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

/// The definition from which help, man page and completions are generated.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the command line asks for, and returns the exit code.
#[must_use]
pub fn run() -> ExitCode {
    let Cli { options: before, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return usage(answer),
    };
    match command.unwrap_or(Command::Serve(Options::default())) {
        Command::Serve(options) => serve(&options.or(before)),
        Command::Check(Check { options, file, print, user }) => {
            let options = Options { config: options.config.or(file), ..options };
            check(&options.or(before), print, user.as_deref())
        }
        Command::Snippet { options, proxy, upstream } => {
            snippet(&options.or(before), proxy, &upstream)
        }
        Command::Probe(_) if before != Options::default() => {
            let text = "a probe takes no --config, --bind or --log-level: they are the service's";
            usage(Cli::command().error(ErrorKind::ArgumentConflict, text))
        }
        Command::Probe(args) => probe(*args),
        Command::Doctor { options, format } => doctor(&options.or(before), format),
    }
}

/// Prints help or the version, or what is wrong with the command line.
fn usage(mut answer: clap::Error) -> ExitCode {
    mask(&mut answer);
    if let Some(tip) = tip(&answer) {
        answer.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    if answer.use_stderr() && is_plugin() {
        let text = answer.render().to_string();
        let what = text.split("\n\n").next().unwrap_or_default();
        return unprobed(Format::Nagios, USAGE, &what.trim_start_matches("error: "));
    }
    let printed_answer = answer.print();
    if answer.use_stderr() { ExitCode::from(USAGE) } else { printed(printed_answer) }
}

/// Masks what may be a secret in what is shown of the command line: URLs have passwords, also those
/// that are given to the wrong command.
fn mask(answer: &mut clap::Error) {
    let option = match answer.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => option.clone(),
        _ => String::new(),
    };
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand]
    {
        if let Some(ContextValue::String(value)) = answer.get(kind) {
            let of = if kind == ContextKind::InvalidArg { "" } else { &option };
            let shown = probe::args::shown(of, value);
            answer.insert(kind, ContextValue::String(shown));
        }
    }
}

/// What to write instead of what people write.
fn tip(answer: &clap::Error) -> Option<String> {
    let given = |kind| match answer.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let option = given(ContextKind::InvalidArg).unwrap_or_default();
    let of_probe = match answer.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string().contains(" probe "),
        _ => false,
    };
    match option.trim_start_matches('-').split('=').next()? {
        "p" | "port" | "P" | "addr" | "address" | "b" | "bind" if of_probe => {
            return Some(
                "write the address and the port in the URL: ws://HOST:PORT/PATH".to_owned(),
            );
        }
        _ if of_probe => return None,
        "p" | "port" | "P" | "l" | "listen" | "host" | "addr" | "address" | "H" => {
            return Some("write '--bind 127.0.0.1:8888' for the address and the port".to_owned());
        }
        "f" | "file" | "conf" => return Some("write '--config FILE'".to_owned()),
        _ => {}
    }
    let command = given(ContextKind::InvalidSubcommand)?;
    match command.parse::<ListenAddr>() {
        Ok(_) => Some(format!("write '--bind {command}' to listen there")),
        Err(error) if command.contains(':') => Some(format!("write '--bind ADDR': {error}")),
        Err(_) if command.contains(['/', '.']) => {
            Some(format!("write '--config {command}' to read that file"))
        }
        Err(_) => None,
    }
}

/// Whether a command line that cannot be parsed is that of a Nagios plugin.
fn is_plugin() -> bool {
    let args: Vec<_> = std::env::args_os().collect();
    let apart = args.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "nagios");
    apart || args.iter().any(|arg| arg == "--format=nagios")
}

fn check(source: &Source, print: bool, user: Option<&str>) -> ExitCode {
    let mut notes = Vec::new();
    match user.map_or(Ok(()), config::become_user) {
        Ok(()) => {}
        // The unit's ExecReload= is run by the user that the unit was changed to.
        Err(error @ UserError::NotRoot) => notes.push(format!("warning: {error}")),
        Err(error @ UserError::Unknown(_)) => return fail(USAGE, &error),
        Err(error @ UserError::Refused(..)) => return fail(FAILURE, &error),
    }
    let (loaded, found) = match source.load() {
        Ok(loaded) => loaded,
        Err(error) => return fail(CONFIG, &error),
    };
    let file = source.path();
    if !found {
        notes.push(format!("note: {} does not exist: these are the defaults", file.display()));
    }
    let Loaded { config, .. } = &loaded;
    let machine = Machine::here();
    let warnings = loaded.warnings(machine).into_iter().map(|it| format!("warning: {it}"));
    let obstacles = config.obstacles(machine).into_iter();
    notes.extend(warnings.chain(obstacles.map(|it| format!("warning: it would not start: {it}"))));
    for note in notes {
        // Nobody is left to be told when stderr is closed.
        let _ = writeln!(io::stderr(), "{note}");
    }
    output(&match (print, found) {
        (true, _) => loaded.show(&file),
        (false, true) => format!("{}: ok\n", file.display()),
        (false, false) => "ok\n".to_owned(),
    })
}

fn snippet(source: &Source, proxy: Product, machines: &[SocketAddr]) -> ExitCode {
    let wrong = |what: String| usage(command().error(ErrorKind::ValueValidation, what));
    if !machines.is_empty() && !proxy.takes_machines() {
        return wrong("--upstream is for nginx and haproxy".into());
    }
    if !machines.is_empty() && !source.overrides.bind.is_empty() {
        return wrong(
            "--upstream cannot be used with --bind: it names the addresses itself".into(),
        );
    }
    let twice = |(index, machine): (usize, &SocketAddr)| machines[..index].contains(machine);
    if let Some((_, machine)) = machines.iter().enumerate().find(|it| twice(*it)) {
        return wrong(format!("--upstream names {machine} twice"));
    }
    let Config { boot, policy } = match source.load() {
        Ok((loaded, _)) => loaded.config,
        Err(error) => return fail(CONFIG, &error),
    };
    let backend = Backend {
        bind: &boot.bind,
        machines,
        paths: policy.endpoints.iter().map(|endpoint| endpoint.path.as_str()).collect(),
        proxy_protocol: policy.proxy.protocol == Expect::Required,
    };
    output(&snippet::render(proxy, &backend))
}

fn probe(args: probe::args::Args) -> ExitCode {
    let style = terminal::Style {
        colour: io::stdout().is_terminal() && logging::wants_colour(|name| std::env::var_os(name)),
        verbose: args.verbose,
        quiet: args.quiet,
    };
    let show = args.show.clone();
    let (targets, options) = match args.plan() {
        Ok(plan) => plan,
        Err(error) => return unprobed(show.format, USAGE, &error),
    };
    let reports = match probe::run_all(&targets, &options) {
        Ok(reports) => reports,
        Err(error) => {
            return unprobed(show.format, FAILURE, &format_args!("cannot start: {error}"));
        }
    };
    let healthy = reports.iter().all(Report::is_healthy);
    let code = if healthy { 0 } else { FAILURE };
    let (text, code) = match show.format {
        Format::Terminal => {
            let texts: Vec<_> = reports.iter().map(|it| terminal::print(it, style)).collect();
            (texts.join(if style.quiet { "" } else { "\n" }), code)
        }
        Format::Nagios => {
            let (text, state) = nagios::print(&reports, &show.limits());
            (text, state as u8)
        }
        Format::Json => (json::print(&reports), code),
        Format::Prometheus => (prometheus::print(&reports), code),
    };
    let printed = match show.output {
        None => output(&text),
        Some(file) => match prometheus::replace(&file, &text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                return fail(USAGE, &format_args!("--output {}: {error}", file.display()));
            }
        },
    };
    if code == 0 { printed } else { ExitCode::from(code) }
}

fn doctor(source: &Source, format: doctor::Format) -> ExitCode {
    let report = doctor::run(source);
    let printed = output(&match format {
        doctor::Format::Terminal => report.terminal(),
        doctor::Format::Json => report.json(),
    });
    if report.is_healthy() { printed } else { ExitCode::from(FAILURE) }
}

/// The end of a probe that could not begin. Nagios shows what is on stdout.
fn unprobed(format: Format, code: u8, error: &impl std::fmt::Display) -> ExitCode {
    if format != Format::Nagios {
        return fail(code, error);
    }
    let _ = output(&nagios::unknown(&error.to_string()));
    ExitCode::from(nagios::State::Unknown as u8)
}

fn serve(source: &Source) -> ExitCode {
    match serve::run(source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match error {
                ServeError::Config(_) => CONFIG,
                ServeError::Failure(_) => FAILURE,
                ServeError::Internal => INTERNAL,
            };
            fail(code, &error)
        }
    }
}

/// The only way to stdout: `println!` would panic where nobody reads.
fn output(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    printed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The exit code of a command that succeeds if its result is printed.
fn printed(result: io::Result<()>) -> ExitCode {
    match result {
        // A reader such as head(1) has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(FAILURE, &format_args!("cannot print: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

fn fail(code: u8, error: &impl std::fmt::Display) -> ExitCode {
    logging::print_error(error);
    ExitCode::from(code)
}
