//! The service as a whole: bind, accept, reload, drain.
//!
//! Owns the order of events from start to exit. It does not know how a connection is served, nor
//! where signals and configurations come from.
//!
//! Source: systemd's daemon(7) and sd_notify(3).

mod entrance;
mod pulse;

use std::future::poll_fn;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use self::entrance::Entrance;
use self::pulse::{Pulse, Status, every};
use crate::config::{Changes, Config, ConfigError};
use crate::http::admission::{Admission, Lane};
use crate::http::conn;
use crate::http::router::Router;
use crate::http::service::Service;
use crate::net::addr::{ListenAddr, PeerAddr};
use crate::net::listen::{BindError, Listener, Listeners};
use crate::net::stream::Stream;
use crate::ops::logging::Lost;
use crate::ops::machine::{Capacity, Machine, TooFew};
use crate::ops::systemd::{self, Inherited, NotifyState};
use crate::ws::handshake::Origins;
use crate::ws::session::Budget;

/// How often a new status may be sent to the service manager.
const STATUS_PERIOD: Duration = Duration::from_secs(5);
/// How long the backlog is emptied when a drain begins.
const BACKLOG_PATIENCE: Duration = Duration::from_secs(1);
/// Stop signals within this time of the first count as one: a terminal and a service manager may
/// each send one, and timeout(1) sends two.
const STOP_SIGNALS_APART: Duration = Duration::from_secs(1);

/// What the outside asks of a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT: drain; again, more than a second later: abort.
    Stop,
    /// SIGUSR1: leave newcomers to the other instances for a while.
    StepAside,
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
    /// systemd listens on an address that `bind` names.
    #[error(
        "systemd listens on {0} already and passed that socket: write bind = \"systemd\" instead of \
         the address, or stop wsecho.socket"
    )]
    Passed(ListenAddr),
    /// Too few descriptors for `limits.max_connections`.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
}

impl StartError {
    /// Whether the same start may succeed later.
    #[must_use]
    pub fn may_heal(&self) -> bool {
        matches!(self, Self::Bind(error) if error.may_heal())
    }
}

/// A server whose addresses are bound.
pub struct Server {
    config: Config,
    entrance: Entrance,
    admin: Entrance,
    service: Arc<Service>,
    /// Answers under the policy of `config`.
    router: Arc<Router>,
}

impl Server {
    /// Binds every address of the configuration. `lost` counts log lines for the metrics.
    ///
    /// # Errors
    /// When `machine` has too few descriptors, or for the first address that cannot be listened on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(
        config: Config,
        machine: Machine,
        inherited: Vec<Inherited>,
        lost: Lost,
    ) -> Result<Self, StartError> {
        let capacity = config.capacity(machine)?;
        // A restart would meet the same sockets again.
        let taken = |addr: &&ListenAddr| inherited.iter().any(|socket| listens_on(socket, addr));
        if let Some(addr) = config.boot.bind.iter().chain(&config.boot.admin).find(taken) {
            return Err(StartError::Passed(addr.clone()));
        }
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
        let Capacity { admitted, overflow, admin: seats } = capacity;
        let overflow = Lane::new(overflow);
        let budget = Budget::new(config.boot.buffer_budget);
        let service = Service::new(budget, lost, overflow.clone());
        let service = Arc::new(service.named(&config.boot.instance));
        service.metrics().limit_connections(admitted);
        let port = |listener: &Listener| match listener.addr() {
            ListenAddr::Tcp(addr) => Some(addr.port()),
            _ => None,
        };
        let _ = service.ports.set(listeners.iter().filter_map(port).collect());
        Ok(Self {
            router: Arc::new(Router::new(Arc::clone(&config.policy), Arc::clone(&service))),
            entrance: Entrance::new(Listeners::new(listeners), admitted, overflow)
                .shared(!config.boot.instance.is_empty()),
            admin: Entrance::new(Listeners::new(admin), 0, Lane::new(seats)),
            config,
            service,
        })
    }

    /// The bound addresses, with the ports that the kernel chose.
    pub fn addrs(&self) -> impl Iterator<Item = &ListenAddr> {
        self.entrance.addrs()
    }

    /// Serves until a signal asks to stop, then drains. Returns how many tasks did not end in time
    /// and die with the runtime.
    ///
    /// `signals` is polled for what the outside asks; `reload` reads the configuration again, and
    /// if it fails the old one stays in force. Serving goes on meanwhile, however long it takes.
    pub async fn run<R>(
        mut self,
        mut signals: impl FnMut(&mut Context<'_>) -> Poll<Signal>,
        reload: impl FnMut() -> R,
    ) -> usize
    where
        R: Future<Output = Result<Config, ConfigError>>,
    {
        let addrs = self.addrs().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut status = Status::new(addrs);
        let mut pulse = Pulse::new();
        announce(&self.entrance, &self.admin, &self.config);
        self.service.metrics().loaded();
        systemd::notify(&[NotifyState::Ready, NotifyState::Status(status.render(0))]).await;
        self.serve(&mut signals, reload, &mut pulse, &mut status).await;
        self.drain(&mut signals, &mut pulse).await
    }

    /// Accepts connections and reloads until a signal asks to stop.
    async fn serve<R>(
        &mut self,
        signals: &mut impl FnMut(&mut Context<'_>) -> Poll<Signal>,
        mut reload: impl FnMut() -> R,
        pulse: &mut Pulse,
        status: &mut Status,
    ) where
        R: Future<Output = Result<Config, ConfigError>>,
    {
        let mut period = every(STATUS_PERIOD);
        let mut reloading = pin!(None);
        // Stays set while a reload is running, which may have read the file too early.
        let mut requested = false;
        loop {
            if requested && reloading.is_none() {
                requested = false;
                systemd::notify(&systemd::reloading()).await;
                reloading.set(Some(reload()));
            }
            let Self { entrance, admin, service, router, .. } = &mut *self;
            tokio::select! {
                biased;
                signal = poll_fn(&mut *signals) => match signal {
                    Signal::Stop => return,
                    Signal::Reload => requested = true,
                    Signal::StepAside => self.entrance.step_aside(),
                },
                () = pulse.beat() => {}
                read = finished(reloading.as_mut()) => {
                    reloading.set(None);
                    self.apply(read, status).await;
                }
                _ = period.tick() => {
                    if let Some(status) = status.changed(service.metrics().sessions.get()) {
                        systemd::notify(&[NotifyState::Status(status)]).await;
                    }
                    service.limiter.report();
                }
                accepted = admin.accept() => serve_admin(service, accepted),
                accepted = entrance.accept() => serve(service, router, accepted),
            }
        }
    }

    /// Applies what a reload has read.
    async fn apply(&mut self, read: Result<Config, ConfigError>, status: &mut Status) {
        let metrics = self.service.metrics();
        metrics.reload(read.is_ok());
        status.reload_failed = read.is_err();
        match read {
            Ok(new) => {
                log_changes(&self.config.changes(&new));
                self.router =
                    Arc::new(Router::new(Arc::clone(&new.policy), Arc::clone(&self.service)));
                self.config.policy = new.policy;
            }
            Err(error) => {
                tracing::error!("reload refused: the old configuration stays in force");
                for line in error.to_string().lines() {
                    tracing::error!("{line}");
                }
            }
        }
        let status = status.render(metrics.sessions.get());
        systemd::notify(&[NotifyState::Ready, NotifyState::Status(status)]).await;
    }

    /// Closes the listeners and waits for the sessions to end.
    async fn drain(
        self,
        signals: &mut impl FnMut(&mut Context<'_>) -> Poll<Signal>,
        pulse: &mut Pulse,
    ) -> usize {
        let Self { config, mut entrance, mut admin, service, router } = self;
        let begun = Instant::now();
        let drain = service.drain();
        tracing::info!(sessions = service.metrics().sessions.get(), "stopping: draining");
        systemd::notify(&[NotifyState::Stopping, NotifyState::Status("draining")]).await;
        drain.begin(config.policy.shutdown.clone());
        // Connections in the backlog are accepted, to be served until 1001: closing the socket would
        // reset them. However many come, that has an end.
        entrance.keep_own();
        while begun.elapsed() < BACKLOG_PATIENCE {
            tokio::select! {
                biased;
                signal = poll_fn(&mut *signals) => {
                    aborts(signal, begun);
                }
                accepted = entrance.accept() => serve(&service, &router, accepted),
                () = std::future::ready(()) => break,
            }
            // tokio's budget for one poll would otherwise hide the rest of the backlog.
            tokio::task::yield_now().await;
        }
        // A proxy retries a refused connection elsewhere, so the sockets go before the sessions.
        drop(entrance);
        let aborted = loop {
            tokio::select! {
                running = drain.wait() => break running,
                () = pulse.beat() => {}
                accepted = admin.accept() => serve_admin(&service, accepted),
                signal = poll_fn(&mut *signals) => if aborts(signal, begun) {
                    break drain.running();
                },
            }
        };
        if aborted > 0 {
            tracing::warn!(aborted, "stopped: tasks that had not ended were aborted");
        } else {
            tracing::info!("stopped: every session has ended");
        }
        aborted
    }
}

/// Whether a signal aborts a drain that began at this time.
fn aborts(signal: Signal, begun: Instant) -> bool {
    match signal {
        Signal::Reload => {
            tracing::info!("SIGHUP ignored while draining");
            false
        }
        Signal::StepAside => false,
        Signal::Stop => begun.elapsed() >= STOP_SIGNALS_APART,
    }
}

/// Waits for the running reload, or forever without one.
async fn finished<R: Future>(reloading: Pin<&mut Option<R>>) -> R::Output {
    match reloading.as_pin_mut() {
        Some(reload) => reload.await,
        None => std::future::pending().await,
    }
}

/// Whether a socket of systemd's is in the way of an address. Unlike ours, one for `[::]` also takes
/// IPv4, unless `BindIPv6Only=` says otherwise.
fn listens_on(socket: &Inherited, addr: &ListenAddr) -> bool {
    match (socket, addr) {
        (Inherited::Tcp(socket), ListenAddr::Tcp(tcp)) => {
            let Ok(passed) = socket.local_addr() else { return false };
            let takes_both = passed.ip() == Ipv6Addr::UNSPECIFIED
                && !SockRef::from(socket).only_v6().unwrap_or(true);
            ListenAddr::Tcp(passed).collides(addr) || (takes_both && passed.port() == tcp.port())
        }
        (Inherited::Unix(socket), ListenAddr::Unix(path)) => {
            socket.local_addr().is_ok_and(|passed| passed.as_pathname() == Some(path))
        }
        _ => false,
    }
}

fn serve(
    service: &Service,
    router: &Arc<Router>,
    (stream, peer, admission): (Stream, PeerAddr, Admission),
) {
    service.drain().spawn(conn::serve(stream, peer, Arc::clone(router), admission));
}

fn serve_admin(service: &Arc<Service>, (stream, _, admission): (Stream, PeerAddr, Admission)) {
    service.drain().spawn(conn::serve_admin(stream, Arc::clone(service), admission));
}

/// Logs where clients can connect.
fn announce(entrance: &Entrance, admin: &Entrance, config: &Config) {
    for addr in entrance.addrs() {
        let path = config.policy.endpoints.first().map_or("/", |endpoint| &endpoint.path);
        match addr {
            ListenAddr::Tcp(tcp) => {
                let host = reachable(*tcp);
                tracing::info!(
                    "listening on {tcp}: open http://{host}/ in a browser, or ws://{host}{path} \
                     with a WebSocket client"
                );
            }
            other => tracing::info!("listening on {other}"),
        }
    }
    for addr in admin.addrs() {
        tracing::info!("admin: /metrics and /healthz on {addr}");
    }
    if !config.boot.instance.is_empty() {
        let name = &config.boot.instance;
        tracing::info!("sharing the sockets of systemd with other instances, as {name}");
    }
    if config.policy.origins == Origins::Any {
        tracing::info!("origins = \"any\": pages of any site may open a WebSocket here");
    }
}

/// The host and port to put into a URL: a browser cannot open a wildcard address.
fn reachable(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("localhost:{}", addr.port()) } else { addr.to_string() }
}

fn log_changes(changes: &Changes) {
    if *changes == Changes::default() {
        tracing::info!("reloaded: nothing has changed");
    }
    if !changes.reloaded.is_empty() {
        tracing::info!(
            keys = changes.reloaded.join(" "),
            "reloaded: new connections use the new values"
        );
    }
    if !changes.need_restart.is_empty() {
        let keys = changes.need_restart.join(" ");
        tracing::warn!(keys, "these keys need a restart: until then the old values stay in force");
    }
}
