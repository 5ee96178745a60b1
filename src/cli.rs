//! The command line: syntax and exit codes.
//!
//! Owns clap and the meaning of each exit code. It does not know how anything is served.
//!
//! Sources: sysexits(3) for 70 and 78; the conventions of clap for 2.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{Overrides, Source};
use crate::net::addr::ListenAddr;
use crate::ops::logging::{self, Level};
use crate::ops::machine::Machine;
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
#[command(name = "wsecho", version = version(), after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until SIGTERM (the default)
    Serve,
    /// Check the configuration: print "ok", or everything that is wrong with it
    Check,
    /// Print a proxy configuration that passes WebSockets to this service
    Snippet {
        /// The proxy in front of the service
        proxy: Product,
    },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Read this configuration file instead of /etc/wsecho.toml; it must exist
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on this address instead of those in the file; can be repeated
    #[arg(long, global = true, value_name = "ADDR")]
    bind: Vec<ListenAddr>,
    /// Log at this level instead of the one in the file
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<Level>,
}

const EXIT_CODES: &str = "\
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are "errors" for stdout. If that is closed, there is no one to tell.
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
                eprintln!(
                    "note: {} does not exist: checking the built-in defaults",
                    source.path().display()
                );
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
    let backend = Backend {
        bind: &config.boot.bind,
        paths: config.policy.endpoints.iter().map(|endpoint| endpoint.path.as_str()).collect(),
        proxy_protocol: config.policy.proxy.protocol == Expect::Required,
    };
    match io::stdout().write_all(snippet::render(proxy, &backend).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILURE, &format_args!("cannot write to stdout: {error}")),
    }
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

fn fail(code: u8, error: &impl std::fmt::Display) -> ExitCode {
    logging::print_error(error);
    ExitCode::from(code)
}
