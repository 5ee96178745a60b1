//! The command line of `--load`, and its limits, so that nobody overloads a server by mistake.
//!
//! Owns which hosts need no confirmation. It does not know how a load is made.

use std::net::IpAddr;
use std::time::Duration;

use super::{UnusableOption, no_url};
use crate::config::{read_duration, read_size};
use crate::probe::measure::load::Settings;
use crate::probe::report::measured::Pace;
use crate::probe::target::{Pinned, Target};
use crate::probe::tunnel::Proxies;

/// The longest `--load`.
const MAX_TIME: Duration = Duration::from_secs(5 * 60);
/// The largest `--message-size`, in bytes.
const MAX_SIZE: usize = 1 << 20;

/// The options of a load.
#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// Then send messages for this long, up to 5m, and show throughput and latency; loopback addresses only, unless --i-own-this
    #[arg(id = "load", long = "load", value_name = "TIME", value_parser = time, conflicts_with_all = ["expect", "connect_only", "follow"])]
    time: Option<Duration>,
    /// Open this many connections for --load, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 1, requires = "load", value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Keep this many messages of --load in flight on each connection, 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 1, requires = "load", conflicts_with = "rate", value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,
    /// Send this many messages a second with --load, over all connections, whether or not they come back; 1 to 1000000
    #[arg(long, value_name = "R", requires = "load", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The payload of each message of --load, up to 1 MiB
    #[arg(long, value_name = "SIZE", default_value = "32 B", requires = "load", value_parser = size)]
    message_size: usize,
    /// Allow --load against a server that is not on a loopback address
    #[arg(long, requires = "load")]
    i_own_this: bool,
}

/// A number alone means seconds.
fn time(text: &str) -> Result<Duration, String> {
    no_url(text, "--load 10s")?;
    let time = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => read_duration(text)?,
    };
    let range = Duration::from_secs(1)..=MAX_TIME;
    if range.contains(&time) { Ok(time) } else { Err("write 1s to 5m".to_owned()) }
}

fn size(text: &str) -> Result<usize, String> {
    match usize::try_from(read_size(text)?) {
        Ok(size @ 0..=MAX_SIZE) => Ok(size),
        _ => Err("write \"0 B\" to \"1 MiB\"".to_owned()),
    }
}

impl Load {
    /// What is asked for, if anything is.
    pub(super) fn settings(
        &self,
        targets: &[Target],
        is_local: impl Fn(&Target) -> bool,
    ) -> Result<Option<Settings>, UnusableOption> {
        let Some(time) = self.time else { return Ok(None) };
        // Loads side by side would measure each other.
        let [target] = targets else {
            return Err(UnusableOption("--load takes one URL".to_owned()));
        };
        if !(self.i_own_this || is_local(target)) {
            return Err(UnusableOption(format!(
                "--load {target}: not a loopback address; if the server is yours, add --i-own-this"
            )));
        }
        let closed = Pace::Closed { in_flight: self.in_flight };
        let pace = self.rate.map_or(closed, |rate| Pace::Open { rate });
        let (connections, bytes) = (self.connections, self.message_size);
        Ok(Some(Settings { time, connections, pace, bytes }))
    }
}

/// Whether connections to a target stay on this host, as far as that can be told without DNS.
pub(super) fn is_loopback(target: &Target, pinned: &[Pinned], proxies: &Proxies) -> bool {
    if !matches!(proxies.proxy_for(target), Ok(None)) {
        return false;
    }
    let pinned: Vec<_> = pinned.iter().filter(|pinned| pinned.host == target.host).collect();
    if !pinned.is_empty() {
        return pinned.iter().all(|pinned| pinned.ip.to_canonical().is_loopback());
    }
    match target.host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        // RFC 6761, section 6.3.
        Err(_) => target.host.eq_ignore_ascii_case("localhost"),
    }
}
