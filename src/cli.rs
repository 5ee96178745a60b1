//! The command line: what is asked, and the exit code that answers it.
//!
//! Owns clap, the exit codes, the process' signals and the runtime. It does not know how anything
//! is served.
//!
//! Sources: sysexits(3) for 70 and 78; the conventions of clap for 2.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::task::{Context, Poll};

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Machine, Overrides, Source};
use crate::net::listen::ListenAddr;
use crate::net::proxy_protocol::Expect;
use crate::ops::logging::{self, Level, Logging};
use crate::ops::systemd;
use crate::server::{Server, Signal, StartError};
use crate::ws::diagnosis::snippet::{self, Product, Service};

/// A run-time failure, such as an address in use.
const FAILURE: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// Something that cannot happen did: `EX_SOFTWARE`.
const INTERNAL: u8 = 70;
/// The configuration is wrong: `EX_CONFIG`. systemd does not restart on it.
const CONFIG: u8 = 78;

/// A WebSocket echo service, to prove that WebSockets pass proxies and firewalls
#[derive(Debug, Parser)]
#[command(name = "wsecho", version = version(), after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM; the default
    Serve,
    /// Check the configuration: print "ok" or everything that is wrong, and start nothing
    Check,
    /// Print the configuration with which a proxy passes everything to this service
    Snippet {
        /// The proxy in front
        proxy: Product,
    },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Read this file instead of /etc/wsecho.toml; it must exist
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen here instead of on `bind` of the file; may be given several times
    #[arg(long, global = true, value_name = "ADDR")]
    bind: Vec<ListenAddr>,
    /// Log this much instead of `log.level` of the file
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<Level>,
}

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 run-time failure, 2 usage, 70 internal error, 78 configuration.
SIGHUP reloads the configuration, SIGTERM and SIGINT drain, a second one aborts.";

/// The version, with the commit where the build knew it.
fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("WSECHO_COMMIT") {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

/// The definition that help, man page and completions are made from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line asks, and says how it went.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are "errors" that go to stdout; nobody is left if that is closed.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { USAGE } else { 0 });
        }
    };
    let Options { config, bind, log_level } = cli.options;
    let source = Source { path: config, overrides: Overrides { bind, log_level } };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(&source),
        Command::Check => check(&source),
        Command::Snippet { proxy } => snippet(&source, proxy),
    }
}

fn check(source: &Source) -> ExitCode {
    match source.load() {
        Ok((config, found)) => {
            if !found {
                eprintln!("note: there is no {}: these are the defaults", source.path().display());
            }
            for warning in config.warnings(Machine::here()) {
                eprintln!("warning: {warning}");
            }
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(error) => fail(CONFIG, &error),
    }
}

fn snippet(source: &Source, proxy: Product) -> ExitCode {
    let config = match source.load() {
        Ok((config, _)) => config,
        Err(error) => return fail(CONFIG, &error),
    };
    let service = Service {
        bind: &config.boot.bind,
        paths: config.policy.endpoints.iter().map(|endpoint| endpoint.path.as_str()).collect(),
        proxy_protocol: config.policy.proxy.protocol == Expect::Required,
    };
    match io::stdout().write_all(snippet::render(proxy, &service).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILURE, &format_args!("cannot write the configuration: {error}")),
    }
}

fn serve(source: &Source) -> ExitCode {
    // Before any thread starts: taking the sockets changes the environment.
    let inherited = match systemd::inherited() {
        Ok(inherited) => inherited,
        Err(error) => return fail(CONFIG, &error),
    };
    let (config, found) = match source.load() {
        Ok(loaded) => loaded,
        Err(error) => return fail(CONFIG, &error),
    };
    Machine::raise_limit();
    let machine = Machine::here();
    let logging = Logging::start(config.boot.log_format, config.policy.log_level);
    let lost = logging.lost();
    if !found {
        tracing::info!("there is no {}: the defaults hold", source.path().display());
    }
    if let Some(warning) = config.clamped(machine) {
        tracing::warn!("{warning}");
    }
    let workers = match config.boot.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    // A scheduler for several threads costs a twentieth of a small message, also with one.
    let mut builder =
        if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(workers);
    let runtime = match builder.thread_name("worker").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILURE, &format_args!("cannot start threads: {error}")),
    };
    let source = source.clone();
    let reload = move || {
        let (config, _) = source.load()?;
        logging.set_level(config.policy.log_level);
        Ok(config)
    };
    #[expect(clippy::disallowed_methods, reason = "the root task: it waits for all the others")]
    let root = runtime.spawn(async move {
        // Before READY, so that no signal finds its default action.
        let signals = signals().map_err(|error| (FAILURE, error.to_string()))?;
        let server = Server::bind(config, machine, inherited, lost).map_err(|error| {
            let code = if matches!(error, StartError::Bind(_)) { FAILURE } else { CONFIG };
            (code, error.to_string())
        })?;
        server.run(signals, reload).await;
        Ok(())
    });
    match runtime.block_on(root) {
        Ok(Ok(())) => {
            // What did not drain is dropped with the runtime, without waiting for it.
            runtime.shutdown_background();
            ExitCode::SUCCESS
        }
        Ok(Err((code, message))) => fail(code, &message),
        Err(_) => fail(INTERNAL, &"the accept loop has died: please report the panic above"),
    }
}

/// The signals of the process, as what they ask for.
fn signals() -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<Signal>> {
    let mut reload = signal(SignalKind::hangup())?;
    let mut stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    Ok(move |cx: &mut Context<'_>| {
        if stop.iter_mut().any(|stop| stop.poll_recv(cx).is_ready()) {
            Poll::Ready(Signal::Stop)
        } else {
            reload.poll_recv(cx).map(|_| Signal::Reload)
        }
    })
}

fn fail(code: u8, error: &impl std::fmt::Display) -> ExitCode {
    logging::print_error(error);
    ExitCode::from(code)
}
