//! The host: its name, and what it allows this process, in descriptors and listen backlog.
//!
//! Owns the host's limits and how connections fit into them. It does not know what was configured.
//!
//! Sources: getrlimit(2), listen(2), proc(5).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// `limits.max_connections` where the file does not set it.
pub const DEFAULT_CONNECTIONS: usize = 10_000;
/// Connections over the limit that are accepted only to be refused; further ones wait in the
/// backlog.
const OVERFLOW: usize = 256;
/// Descriptors that are not connections: epoll, signals, stderr, and what libraries open briefly.
const RESERVE: usize = 40;
/// Concurrent connections to the admin listener.
const ADMIN: usize = 16;

/// The name of the host, or this service's where it has none.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "wsecho".to_owned() } else { name.to_owned() }
}

/// The limits of the host.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The hard limit on descriptors (`ulimit -Hn`), to which the soft one is raised.
    pub descriptors: u64,
    /// `net.core.somaxconn`.
    pub somaxconn: i32,
}

impl Machine {
    /// Asks the kernel. A limit that it does not report counts as infinite.
    #[must_use]
    pub fn here() -> Self {
        let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        Self {
            descriptors: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            somaxconn: somaxconn.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(i32::MAX),
        }
    }

    /// Raises the soft limit on descriptors to the hard one.
    ///
    /// The soft limit is usually 1,024 for the sake of programs that use select(2), which this one
    /// does not.
    pub fn raise_limit() {
        let limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            // If a sandbox refuses, the old limit stays, unseen by `Machine::here`; accept(2) then
            // runs into it, and pauses.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        }
    }

    /// How many connections fit: as many as configured; if nothing is configured, as many as there
    /// are descriptors for, up to [`DEFAULT_CONNECTIONS`].
    ///
    /// # Errors
    /// When the configured number does not fit, or not even one connection does.
    pub fn capacity(self, demand: Demand) -> Result<Capacity, TooFew> {
        let Demand { max_connections, listeners, admin_listeners } = demand;
        let admin = if admin_listeners == 0 { 0 } else { ADMIN };
        let fixed = RESERVE + listeners + admin_listeners + admin;
        let allowed = usize::try_from(self.descriptors).unwrap_or(usize::MAX);
        let free = allowed.saturating_sub(fixed);
        let wanted = max_connections.unwrap_or(DEFAULT_CONNECTIONS);
        if wanted + OVERFLOW <= free {
            return Ok(Capacity { admitted: wanted, overflow: OVERFLOW, admin });
        }
        let overflow = (free / 4).min(OVERFLOW);
        let admitted = free - overflow;
        if max_connections.is_none() && admitted > 0 && overflow > 0 {
            return Ok(Capacity { admitted, overflow, admin });
        }
        let wanted = max_connections.unwrap_or(1);
        Err(TooFew { wanted, needed: wanted + OVERFLOW + fixed, allowed: self.descriptors })
    }
}

/// What a configuration needs descriptors for.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// `limits.max_connections`, if set.
    pub max_connections: Option<usize>,
    /// The number of addresses in `bind`.
    pub listeners: usize,
    /// The number of addresses in `admin.bind`.
    pub admin_listeners: usize,
}

/// How many connections are open at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Those that are served.
    pub admitted: usize,
    /// Those over the limit, accepted only to be refused.
    pub overflow: usize,
    /// Those of the admin listener.
    pub admin: usize,
}

/// The host allows fewer descriptors than the configuration needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "limits.max_connections = {wanted} needs {needed} file descriptors, but only {allowed} are \
     allowed: raise the hard limit (LimitNOFILE= in the unit, `ulimit -Hn` elsewhere) or lower \
     max_connections"
)]
pub struct TooFew {
    /// The configured number of connections, or one.
    pub wanted: usize,
    /// The descriptors needed for them and everything else.
    pub needed: usize,
    /// The descriptors that are allowed.
    pub allowed: u64,
}
