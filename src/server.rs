//! The service as a whole: bind, accept, reload, drain.
//!
//! Owns the order of things, the number of connections, and what the service manager is told. It
//! does not know how a connection is served, nor where signals and configurations come from.
//!
//! Source: systemd's daemon(7) and sd_notify(3).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::config::{self, Changes, Config, ConfigError, Machine, TooFew};
use crate::http::conn::{self, Admission};
use crate::http::router::{Lasting, Router};
use crate::net::listen::{BindError, ListenAddr, Listener, Listeners, PeerAddr, Stream};
use crate::ops::logging::Lost;
use crate::ops::systemd::{self, Inherited, NotifyState};
use crate::ws::handshake::Origins;
use crate::ws::session::Budget;

/// How often the service manager may be told a new status.
const STATUS_PERIOD: Duration = Duration::from_secs(5);

/// What the outside asks of a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT: drain, and the second time abort.
    Stop,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `bind` names systemd, which passed no socket.
    #[error(
        "bind = \"systemd\", but systemd passed no socket: start wsecho.socket, or bind an address"
    )]
    NoInherited,
    /// There are too few descriptors for `limits.max_connections`.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
}

/// A server whose addresses are bound.
pub struct Server {
    config: Config,
    listeners: Listeners,
    admin: Listeners,
    places: Places,
    lasting: Arc<Lasting>,
}

impl Server {
    /// Binds every address of the configuration. `lost` counts log lines for the metrics.
    ///
    /// # Errors
    /// When `machine` has no room for the connections, or for the first address that cannot be
    /// listened on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(
        config: Config,
        machine: Machine,
        inherited: Vec<Inherited>,
        lost: Lost,
    ) -> Result<Self, StartError> {
        let places = config.places(machine)?;
        let mut inherited = Some(inherited);
        let mut listeners = Vec::new();
        for addr in &config.boot.bind {
            if *addr != ListenAddr::Inherited {
                listeners.push(Listener::bind(addr, config.boot.unix_mode)?);
                continue;
            }
            let passed = inherited.take().filter(|sockets| !sockets.is_empty());
            for socket in passed.ok_or(StartError::NoInherited)? {
                let failed = |error| BindError::Other(ListenAddr::Inherited, error);
                listeners.push(Listener::adopt(socket).map_err(failed)?);
            }
        }
        if inherited.is_some_and(|sockets| !sockets.is_empty()) {
            tracing::warn!("systemd passed sockets that are not served: add \"systemd\" to bind");
        }
        let bind = |addr| Listener::bind(addr, config.boot.unix_mode);
        let admin = config.boot.admin.iter().map(bind).collect::<Result<_, _>>()?;
        let (listeners, admin) = (Listeners::new(listeners), Listeners::new(admin));
        let lasting = Arc::new(Lasting::new(Budget::new(config.boot.buffer_budget), lost));
        lasting.metrics().limit_connections(places.admitted);
        let places = Places::new(places);
        Ok(Self { config, listeners, admin, places, lasting })
    }

    /// The bound addresses, with the ports that the kernel chose.
    pub fn addrs(&self) -> impl Iterator<Item = &ListenAddr> {
        self.listeners.addrs()
    }

    /// Serves until a signal asks to stop, then drains. Returns how many tasks did not end in time
    /// and die with the runtime.
    ///
    /// `signals` is polled for what the outside asks; `reload` reads the configuration again, and
    /// on an error the old one holds.
    pub async fn run(
        self,
        mut signals: impl FnMut(&mut Context<'_>) -> Poll<Signal>,
        reload: impl Fn() -> Result<Config, ConfigError>,
    ) -> usize {
        let Self { mut config, mut listeners, mut admin, places, lasting } = self;
        let addrs = listeners.addrs().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let router = |config: &Config| {
            Arc::new(Router::new(Arc::clone(&config.policy), Arc::clone(&lasting)))
        };
        let drain = lasting.drain();
        let serve_admin = |(stream, permit)| {
            drain.spawn(conn::serve_admin(stream, Arc::clone(&lasting), permit));
        };
        let sessions = || lasting.metrics().sessions.get();
        let mut status = Status::new(addrs);
        let mut current = router(&config);
        let mut pulse = Pulse::new();
        announce(&listeners, &admin, &config);
        lasting.metrics().loaded();
        systemd::notify(&[NotifyState::Ready, NotifyState::Status(status.first())]);

        let mut period = every(STATUS_PERIOD);
        loop {
            let signal = tokio::select! {
                biased;
                signal = poll_fn(&mut signals) => signal,
                () = pulse.beat() => continue,
                _ = period.tick() => {
                    if let Some(status) = status.changed(sessions()) {
                        systemd::notify(&[NotifyState::Status(status)]);
                    }
                    lasting.limiter.report();
                    continue;
                }
                accepted = places.accept_admin(&mut admin) => {
                    serve_admin(accepted);
                    continue;
                }
                (stream, peer, admission) = places.accept(&mut listeners) => {
                    let router = Arc::clone(&current);
                    drain.spawn(conn::serve(stream, peer, router, admission));
                    continue;
                }
            };
            match signal {
                Signal::Stop => break,
                Signal::Reload => {
                    systemd::notify(&systemd::reloading());
                    let reloaded = reload();
                    lasting.metrics().reload(reloaded.is_ok());
                    status.reload_failed = reloaded.is_err();
                    match reloaded {
                        Ok(new) => {
                            log_changes(&config.changes(&new));
                            config.policy = new.policy;
                            current = router(&config);
                        }
                        Err(error) => {
                            tracing::error!("reload refused, the old configuration holds");
                            for line in error.to_string().lines() {
                                tracing::error!("{line}");
                            }
                        }
                    }
                    let status = status.render(sessions());
                    systemd::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
                }
            }
        }

        tracing::info!(sessions = sessions(), "stopping: draining");
        systemd::notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        drain.begin(config.policy.shutdown.clone());
        // Who is connected already is told 503: with the socket, the kernel would reset it.
        listeners.keep_own();
        loop {
            tokio::select! {
                biased;
                (stream, peer, admission) = places.accept(&mut listeners) => {
                    drain.spawn(conn::serve(stream, peer, Arc::clone(&current), admission));
                }
                () = std::future::ready(()) => break,
            }
            // Every wait of a task has a budget; this begins a new one.
            tokio::task::yield_now().await;
        }
        // A proxy retries a refused connection elsewhere, so the sockets go before the sessions.
        drop(listeners);
        let aborted = loop {
            tokio::select! {
                running = drain.wait() => break running,
                () = pulse.beat() => {}
                accepted = places.accept_admin(&mut admin) => serve_admin(accepted),
                signal = poll_fn(&mut signals) => match signal {
                    Signal::Reload => tracing::info!("SIGHUP during a drain is ignored"),
                    Signal::Stop => break drain.running(),
                },
            }
        };
        if aborted > 0 {
            tracing::warn!(aborted, "stopped: what had not ended was aborted");
        } else {
            tracing::info!("stopped: every session has ended");
        }
        aborted
    }
}

/// An interval whose first tick is one period away, and which does not make up for missed ones.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval.reset();
    interval
}

/// What the service manager's watchdog is fed by: the loop that accepts, when a timer has fired. So
/// it stops when the workers are blocked, or the timers, or the loop itself; while the loop waits
/// for a place or for descriptors, it is alive.
struct Pulse(Option<Interval>);

impl Pulse {
    fn new() -> Self {
        Self(systemd::watchdog().map(|limit| every(limit / 3)))
    }

    /// Completes when the watchdog was fed. Cancel safe.
    async fn beat(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                systemd::notify(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

/// The permits for connections.
struct Places {
    admitted: Arc<Semaphore>,
    overflow: Arc<Semaphore>,
    admin: Arc<Semaphore>,
}

impl Places {
    fn new(config::Places { admitted, overflow, admin }: config::Places) -> Self {
        let [admitted, overflow, admin] =
            [admitted, overflow, admin].map(|places| Arc::new(Semaphore::new(places)));
        Self { admitted, overflow, admin }
    }

    /// Waits for a place on the admin listener, then for a connection. Cancel safe.
    async fn accept_admin(&self, listeners: &mut Listeners) -> (Stream, OwnedSemaphorePermit) {
        let permit = acquire(&self.admin).await;
        (listeners.accept().await.0, permit)
    }

    /// Waits for a place, then for a connection to give it to. Cancel safe.
    async fn accept(&self, listeners: &mut Listeners) -> (Stream, PeerAddr, Admission) {
        let first = tokio::select! {
            biased;
            permit = acquire(&self.admitted) => Admission::Admitted(permit),
            permit = acquire(&self.overflow) => Admission::Overflow(permit),
        };
        let (stream, peer) = listeners.accept().await;
        let admission = match first {
            // A place may have become free while nobody came.
            Admission::Overflow(permit) => match Arc::clone(&self.admitted).try_acquire_owned() {
                Ok(better) => Admission::Admitted(better),
                Err(_) => Admission::Overflow(permit),
            },
            admitted @ Admission::Admitted(_) => admitted,
        };
        (stream, peer, admission)
    }
}

async fn acquire(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("these semaphores are never closed")
}

/// The `STATUS=` line, and what it said last.
struct Status {
    addrs: String,
    reload_failed: bool,
    last: String,
}

impl Status {
    fn new(addrs: String) -> Self {
        Self { addrs, reload_failed: false, last: String::new() }
    }

    fn first(&mut self) -> &str {
        self.render(0)
    }

    fn render(&mut self, sessions: i64) -> &str {
        let failed = if self.reload_failed { "; the last reload was refused" } else { "" };
        self.last = format!("listening on {}; {sessions} sessions{failed}", self.addrs);
        &self.last
    }

    fn changed(&mut self, sessions: i64) -> Option<&str> {
        let before = std::mem::take(&mut self.last);
        Some(self.render(sessions)).filter(|now| *now != before)
    }
}

/// Says where a client may connect.
fn announce(listeners: &Listeners, admin: &Listeners, config: &Config) {
    for addr in listeners.addrs() {
        let path = config.policy.endpoints.first().map_or("/", |endpoint| &endpoint.path);
        match addr {
            ListenAddr::Tcp(tcp) => tracing::info!(
                "listening on {tcp}: open http://{tcp}/ in a browser, or ws://{tcp}{path} with a \
                 WebSocket client"
            ),
            other => tracing::info!("listening on {other}"),
        }
    }
    for addr in admin.addrs() {
        tracing::info!("admin: /metrics and /healthz on {addr}");
    }
    let rules = config.policy.endpoints.first().map(|endpoint| &endpoint.rules.origins);
    if rules == Some(&Origins::Any) {
        tracing::info!("origins = \"any\": pages of any site may open a WebSocket here");
    }
}

fn log_changes(changes: &Changes) {
    if *changes == Changes::default() {
        tracing::info!("reloaded: nothing has changed");
    }
    if !changes.reloaded.is_empty() {
        tracing::info!(keys = changes.reloaded.join(" "), "reloaded: new connections see it");
    }
    if !changes.need_restart.is_empty() {
        let keys = changes.need_restart.join(" ");
        tracing::warn!(keys, "these keys need a restart: the old values hold until then");
    }
}
