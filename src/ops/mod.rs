//! What the service needs to be operated: draining, systemd, logs.

pub mod drain;
pub mod logging;
pub mod systemd;
