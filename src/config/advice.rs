//! What is allowed in a configuration and may still surprise its owner on this machine.
//!
//! Owns the thresholds. It does not know where a value was written.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::Config;
use crate::net::listen::{BACKLOG, ListenAddr};

/// What the machine allows this process.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The soft limit of descriptors (`ulimit -n`).
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
            descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            somaxconn: somaxconn.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(i32::MAX),
        }
    }
}

impl Config {
    /// What an administrator should know before this is served here: a sentence each.
    #[must_use]
    pub fn warnings(&self, machine: Machine) -> Vec<String> {
        /// The unit's `TimeoutStopSec=40s`, less a reserve.
        const LONGEST_DRAIN: Duration = Duration::from_secs(35);
        let mut warnings = Vec::new();
        if self.boot.max_connections as u64 >= machine.descriptors {
            warnings.push(format!(
                "limits.max_connections = {} needs more descriptors than the {} allowed here: \
                 raise `ulimit -n` (the unit's LimitNOFILE= counts under systemd) or lower it",
                self.boot.max_connections, machine.descriptors
            ));
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
        for word in ["ulimit -n", "0.0.0.0:80", "somaxconn = 128", "TimeoutStopSec=40s"] {
            assert_eq!(told.matches(word).count(), 1, "{word} in {told}");
        }
    }
}
