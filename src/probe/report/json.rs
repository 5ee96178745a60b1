//! A report for programs: one line of JSON, in the form of docs/probe.schema.json.
//!
//! Owns the names in it. They do not change; more may come. Each figure has its unit in its name, and
//! what is not known is `null`, not absent.

use std::time::Duration;

use serde_json::{Value, json};

use super::measured::{Count, Cut, Idle, Load, Pace, Size, Spread};
use super::{
    Answer, Attempt, Certificate, Closed, Ending, Family, Http2, Outcome, Redirect, Report,
    RoundTrip, Step, Tls,
};
use crate::probe::failure::Failed;

/// Prints reports.
#[must_use]
pub fn print(reports: &[Report]) -> String {
    let probes: Vec<_> = reports.iter().map(probe).collect();
    let healthy = reports.iter().all(Report::is_healthy);
    format!("{}\n", json!({ "healthy": healthy, "probes": probes }))
}

fn probe(report: &Report) -> Value {
    json!({
        "url": report.asked(),
        "healthy": report.is_healthy(),
        "begun_unix_seconds": report.begun_unix_seconds,
        "duration_seconds": seconds(report.took),
        "timeout_seconds": seconds(report.timeout),
        "insecure": report.insecure,
        "redirects": all(&report.redirects, redirect),
        "stages": all(&report.steps, stage),
        "addresses": report.addresses,
        "attempts": all(&report.attempts, attempt),
        "tunnel": report.tunnel,
        "tls": report.tls.as_ref().map(tls),
        "answer": report.answer.as_ref().map(answer),
        "heads": report.heads.as_ref().map(|it| {
            json!({ "request": it.request, "answer": it.answer })
        }),
        "agreed": report.agreed.as_ref().map(|it| {
            json!({ "subprotocol": it.subprotocol, "extensions": it.extensions })
        }),
        "greeting": report.greeting,
        "prefix": report.prefix,
        "round_trips": all(&report.round_trips, round_trip),
        "round_trip_seconds": report.round_trip().map(seconds),
        "ping_seconds": report.ping.map(seconds),
        "close": report.closed.as_ref().map(close),
        "http2": report.http2.as_ref().map(http2),
        "count": report.measured.count.as_ref().map(count),
        "max_size": report.measured.size.as_ref().map(max_size),
        "idle": report.measured.idle.as_ref().map(idle),
        "load": report.measured.load.as_ref().map(load),
        "warnings": report.warnings,
        "failure": report.failed.as_ref().map(failure),
    })
}

fn all<T>(items: &[T], of: impl Fn(&T) -> Value) -> Vec<Value> {
    items.iter().map(of).collect()
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn http2(it: &Http2) -> Value {
    json!({
        "alpn": it.alpn,
        "announced": it.announced,
        "status": it.status,
        "round_trip_seconds": it.round_trip.map(seconds),
    })
}

fn redirect(it: &Redirect) -> Value {
    json!({ "url": it.url, "status": it.status, "location": it.location })
}

fn stage(it: &Step) -> Value {
    let (outcome, reason) = match it.outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Failed => ("failed", None),
        Outcome::Omitted(why) => ("omitted", Some(why)),
    };
    json!({
        "stage": it.stage.label(),
        "outcome": outcome,
        "reason": reason,
        "duration_seconds": it.took.map(seconds),
    })
}

fn attempt(it: &Attempt) -> Value {
    json!({
        "to": it.to,
        "family": it.family.map(Family::name),
        "duration_seconds": seconds(it.took),
        "error": it.error.as_ref().map(ToString::to_string),
    })
}

fn tls(it: &Tls) -> Value {
    json!({
        "version": it.version,
        "cipher": it.cipher,
        "alpn": it.alpn,
        "verified": it.verified,
        "client_certificate_asked": it.client_certificate_asked,
        "chain_not_after_unix_seconds": it.last_expiry_unix_seconds,
        "chain": all(&it.chain, certificate),
    })
}

fn certificate(it: &Certificate) -> Value {
    json!({
        "subject": it.subject,
        "issuer": it.issuer,
        "names": it.names,
        "not_before_unix_seconds": it.not_before_unix_seconds,
        "not_after_unix_seconds": it.not_after_unix_seconds,
        "days_left": it.days_left,
        "serial": it.serial,
        "sha256": it.sha256,
    })
}

fn answer(it: &Answer) -> Value {
    let from = all(&it.from, |(name, value)| json!({ "name": name, "value": value }));
    json!({ "status": it.status, "reason": it.reason, "from": from, "location": it.location })
}

fn round_trip(it: &RoundTrip) -> Value {
    json!({ "message": it.message, "bytes": it.bytes, "duration_seconds": seconds(it.took) })
}

fn close(it: &Closed) -> Value {
    let end = match it.end {
        Ending::Fin => "fin",
        Ending::Reset => "reset",
        Ending::LeftOpen => "left_open",
    };
    json!({
        "sent": it.sent,
        "answered": it.answered,
        "duration_seconds": seconds(it.took),
        "end": end,
    })
}

fn count(it: &Count) -> Value {
    let at = |percent| it.percentile(percent).map(seconds);
    json!({
        "what": it.what,
        "interval_seconds": seconds(it.interval),
        "sent": it.round_trips.len(),
        "lost": it.lost(),
        "min_seconds": at(0),
        "median_seconds": at(50),
        "p99_seconds": at(99),
        "max_seconds": at(100),
        "round_trips_seconds": all(&it.round_trips, |trip| json!(trip.map(seconds))),
    })
}

fn max_size(it: &Size) -> Value {
    let refused = it.refused.as_ref();
    json!({
        "largest_bytes": it.largest_bytes,
        "limit_bytes": it.limit_bytes,
        "refused_bytes": refused.map(|refused| refused.bytes),
        "cut": refused.map(|refused| cut(&refused.how)),
        "probably": refused.map_or(&[][..], |refused| refused.probably),
    })
}

fn idle(it: &Idle) -> Value {
    let seen = it.limit.cut();
    json!({
        "max_seconds": seconds(it.max),
        "lived_seconds": seconds(it.lived),
        "limit": it.limit.label(),
        "limit_seconds": it.limit.seen().map(seconds),
        "cut": seen.map(|(how, _)| cut(how)),
        "probably": seen.map_or(&[][..], |(_, probably)| probably),
        "safe_pause_seconds": it.safe_pause().map(seconds),
        "ping_interval_seconds": it.ping_interval().map(seconds),
        "connections": it.connections,
        "accidents": it.accidents,
    })
}

fn load(it: &Load) -> Value {
    let (in_flight, rate) = match it.pace {
        Pace::Closed { in_flight } => (Some(in_flight), None),
        Pace::Open { rate } => (None, Some(rate)),
    };
    json!({
        "connections": it.connections,
        "in_flight": in_flight,
        "asked_messages_per_second": rate,
        "message_bytes": it.bytes,
        "handshakes_seconds": seconds(it.opening),
        "handshakes_per_second": it.handshake_rate(),
        "duration_seconds": seconds(it.took),
        "sent": it.sent,
        "echoed": it.echoed,
        "messages_per_second": it.rate(),
        "latency": it.latency.as_ref().map(spread),
        "send_lag": it.lag.as_ref().map(spread),
        "interrupted": it.interrupted,
    })
}

fn spread(it: &Spread) -> Value {
    json!({
        "min_seconds": seconds(it.min),
        "p50_seconds": seconds(it.p50),
        "p90_seconds": seconds(it.p90),
        "p99_seconds": seconds(it.p99),
        "p99_9_seconds": seconds(it.p999),
        "max_seconds": seconds(it.max),
    })
}

fn cut(how: &Cut) -> Value {
    let (code, reason) = match how {
        Cut::Close { code, reason } => (*code, Some(reason)),
        Cut::Broken(text) => (None, Some(text)),
        _ => (None, None),
    };
    json!({ "how": how.label(), "code": code, "reason": reason })
}

fn failure(it: &Failed) -> Value {
    json!({
        "label": it.failure.label(),
        "refusal": it.diagnosis().map(|(_, label)| label),
        "stage": it.stage.label(),
        "seen": it.seen,
        "quote": it.quote,
        "meaning": it.failure.meaning(),
        "remedy": it.failure.remedy(),
    })
}
