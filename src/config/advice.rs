//! What is allowed in a configuration and may still surprise its owner on this machine.
//!
//! Owns the thresholds. It does not know where a value was written.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Boot, Config};
use crate::net::listen::{BACKLOG, ListenAddr};

/// `limits.max_connections` where the file does not say it.
const MAX_CONNECTIONS: usize = 10_000;
/// Connections over the limit that are accepted to be told so; behind them the backlog holds.
const OVERFLOW: usize = 256;
/// Descriptors that are no connection: event queue, signals, stderr, and room for what libraries
/// open for a moment.
const RESERVE: usize = 40;
/// Connections to the admin listener at the same time.
const ADMIN: usize = 16;

/// What the machine allows this process.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The limit of descriptors: the hard one (`ulimit -Hn`), to which the soft one is raised.
    pub descriptors: u64,
    /// `net.core.somaxconn`.
    pub somaxconn: i32,
}

impl Machine {
    /// Asks the kernel. What it does not tell counts as unlimited.
    #[must_use]
    pub fn here() -> Self {
        let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        Self {
            descriptors: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            somaxconn: somaxconn.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(i32::MAX),
        }
    }

    /// Raises the soft limit of descriptors to the hard one.
    ///
    /// The soft one is 1,024 mostly, for the sake of programs that use select(2), as this one does
    /// not.
    pub fn raise_limit() {
        let limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            // Where a sandbox refuses this the old limit holds, which `Machine::here` does not see;
            // accept(2) does, and pauses.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        }
    }
}

/// How many connections there is room for at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Those that are served.
    pub admitted: usize,
    /// Those over the limit, which are told so.
    pub overflow: usize,
    /// Those of the admin listener.
    pub admin: usize,
}

/// The machine allows fewer descriptors than the configuration needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "limits.max_connections = {wanted} needs {needed} descriptors, and {allowed} are allowed here: \
     raise the hard limit (LimitNOFILE= in the unit, `ulimit -Hn` elsewhere) or lower \
     max_connections"
)]
pub struct TooFew {
    /// The connections that were asked for, or one.
    pub wanted: usize,
    /// The descriptors that they need, with everything else.
    pub needed: usize,
    /// The descriptors that there are.
    pub allowed: u64,
}

impl Config {
    /// How many connections are served on this machine: as many as the configuration says; where it
    /// is silent, as many as the machine has room for, 10,000 at most.
    ///
    /// # Errors
    /// When what the configuration says does not fit, or nothing does.
    pub fn places(&self, machine: Machine) -> Result<Places, TooFew> {
        let Boot { bind, admin, .. } = &self.boot;
        let listeners = bind.len() + admin.len();
        let admin = if admin.is_empty() { 0 } else { ADMIN };
        let fixed = RESERVE + listeners + admin;
        let allowed = usize::try_from(machine.descriptors).unwrap_or(usize::MAX);
        let free = allowed.saturating_sub(fixed);
        let wanted = self.boot.max_connections.unwrap_or(MAX_CONNECTIONS);
        if wanted + OVERFLOW <= free {
            return Ok(Places { admitted: wanted, overflow: OVERFLOW, admin });
        }
        let overflow = (free / 4).min(OVERFLOW);
        let admitted = free - overflow;
        if self.boot.max_connections.is_none() && admitted > 0 && overflow > 0 {
            return Ok(Places { admitted, overflow, admin });
        }
        let wanted = self.boot.max_connections.unwrap_or(1);
        Err(TooFew { wanted, needed: wanted + OVERFLOW + fixed, allowed: machine.descriptors })
    }

    /// That fewer connections are served than usual, if that is so.
    #[must_use]
    pub fn clamped(&self, machine: Machine) -> Option<String> {
        let Places { admitted, .. } = self.places(machine).ok()?;
        (self.boot.max_connections.is_none() && admitted < MAX_CONNECTIONS).then(|| {
            format!(
                "{} descriptors are allowed here, so {admitted} connections are served instead of \
                 {MAX_CONNECTIONS}: raise the hard limit (LimitNOFILE= in the unit, `ulimit -Hn` \
                 elsewhere)",
                machine.descriptors
            )
        })
    }

    /// What an administrator should know before this is served here: a sentence each.
    #[must_use]
    pub fn warnings(&self, machine: Machine) -> Vec<String> {
        /// The unit's `TimeoutStopSec=40s`, less a reserve.
        const LONGEST_DRAIN: Duration = Duration::from_secs(35);
        let mut warnings = Vec::new();
        match self.places(machine) {
            Ok(_) => warnings.extend(self.clamped(machine)),
            Err(too_few) => warnings.push(too_few.to_string()),
        }
        let is_public = |tcp: &SocketAddr| !tcp.ip().is_loopback();
        for addr in &self.boot.bind {
            if matches!(addr, ListenAddr::Tcp(tcp) if is_public(tcp)) {
                warnings.push(format!(
                    "bind = \"{addr}\" can be reached from other machines, without TLS: put a \
                     proxy in front and bind a loopback address, unless you mean it"
                ));
            }
        }
        if machine.somaxconn < BACKLOG {
            warnings.push(format!(
                "net.core.somaxconn = {} cuts the backlog of {BACKLOG} connections: \
                 `sysctl -w net.core.somaxconn={BACKLOG}` lifts it",
                machine.somaxconn
            ));
        }
        if self.policy.shutdown.timeout > LONGEST_DRAIN {
            warnings.push(format!(
                "shutdown.drain_timeout = {:?} is over {LONGEST_DRAIN:?}: systemd kills the \
                 service after TimeoutStopSec=40s, unless the unit says more",
                self.policy.shutdown.timeout
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_surprise_is_told_once_and_good_defaults_are_silent() {
        let roomy = Machine { descriptors: 65_536, somaxconn: 4096 };
        assert_eq!(Config::default().warnings(roomy), Vec::<String>::new());
        let text = "bind = \"0.0.0.0:80\"\nshutdown.drain_timeout = \"40s\"";
        let config = crate::config::parse(text).unwrap();
        let told = config.warnings(Machine { descriptors: 1024, somaxconn: 128 }).join("\n");
        for word in ["ulimit -Hn", "0.0.0.0:80", "somaxconn = 128", "TimeoutStopSec=40s"] {
            assert_eq!(told.matches(word).count(), 1, "{word} in {told}");
        }
    }

    #[test]
    fn connections_fit_into_the_descriptors_or_the_start_is_refused() {
        let config = |text: &str| crate::config::parse(text).unwrap();
        let places =
            |text: &str, descriptors| config(text).places(Machine { descriptors, somaxconn: 4096 });
        let full = Places { admitted: 10_000, overflow: 256, admin: 0 };
        assert_eq!(places("", 65_536), Ok(full));
        assert_eq!(places("", u64::MAX), Ok(full));
        let few = places("", 1024).unwrap();
        assert!((900..1024).contains(&(few.admitted + few.overflow)), "{few:?}");
        let explicit = "limits.max_connections = 700";
        assert_eq!(places(explicit, 1024).unwrap().admitted, 700);
        let error = places(explicit, 900).unwrap_err();
        assert!(error.to_string().contains("= 700 needs 997 descriptors, and 900 are"), "{error}");
        assert!(places("", 40).is_err(), "nothing is left for connections");
        let admin = "admin.bind = \"127.0.0.1:1\"\n";
        assert_eq!(
            places(&format!("{admin}{explicit}"), 1000),
            places(explicit, 1000).and(Err(TooFew { wanted: 700, needed: 1014, allowed: 1000 }))
        );
    }
}
