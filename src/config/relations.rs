//! What values must be to each other, whether they are given or defaults.
//!
//! Owns the relations without which the service could not do what it is told. Those that only
//! surprise are in `advice`. It does not know where a value is written.

use super::Config;
use super::value::quantity::{show_duration, show_size};
use crate::net::addr::{ListenAddr, PeerAddr};
use crate::proxy::client_addr::{Trusted, TrustedPeer};
use crate::proxy::protocol::Expect;
use crate::ws::handshake::Origins;

/// Keys, each with the number of its table among those of the same name.
type Keys<'a> = &'a [(&'static str, usize)];

/// Reports each relation that does not hold, with the keys that have to do with it.
pub(super) fn check(config: &Config, mut find: impl FnMut(Keys<'_>, String)) {
    let Config { boot, policy } = config;

    for admin in &boot.admin {
        match boot.bind.iter().find(|bind| bind.collides(admin)) {
            Some(bind) if bind == admin => {
                let message = format!("\"{admin}\" is in bind too; choose another address");
                find(&[("admin.bind", 0), ("bind", 0)], message);
            }
            Some(bind) => {
                let message =
                    format!("\"{admin}\" collides with \"{bind}\" in bind; choose another port");
                find(&[("admin.bind", 0), ("bind", 0)], message);
            }
            None => {}
        }
    }

    let max = policy.max_message_size;
    for (index, endpoint) in policy.endpoints.iter().enumerate() {
        let length = endpoint.prefix.len() as u64;
        if length >= max {
            let message = format!(
                "{length} bytes leave no room for text in limits.max_message_size = \"{}\"; \
                 shorten the prefix, or raise the limit",
                show_size(max)
            );
            find(&[("endpoint.prefix", index), ("limits.max_message_size", 0)], message);
        }
    }

    let shutdown = &policy.shutdown;
    if shutdown.spread > shutdown.timeout {
        let message = format!(
            "drain_spread = \"{}\" is longer than drain_timeout = \"{}\"; lower drain_spread or \
             raise drain_timeout",
            show_duration(shutdown.spread),
            show_duration(shutdown.timeout)
        );
        find(&[("shutdown.drain_spread", 0), ("shutdown.drain_timeout", 0)], message);
    }

    if policy.proxy.protocol == Expect::Required && !any_proxy_is_trusted(config) {
        let message = "nothing that can connect to bind is in proxy.trusted, so every connection \
                       would be refused; list the proxy there";
        find(&[("proxy.proxy_protocol", 0)], message.to_owned());
    }

    if policy.require_origin && policy.origins == Origins::Only(Vec::new()) {
        let message = "no Origin would do, since origins is an empty list; list one there, or set \
                       require_origin = false";
        find(&[("require_origin", 0)], message.to_owned());
    }
}

/// Whether a connection can come from a trusted peer, as far as the kinds of addresses tell.
fn any_proxy_is_trusted(config: &Config) -> bool {
    let trusted = &config.policy.proxy.trusted;
    let only = |peers: &[TrustedPeer]| *trusted == peers.iter().copied().collect::<Trusted>();
    config.boot.bind.iter().any(|addr| match addr {
        ListenAddr::Tcp(_) => !only(&[]) && !only(&[TrustedPeer::Unix]),
        ListenAddr::Unix(_) => trusted.contains(PeerAddr::Unix),
        // Which sockets systemd passes is not known here.
        ListenAddr::Inherited => !only(&[]),
    })
}
