//! What is valid in a configuration but may surprise on this host.
//!
//! Owns the thresholds. It does not know where a value comes from.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Boot, Config};
use crate::net::addr::ListenAddr;
use crate::net::listen::BACKLOG;
use crate::ops::machine::{Capacity, DEFAULT_CONNECTIONS, Demand, Machine, TooFew};

impl Config {
    /// How many connections are served on this host.
    ///
    /// # Errors
    /// As [`Machine::capacity`].
    pub fn capacity(&self, machine: Machine) -> Result<Capacity, TooFew> {
        let Boot { bind, admin, max_connections, .. } = &self.boot;
        machine.capacity(Demand {
            max_connections: *max_connections,
            listeners: bind.len(),
            admin_listeners: admin.len(),
        })
    }

    /// A warning if too few descriptors are allowed for the default number of connections.
    #[must_use]
    pub fn clamped(&self, machine: Machine) -> Option<String> {
        let Capacity { admitted, .. } = self.capacity(machine).ok()?;
        (self.boot.max_connections.is_none() && admitted < DEFAULT_CONNECTIONS).then(|| {
            format!(
                "only {} file descriptors are allowed, so {admitted} connections are served \
                 instead of {DEFAULT_CONNECTIONS}: raise the hard limit (LimitNOFILE= in the unit, \
                 `ulimit -Hn` elsewhere)",
                machine.descriptors
            )
        })
    }

    /// What an administrator should know before running this here, one sentence each.
    #[must_use]
    pub fn warnings(&self, machine: Machine) -> Vec<String> {
        /// The unit's `TimeoutStopSec=40s`, with some reserve.
        const LONGEST_DRAIN: Duration = Duration::from_secs(35);
        let mut warnings = Vec::new();
        match self.capacity(machine) {
            Ok(_) => warnings.extend(self.clamped(machine)),
            Err(too_few) => warnings.push(too_few.to_string()),
        }
        let is_public = |tcp: &SocketAddr| !tcp.ip().is_loopback();
        for addr in &self.boot.bind {
            if matches!(addr, ListenAddr::Tcp(tcp) if is_public(tcp)) {
                warnings.push(format!(
                    "bind = \"{addr}\" is reachable from other hosts, without TLS: unless that is \
                     intended, bind a loopback address and put a proxy in front"
                ));
            }
        }
        if machine.somaxconn < BACKLOG {
            warnings.push(format!(
                "net.core.somaxconn = {} limits the listen backlog, which should be {BACKLOG}: \
                 `sysctl -w net.core.somaxconn={BACKLOG}` raises it",
                machine.somaxconn
            ));
        }
        if self.policy.shutdown.timeout > LONGEST_DRAIN {
            warnings.push(format!(
                "shutdown.drain_timeout = {:?} is over {LONGEST_DRAIN:?}: systemd kills the \
                 service after TimeoutStopSec=40s, unless the unit allows more",
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
    fn each_surprise_is_reported_once_and_good_defaults_are_silent() {
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
        let capacity = |text: &str, descriptors| {
            config(text).capacity(Machine { descriptors, somaxconn: 4096 })
        };
        let full = Capacity { admitted: 10_000, overflow: 256, admin: 0 };
        assert_eq!(capacity("", 65_536), Ok(full));
        assert_eq!(capacity("", u64::MAX), Ok(full));
        let few = capacity("", 1024).unwrap();
        assert!((900..1024).contains(&(few.admitted + few.overflow)), "{few:?}");
        let explicit = "limits.max_connections = 700";
        assert_eq!(capacity(explicit, 1024).unwrap().admitted, 700);
        let error = capacity(explicit, 900).unwrap_err();
        assert!(
            error.to_string().contains("= 700 needs 997 file descriptors, but only 900 are"),
            "{error}"
        );
        assert!(capacity("", 40).is_err(), "nothing is left for connections");
        let admin = "admin.bind = \"127.0.0.1:1\"\n";
        assert_eq!(
            capacity(&format!("{admin}{explicit}"), 1000),
            capacity(explicit, 1000).and(Err(TooFew { wanted: 700, needed: 1014, allowed: 1000 }))
        );
    }
}
