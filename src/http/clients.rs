//! How many connections each client has: `limits.max_connections_per_client`.
//!
//! Owns the counts. It does not know who a connection's client is, nor how it is refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of each client; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Clients {
    /// Counts one more connection of this client, unless it has `quota` of them already.
    ///
    /// An IPv6 client is its /64: it can use any address there.
    #[must_use]
    pub fn claim(&self, client: IpAddr, quota: usize) -> Option<Claim> {
        let client = match client {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
            IpAddr::V4(_) => client,
        };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_default();
        if *count >= quota {
            return None;
        }
        *count += 1;
        Some(Claim { clients: self.clone(), client })
    }
}

/// One connection's share of its client's quota, given back on drop.
#[derive(Debug)]
pub struct Claim {
    clients: Clients,
    client: IpAddr,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut open = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_uses_its_quota_and_gives_it_back() {
        let clients = Clients::default();
        let claim = |ip: &str| clients.claim(ip.parse().unwrap(), 2);
        let held = [claim("192.0.2.1").unwrap(), claim("192.0.2.1").unwrap()];
        assert!(claim("192.0.2.1").is_none(), "a third one");
        assert!(claim("192.0.2.2").is_some(), "another client");
        drop(held);
        assert!(claim("192.0.2.1").is_some());
        let _six = [claim("2001:db8::1").unwrap(), claim("2001:db8::ffff:1").unwrap()];
        assert!(claim("2001:db8::2").is_none(), "the same network");
        assert!(claim("2001:db8:0:1::1").is_some(), "another network");
    }

    #[test]
    fn nothing_is_remembered_of_clients_that_have_left() {
        let clients = Clients::default();
        drop(clients.claim([192, 0, 2, 1].into(), 1));
        assert!(clients.0.lock().unwrap().is_empty());
    }
}
