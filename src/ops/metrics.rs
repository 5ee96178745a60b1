//! Metrics: every name in one place, and the text that Prometheus reads.
//!
//! Owns the counters, the names of their labels, and the text format. It does not know what is
//! counted: callers report events, and label values come only from enums ([`Label`]).
//!
//! Sources: Prometheus' text format 0.0.4, its naming conventions, and the `process_` metrics that
//! all its client libraries share.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use procfs::process::{LimitValue, Process};
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// What is counted separately, under a label of its own.
pub trait Label {
    /// A short name that never changes.
    fn label(&self) -> &'static str;
}

/// One label and its value.
type Labels = [(&'static str, &'static str); 1];
/// What `wsecho_build_info` says.
type Build = Vec<(&'static str, String)>;
type Seconds = Counter<f64, AtomicU64>;

/// From a nearby client to the default of `timeouts.handshake`.
const HANDSHAKE_BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0];
/// From a probe to a day; the 60-second idle timeout of many proxies has a bucket of its own.
const SESSION_BUCKETS: [f64; 9] = [0.1, 1.0, 10.0, 30.0, 59.0, 61.0, 600.0, 3600.0, 86_400.0];
/// From the same machine to the other side of the world.
const PING_BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open WebSockets.
    pub sessions: Gauge,
    /// Those of them that agreed to compression.
    pub sessions_compressed: Gauge,
    /// Open connections, including those of sessions, but not those of the admin listener.
    pub connections: Gauge,
    /// What sessions echo.
    pub traffic: Traffic,
    /// Tasks that ended in a panic.
    pub panics: Counter,
    /// From accept to a completed handshake, in seconds.
    pub handshake_duration: Histogram,
    /// From the handshake to the end of the session, in seconds.
    pub session_duration: Histogram,
    /// From our ping to the next byte, in seconds.
    pub ping_round_trip: Histogram,
    refused: Family<Labels, Counter>,
    faults: Family<Labels, Counter>,
    ended: Family<Labels, Counter>,
    suppressed: Family<Labels, Counter>,
    reloads: Family<Labels, Counter>,
    reload_time: Gauge,
    reload_successful: Gauge,
    connections_limit: Gauge,
    build: Family<Build, Gauge>,
    at_scrape: AtScrape,
}

/// What is known elsewhere, and looked up at each scrape.
#[derive(Debug)]
struct AtScrape {
    messages: Counter,
    bytes: Family<Labels, Counter>,
    compressed_bytes: Counter,
    inflated_bytes: Counter,
    budget_limit: Gauge,
    budget_used: Gauge,
    log_lost: Counter,
    process: OfProcess,
}

/// What /proc says of this process.
#[derive(Debug)]
struct OfProcess {
    cpu: Seconds,
    resident: Gauge,
    virtual_memory: Gauge,
    descriptors: Gauge,
    max_descriptors: Gauge,
    threads: Gauge,
    start: Gauge<f64, AtomicU64>,
}

/// Values kept elsewhere that a scrape needs.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// `limits.buffer_budget`, in bytes.
    pub budget_limit: usize,
    /// How much of it is in use, in bytes.
    pub budget_used: usize,
    /// Log lines lost because their reader was too slow.
    pub log_lost: usize,
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let process = &mut Names(registry.sub_registry_with_prefix("process"));
        let process = OfProcess {
            cpu: process.add("cpu_seconds", "User and system CPU time, in seconds"),
            resident: process.add("resident_memory_bytes", "Resident memory, in bytes"),
            virtual_memory: process.add("virtual_memory_bytes", "Virtual memory, in bytes"),
            descriptors: process.add("open_fds", "Open file descriptors"),
            max_descriptors: process.add("max_fds", "Soft limit on open file descriptors"),
            threads: process.add("threads", "Threads"),
            start: process.add("start_time_seconds", "Start of the process, as Unix time"),
        };
        let own = &mut Names(registry.sub_registry_with_prefix("wsecho"));
        let build: Family<Build, Gauge> =
            own.add("build_info", "Always 1, labelled with the version and the instance's name");
        build.get_or_create(&version()).set(1);
        Self {
            sessions: own.add("sessions", "Open WebSockets"),
            sessions_compressed: own
                .add("sessions_compressed", "Open WebSockets that agreed to compression"),
            connections: own.add("connections", "Open connections, including WebSockets"),
            traffic: Traffic::default(),
            panics: own.add("panics", "Tasks that ended in a panic"),
            handshake_duration: own.histogram(
                "handshake_duration_seconds",
                "From accept to a completed handshake",
                HANDSHAKE_BUCKETS,
            ),
            session_duration: own.histogram(
                "session_duration_seconds",
                "From the handshake to the end of the WebSocket",
                SESSION_BUCKETS,
            ),
            ping_round_trip: own.histogram(
                "ping_round_trip_seconds",
                "From a ping to the next byte from the client",
                PING_BUCKETS,
            ),
            refused: own.add("handshakes_refused", "Requests refused a WebSocket, by reason"),
            faults: own.add("proxy_faults", "Clients whose handshakes a proxy broke, by reason"),
            ended: own.add("sessions_ended", "WebSockets ended, by how"),
            suppressed: own
                .add("log_suppressed", "Log lines suppressed by the rate limits, by kind"),
            reloads: own.add("config_reloads", "Configuration reloads, by result"),
            reload_time: own.add(
                "config_last_reload_timestamp_seconds",
                "When the active configuration was loaded, as Unix time",
            ),
            reload_successful: own.add(
                "config_last_reload_successful",
                "0 if the last reload failed and the previous configuration is still active",
            ),
            connections_limit: own.add(
                "connections_limit",
                "Most connections served: limits.max_connections, or what file descriptors allow",
            ),
            build,
            at_scrape: AtScrape {
                messages: own.add("messages", "Messages echoed"),
                bytes: own.add("bytes", "Message payload in bytes, by direction"),
                compressed_bytes: own
                    .add("compressed_bytes", "Compressed payload received, in bytes"),
                inflated_bytes: own
                    .add("inflated_bytes", "What compressed payload was inflated to, in bytes"),
                budget_limit: own.add("buffer_budget_bytes", "The value of limits.buffer_budget"),
                budget_used: own.add("buffer_used_bytes", "Memory charged to limits.buffer_budget"),
                log_lost: own.add("log_lost", "Log lines lost because their reader was too slow"),
                process,
            },
            registry,
        }
    }

    /// Names the instance, where there are several.
    pub fn name(&self, instance: &str) {
        let mut build = version();
        build.push(("name", instance.to_owned()));
        self.build.clear();
        self.build.get_or_create(&build).set(1);
    }

    /// Counts a request that was refused a WebSocket.
    pub fn refuse(&self, reason: &impl Label) {
        self.refused.get_or_create(&[("reason", reason.label())]).inc();
    }

    /// Counts a client that got no WebSocket because of a proxy.
    pub fn fault(&self, reason: &impl Label) {
        self.faults.get_or_create(&[("reason", reason.label())]).inc();
    }

    /// Counts the end of a session.
    pub fn end(&self, how: &impl Label, lasted: Duration) {
        self.ended.get_or_create(&[("how", how.label())]).inc();
        self.session_duration.observe(lasted.as_secs_f64());
    }

    /// Counts a log line of this kind that was suppressed.
    pub fn suppress(&self, kind: &'static str) {
        self.suppressed.get_or_create(&[("kind", kind)]).inc();
    }

    /// Records a reload, and whether the new configuration was good.
    pub fn reload(&self, good: bool) {
        let result = if good { "ok" } else { "refused" };
        self.reloads.get_or_create(&[("result", result)]).inc();
        if good {
            self.loaded();
        } else {
            self.reload_successful.set(0);
        }
    }

    /// Records that the active configuration was loaded just now.
    pub fn loaded(&self) {
        #[expect(clippy::disallowed_methods, reason = "shown to people, not used for a timer")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge(&self.reload_time, now.as_secs());
        self.reload_successful.set(1);
    }

    /// Records how many connections are served at most.
    pub fn limit_connections(&self, most: usize) {
        gauge(&self.connections_limit, most as u64);
    }

    /// Everything, in Prometheus' text format.
    #[must_use]
    pub fn text(&self, now: Now) -> String {
        self.at_scrape.update(&self.traffic, now);
        classic(&OpenMetrics(&self.registry).to_string())
    }
}

fn version() -> Build {
    vec![("version", env!("CARGO_PKG_VERSION").to_owned())]
}

/// All metrics, in the OpenMetrics format.
struct OpenMetrics<'a>(&'a Registry);

impl fmt::Display for OpenMetrics<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        encode_registry(f, self.0)
    }
}

/// Turns OpenMetrics, the only format the library writes, into the one that every scraper reads.
/// There, a counter is described under the name of its samples.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 256);
    let mut help = "";
    for line in open_metrics.lines() {
        if line.starts_with("# HELP ") {
            help = line;
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|described| described.rsplit_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let said = help.split_once(name).map_or("", |(_, said)| said);
            text.extend(["# HELP ", name, suffix, said, "\n"]);
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else {
            text.extend([line, "\n"]);
        }
    }
    text
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The names below one prefix.
struct Names<'a>(&'a mut Registry);

impl Names<'_> {
    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        buckets: [f64; N],
    ) -> Histogram {
        let histogram = Histogram::new(buckets);
        self.0.register(name, help, histogram.clone());
        histogram
    }
}

impl AtScrape {
    fn update(&self, traffic: &Traffic, now: Now) {
        set(&self.messages, traffic.sum(|share| &share.messages));
        let bytes = |direction| self.bytes.get_or_create_owned(&[("direction", direction)]);
        set(&bytes("in"), traffic.sum(|share| &share.bytes_in));
        set(&bytes("out"), traffic.sum(|share| &share.bytes_out));
        set(&self.compressed_bytes, traffic.sum(|share| &share.compressed_bytes));
        set(&self.inflated_bytes, traffic.sum(|share| &share.inflated_bytes));
        set(&self.log_lost, now.log_lost as u64);
        gauge(&self.budget_limit, now.budget_limit as u64);
        gauge(&self.budget_used, now.budget_used as u64);
        // What /proc does not say keeps its last value.
        let _ = self.process.update();
    }
}

impl OfProcess {
    fn update(&self) -> procfs::ProcResult<()> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        #[expect(clippy::cast_precision_loss, reason = "exact for centuries")]
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        self.cpu.inner().store(seconds(stat.utime + stat.stime).to_bits(), Ordering::Relaxed);
        gauge(&self.resident, stat.rss * procfs::page_size());
        gauge(&self.virtual_memory, stat.vsize);
        self.threads.set(stat.num_threads);
        gauge(&self.descriptors, process.fd_count()? as u64);
        if let LimitValue::Value(limit) = process.limits()?.max_open_files.soft_limit {
            gauge(&self.max_descriptors, limit);
        }
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        self.start.set(procfs::boot_time_secs()? as f64 + seconds(stat.starttime));
        Ok(())
    }
}

fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

fn gauge(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// What sessions echo: sums that every worker adds to on a cache line of its own, so that counting
/// costs nothing.
#[derive(Debug, Default)]
pub struct Traffic([Share; 16]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Share {
    messages: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    compressed_bytes: AtomicU64,
    inflated_bytes: AtomicU64,
}

thread_local! {
    /// The share this thread adds to.
    static OWN_SHARE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

impl Traffic {
    /// Adds complete messages, and bytes of payload received and sent.
    pub fn add(&self, messages: u64, bytes_in: u64, bytes_out: u64) {
        let share = self.own_share();
        share.messages.fetch_add(messages, Ordering::Relaxed);
        share.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        share.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    }

    /// Adds bytes of compressed payload, which are received ones too, and what they inflated to.
    pub fn add_inflated(&self, compressed: u64, inflated: u64) {
        let share = self.own_share();
        share.compressed_bytes.fetch_add(compressed, Ordering::Relaxed);
        share.inflated_bytes.fetch_add(inflated, Ordering::Relaxed);
    }

    fn own_share(&self) -> &Share {
        &self.0[OWN_SHARE.with(|own| own % self.0.len())]
    }

    fn sum(&self, of: fn(&Share) -> &AtomicU64) -> u64 {
        self.0.iter().map(|share| of(share).load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fell;

    impl Label for Fell {
        fn label(&self) -> &'static str {
            "fell"
        }
    }

    #[test]
    fn what_is_reported_appears_in_the_text_under_its_name() {
        let metrics = Metrics::new();
        metrics.sessions.inc();
        metrics.traffic.add(2, 30, 400);
        metrics.traffic.add_inflated(5, 600);
        metrics.end(&Fell, Duration::from_secs(60));
        metrics.refuse(&Fell);
        metrics.fault(&Fell);
        metrics.reload(false);
        let now = Now { budget_limit: 4096, budget_used: 7, log_lost: 3 };
        let text = metrics.text(now);
        for line in [
            "# TYPE wsecho_sessions gauge",
            "wsecho_sessions 1",
            "# HELP wsecho_messages_total Messages echoed.",
            "# TYPE wsecho_messages_total counter",
            "wsecho_messages_total 2",
            "wsecho_bytes_total{direction=\"in\"} 30",
            "wsecho_bytes_total{direction=\"out\"} 400",
            "wsecho_compressed_bytes_total 5",
            "wsecho_inflated_bytes_total 600",
            "wsecho_sessions_ended_total{how=\"fell\"} 1",
            "wsecho_session_duration_seconds_bucket{le=\"59.0\"} 0",
            "wsecho_session_duration_seconds_bucket{le=\"61.0\"} 1",
            "wsecho_handshakes_refused_total{reason=\"fell\"} 1",
            "wsecho_proxy_faults_total{reason=\"fell\"} 1",
            "wsecho_config_reloads_total{result=\"refused\"} 1",
            "wsecho_buffer_used_bytes 7",
            "wsecho_log_lost_total 3",
            "# TYPE process_cpu_seconds_total counter",
            "process_threads ",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} in {text}");
        }
    }
}
