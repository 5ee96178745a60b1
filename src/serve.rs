//! `wsecho serve`: the process around the server.
//!
//! Owns the order of start-up (signals, inherited sockets, configuration, log, threads) and the
//! runtime. It does not know the command line, nor how connections are served.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{ConfigError, Loaded, Pinned, Source};
use crate::ops::logging::Logging;
use crate::ops::machine::Machine;
use crate::ops::systemd;
use crate::server::{Server, Signal};

/// How long aborted sessions have to log their end.
const ABORT_PATIENCE: Duration = Duration::from_secs(1);

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
    let failed = |error: io::Error| ServeError::Failure(format!("cannot start: {error}"));
    // First of all, so that no signal meets its default action. Signals outlive the runtime that
    // they are created in, which serves until the configuration says how many workers to start.
    let boot = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let mut signals = {
        let _context = boot.enter();
        Signals::new().map_err(failed)?
    };
    // Before any thread starts: taking the sockets changes the environment.
    let inherited = systemd::inherited().map_err(ServeError::config)?;
    let source = Arc::new(Mutex::new(Pinned::new(source.clone())));
    let loaded = boot.block_on(async {
        tokio::select! {
            biased;
            () = poll_fn(|cx| signals.poll_stop(cx)) => None,
            loaded = load(&source) => Some(loaded),
        }
    });
    drop(boot);
    let Some(loaded) = loaded else { return Ok(()) };
    let (loaded, file) = loaded.map_err(ServeError::config)?;
    Machine::raise_limit();
    let machine = Machine::here();
    let warnings = loaded.warnings(machine);
    let config = loaded.config;
    let boot = &config.boot;
    let logging = Logging::start(boot.log_format, config.policy.log_level, &boot.instance);
    let logging = Arc::new(logging);
    let lost = logging.lost();
    if let Some(said) = file {
        tracing::info!("{said}");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = runtime(config.boot.workers)
        .map_err(|error| ServeError::Failure(format!("cannot start threads: {error}")))?;
    let leveled = Arc::clone(&logging);
    let reload = move || {
        let (loading, logging) = (load(&source), Arc::clone(&leveled));
        async move {
            let (Loaded { config, .. }, file) = loading.await?;
            logging.set_level(config.policy.log_level);
            if let Some(said) = file {
                tracing::warn!("{said}");
            }
            Ok(config)
        }
    };
    #[expect(clippy::disallowed_methods, reason = "the root task, which waits for all others")]
    let root = runtime.spawn(async move {
        // This also drops the waker of the first runtime, and with it that runtime's descriptors.
        if poll_fn(|cx| Poll::Ready(signals.poll_stop(cx).is_ready())).await {
            return Ok(());
        }
        let server = Server::bind(config, machine, inherited, lost).map_err(|error| {
            if error.may_heal() {
                ServeError::Failure(error.to_string())
            } else {
                ServeError::config(error)
            }
        })?;
        server.run(|cx| signals.poll(cx), reload).await;
        Ok(())
    });
    let served = runtime.block_on(root).unwrap_or(Err(ServeError::Internal));
    // Sessions that have not drained are dropped here and log that they were aborted, so the log
    // must outlive them. A worker that hangs is not waited for any longer.
    runtime.shutdown_timeout(ABORT_PATIENCE);
    drop(logging);
    served
}

/// Loads the configuration on a thread of its own: a slow or hung disk must hold up neither the
/// sessions nor the exit.
///
/// The second value is what is to be said about the file.
fn load(
    source: &Arc<Mutex<Pinned>>,
) -> impl Future<Output = Result<(Loaded, Option<String>), ConfigError>> + use<> {
    let (tell, told) = oneshot::channel();
    let read = Arc::clone(source);
    let thread = std::thread::Builder::new().name("config".to_owned()).spawn(move || {
        let mut source = read.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody receives it if the service is stopping.
        let _ = tell.send(source.load());
    });
    async move {
        let told = told.await;
        thread.map_err(ConfigError::NotTried)?;
        // Without an answer it has panicked, which is logged.
        told.unwrap_or_else(|dead| Err(ConfigError::NotTried(io::Error::other(dead))))
    }
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
struct Signals {
    reload: unix::Signal,
    step_aside: unix::Signal,
    stop: [unix::Signal; 2],
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            step_aside: signal(SignalKind::user_defined1())?,
            stop: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?],
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        if self.poll_stop(cx).is_ready() {
            return Poll::Ready(Signal::Stop);
        }
        if self.step_aside.poll_recv(cx).is_ready() {
            return Poll::Ready(Signal::StepAside);
        }
        self.reload.poll_recv(cx).map(|_| Signal::Reload)
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.iter_mut().any(|stop| stop.poll_recv(cx).is_ready()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
