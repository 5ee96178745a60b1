//! What is valid in a configuration but may surprise on this host.
//!
//! Owns the thresholds. It does not know where a value comes from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::value::quantity::{show_duration, show_size};
use super::{Boot, Config, Policy};
use crate::net::addr::{ListenAddr, PeerAddr};
use crate::net::listen::BACKLOG;
use crate::ops::machine::{Capacity, DEFAULT_CONNECTIONS, Demand, Machine, TooFew};
use crate::ws::handshake::Origins;

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
        let clamped = self.clamped(machine).into_iter();
        clamped.chain(short_backlog(machine)).chain(self.surprises()).collect()
    }

    /// The same, as far as it is true of every host.
    #[must_use]
    pub fn surprises(&self) -> Vec<String> {
        [self.open_to_others(), self.odd_limits(), self.odd_times()].concat()
    }

    /// Who may connect or is believed, and probably should not.
    fn open_to_others(&self) -> Vec<String> {
        let Config { boot, policy } = self;
        let is_public =
            |addr: &&ListenAddr| matches!(addr, ListenAddr::Tcp(tcp) if !tcp.ip().is_loopback());
        let mut warnings = Vec::new();
        for addr in boot.bind.iter().filter(is_public) {
            warnings.push(format!(
                "bind = \"{addr}\" is reachable from other hosts, without TLS: unless that is \
                 intended, bind a loopback address and put a proxy in front"
            ));
        }
        for addr in boot.admin.iter().filter(is_public) {
            warnings.push(format!(
                "admin.bind = \"{addr}\" is reachable from other hosts, without authentication: \
                 unless that is intended, use a loopback address"
            ));
        }
        let trusts = |ip: IpAddr| policy.proxy.trusted.contains(PeerAddr::Tcp((ip, 0).into()));
        let v4: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()];
        let v6: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from([0xff; 16]).into()];
        for (all, addrs) in [("0.0.0.0/0", v4), ("::/0", v6)] {
            if addrs.into_iter().all(trusts) {
                warnings.push(format!(
                    "proxy.trusted covers {all}: anyone can pretend to be another client; list \
                     your proxies only"
                ));
            }
        }
        if policy.origins == Origins::Only(Vec::new()) {
            warnings.push(
                "origins = [] admits no page: browsers are refused, other clients are not"
                    .to_owned(),
            );
        }
        warnings
    }

    fn odd_limits(&self) -> Vec<String> {
        let Config { boot, policy } = self;
        let mut warnings = Vec::new();
        let all = boot.max_connections.unwrap_or(DEFAULT_CONNECTIONS);
        if policy.max_connections_per_client > all {
            warnings.push(format!(
                "limits.max_connections_per_client = {} is never reached: \
                 limits.max_connections = {all} comes first",
                policy.max_connections_per_client
            ));
        }
        if usize::try_from(policy.max_message_size).is_ok_and(|size| size > boot.buffer_budget) {
            warnings.push(format!(
                "limits.max_message_size = \"{}\" is over limits.buffer_budget = \"{}\": one client \
                 that reads nothing can use up the memory of all",
                show_size(policy.max_message_size),
                show_size(boot.buffer_budget as u64)
            ));
        }
        warnings
    }

    fn odd_times(&self) -> Vec<String> {
        /// The unit's `TimeoutStopSec=40s`, with some reserve.
        const LONGEST_DRAIN: Duration = Duration::from_secs(35);
        /// The `proxy_read_timeout` of nginx, by default.
        const IDLE: Duration = Duration::from_secs(60);
        let Policy { shutdown, timeouts, .. } = &*self.policy;
        let mut warnings = Vec::new();
        let [drain_timeout, drain_spread, close, ping_interval, write, pong] = [
            shutdown.timeout,
            shutdown.spread,
            timeouts.close,
            timeouts.ping_interval,
            timeouts.write,
            timeouts.pong,
        ]
        .map(show_duration);
        if shutdown.timeout > LONGEST_DRAIN {
            let longest = show_duration(LONGEST_DRAIN);
            warnings.push(format!(
                "shutdown.drain_timeout = \"{drain_timeout}\" is over {longest}: systemd kills the \
                 service after TimeoutStopSec=40s, unless the unit allows more"
            ));
        }
        if shutdown.spread + timeouts.close > shutdown.timeout {
            warnings.push(format!(
                "shutdown.drain_spread = \"{drain_spread}\" and timeouts.close = \"{close}\" exceed \
                 shutdown.drain_timeout = \"{drain_timeout}\" together: a session closed last is \
                 aborted if its client is slow to answer"
            ));
        }
        // Pings come up to a tenth late.
        if timeouts.ping_interval * 11 / 10 >= IDLE {
            warnings.push(format!(
                "timeouts.ping_interval = \"{ping_interval}\", give or take a tenth, is not below \
                 60s: nginx closes a silent connection after that time, unless proxy_read_timeout \
                 is longer"
            ));
        }
        if timeouts.write < timeouts.pong {
            warnings.push(format!(
                "timeouts.write = \"{write}\" is shorter than timeouts.pong = \"{pong}\": a client \
                 that pauses is dropped sooner while output waits for it than while it is idle"
            ));
        }
        warnings
    }
}

fn short_backlog(machine: Machine) -> Option<String> {
    (machine.somaxconn < BACKLOG).then(|| {
        format!(
            "net.core.somaxconn = {} limits the listen backlog, which should be {BACKLOG}: \
             `sysctl -w net.core.somaxconn={BACKLOG}` raises it",
            machine.somaxconn
        )
    })
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
