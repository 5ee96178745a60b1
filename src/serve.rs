//! `wsecho serve`: the process around the server.
//!
//! Owns the order of start-up (inherited sockets, configuration, log, threads, signals) and the
//! runtime. It does not know the command line, nor how connections are served.

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Source;
use crate::ops::logging::Logging;
use crate::ops::machine::Machine;
use crate::ops::systemd;
use crate::server::{Server, Signal, StartError};

/// Why the service did not start, or stopped early.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration, or what systemd passed, is invalid: a restart does not help.
    Config(String),
    /// Something outside failed, such as an address in use.
    Failure(String),
    /// A bug: the accept loop has died.
    Internal,
}

impl ServeError {
    fn config(error: impl fmt::Display) -> Self {
        Self::Config(error.to_string())
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(message) | Self::Failure(message) => f.write_str(message),
            Self::Internal => {
                f.write_str("the accept loop has died: please report the panic above")
            }
        }
    }
}

/// Serves until a signal stops it.
///
/// # Errors
/// See [`ServeError`].
pub fn run(source: &Source) -> Result<(), ServeError> {
    // Before any thread starts: taking the sockets changes the environment.
    let inherited = systemd::inherited().map_err(ServeError::config)?;
    let (config, found) = source.load().map_err(ServeError::config)?;
    Machine::raise_limit();
    let machine = Machine::here();
    let logging = Logging::start(config.boot.log_format, config.policy.log_level);
    let lost = logging.lost();
    if !found {
        tracing::info!("{} does not exist: using the defaults", source.path().display());
    }
    if let Some(warning) = config.clamped(machine) {
        tracing::warn!("{warning}");
    }
    let runtime = runtime(config.boot.workers)
        .map_err(|error| ServeError::Failure(format!("cannot start threads: {error}")))?;
    let source = source.clone();
    let reload = move || {
        let (config, _) = source.load()?;
        logging.set_level(config.policy.log_level);
        Ok(config)
    };
    #[expect(clippy::disallowed_methods, reason = "the root task, which waits for all others")]
    let root = runtime.spawn(async move {
        // Before READY, so that no signal meets its default action.
        let signals = signals().map_err(|error| ServeError::Failure(error.to_string()))?;
        let server = Server::bind(config, machine, inherited, lost).map_err(|error| {
            if matches!(error, StartError::Bind(_)) {
                ServeError::Failure(error.to_string())
            } else {
                ServeError::config(error)
            }
        })?;
        server.run(signals, reload).await;
        Ok(())
    });
    runtime.block_on(root).unwrap_or(Err(ServeError::Internal))?;
    // Whatever has not drained is dropped without waiting for it.
    runtime.shutdown_background();
    Ok(())
}

/// A runtime with `workers` threads; 0 means one per core.
fn runtime(workers: usize) -> io::Result<Runtime> {
    let workers = match workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    // With one worker, the multi-threaded scheduler would add 5 % to the cost of a small message.
    let mut builder =
        if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(workers).thread_name("worker").enable_all().build()
}

/// The process's signals, as requests.
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
