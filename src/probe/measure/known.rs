//! Timeouts and limits that products have unless they are configured.
//!
//! Owns what a figure makes probable. Sources: the products' manuals, and measurements.

use std::time::Duration;

/// Timeouts of silent connections, in seconds, ascending.
pub(super) const TIMEOUTS: [(u64, &str); 10] = [
    (30, "a Google Cloud load balancer (timeoutSec of its backend service)"),
    (60, "nginx (proxy_read_timeout)"),
    (60, "Apache (ProxyTimeout)"),
    (60, "an AWS Application Load Balancer (idle timeout)"),
    (100, "Cloudflare"),
    (240, "Azure (idle timeout of the load balancer)"),
    (300, "Envoy (stream_idle_timeout)"),
    (300, "a home router's or firewall's NAT"),
    (350, "an AWS NAT gateway or Network Load Balancer"),
    (1800, "a firewall's session table"),
];

/// Limits of one message, in bytes.
const SIZES: [(usize, &[&str]); 4] = [
    (1 << 20, &["Python's websockets (max_size)"]),
    ((4 << 20) - 1, &["aiohttp (max_msg_size)"]),
    (10 << 20, &["Tornado (websocket_max_message_size)"]),
    (100 << 20, &["Node's ws (maxPayload)"]),
];

/// The timeouts within this range.
pub(super) fn timeouts(from: Duration, to: Duration) -> Vec<&'static str> {
    let known = TIMEOUTS.iter();
    let near = known.filter(|(seconds, _)| (from..=to).contains(&Duration::from_secs(*seconds)));
    near.map(|(_, product)| *product).collect()
}

/// Who takes messages up to exactly this size.
pub(super) fn sizes(largest: usize) -> &'static [&'static str] {
    let known = SIZES.iter().find(|(bytes, _)| *bytes == largest);
    known.map_or(&[], |(_, products)| products)
}
