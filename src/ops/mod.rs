//! What the service needs to be operated: draining, systemd, logs, metrics.

pub mod drain;
pub mod logging;
pub mod metrics;
pub mod systemd;
