//! Operation: draining, systemd, logs, metrics, the host's limits.

pub mod drain;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod systemd;
