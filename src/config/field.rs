//! From a key's value in the file to the setting that it is for.
//!
//! Owns the checks within a list. It does not know which keys there are.

use super::lines::Position;
use super::read::Entry;
use super::value::{Addr, EndpointPath, Peer};
use super::{Boot, Config, Endpoint, Policy};
use crate::net::addr::ListenAddr;

/// A configuration that is being read.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) boot: Boot,
    pub(super) policy: Policy,
    /// The endpoint that is being read.
    pub(super) endpoint: Endpoint,
}

/// The setting that a key is for.
pub(super) struct Field {
    pub(super) applies: Applies,
    /// The type and range of the value, as documented.
    pub(super) kind: fn() -> String,
    pub(super) read: fn(&mut Draft, &Entry<'_, '_>),
    pub(super) differs: fn(&Config, &Config) -> bool,
}

/// When a new value takes effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    OnReload,
    OnRestart,
}

/// A [`Field`]: the [`Value`](super::value::Value) type in which it is written, the setting in a
/// [`Draft`], and a function that reads it unless the value is just to be stored.
///
/// What is in [`Boot`] takes a restart, everything else a reload.
macro_rules! field {
    ($value:ty => $part:ident $(.$name:ident)+) => {
        field!($value => $part $(.$name)+, |draft, entry| {
            entry.set::<$value, _>(&mut draft.$part $(.$name)+);
        })
    };
    ($value:ty => boot $(.$name:ident)+, $read:expr) => {
        field!(@ OnRestart, $value, $read, |old, new| old.boot $(.$name)+ != new.boot $(.$name)+)
    };
    ($value:ty => policy $(.$name:ident)+, $read:expr) => {
        field!(@ OnReload, $value, $read, |old, new| old.policy $(.$name)+ != new.policy $(.$name)+)
    };
    ($value:ty => endpoint.$name:ident, $read:expr) => {
        field!(@ OnReload, $value, $read, |old, new| {
            let [old, new] = [old, new].map(|it| it.policy.endpoints.iter().map(|it| &it.$name));
            !old.eq(new)
        })
    };
    (@ $applies:ident, $value:ty, $read:expr, $differs:expr) => {
        Field {
            applies: Applies::$applies,
            kind: <$value as Value>::kind,
            read: $read,
            differs: $differs,
        }
    };
}
pub(super) use field;

pub(super) fn bind(draft: &mut Draft, entry: &Entry<'_, '_>) {
    if entry.is_empty() {
        entry.find("the list is empty; add an address");
    }
    draft.boot.bind = addresses(entry, entry.list());
}

pub(super) fn admin_bind(draft: &mut Draft, entry: &Entry<'_, '_>) {
    let given = entry.list();
    if let Some((at, _)) = given.iter().find(|(_, Addr(addr))| *addr == ListenAddr::Inherited) {
        entry.find_at(*at, "sockets passed by systemd are for bind only; write an address");
    }
    draft.boot.admin = addresses(entry, given);
}

/// The addresses of a list, of which no two may be the same.
fn addresses(entry: &Entry<'_, '_>, given: Vec<(Position, Addr)>) -> Vec<ListenAddr> {
    let mut addresses: Vec<ListenAddr> = Vec::new();
    for (at, Addr(addr)) in given {
        match addresses.iter().find(|other| other.collides(&addr)) {
            Some(other) if *other == addr => {
                entry.find_at(at, &format!("\"{addr}\" is listed twice; remove one"));
            }
            Some(other) => {
                let message = format!(
                    "\"{addr}\" collides with \"{other}\", which covers it; remove one of them"
                );
                entry.find_at(at, &message);
            }
            None => {}
        }
        addresses.push(addr);
    }
    addresses
}

pub(super) fn trusted(draft: &mut Draft, entry: &Entry<'_, '_>) {
    draft.policy.proxy.trusted = entry.list().into_iter().map(|(_, Peer(peer))| peer).collect();
}

pub(super) fn endpoint_path(draft: &mut Draft, entry: &Entry<'_, '_>) {
    if let Some(EndpointPath(path)) = entry.read() {
        if draft.policy.endpoints.iter().any(|other| other.path == path) {
            entry.find(&format!("\"{path}\" is used twice; remove one"));
        }
        draft.endpoint.path = path;
    }
}
