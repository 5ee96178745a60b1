//! The report: this file owns the figures collected and the Markdown they are printed as.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;

use crate::chart::Panel;
use crate::process::{Cpus, Server};
use crate::shape::{Figures, Shape};

/// The figures of one server for one shape, by round.
type Rounds = BTreeMap<u32, Figures>;

pub struct Report {
    machine: String,
    shapes: BTreeMap<Shape, BTreeMap<Server, Rounds>>,
}

impl Report {
    pub fn new(cpus: &Cpus) -> Self {
        Self { machine: machine(cpus), shapes: BTreeMap::new() }
    }

    /// The CPU time of each spread server as a multiple of one worker's, by shape.
    pub fn scaling(&self) -> Vec<Panel> {
        let panel = |(shape, servers): (&Shape, &BTreeMap<Server, Rounds>)| {
            let one = servers.get(&Server::Wsecho)?;
            let spread = servers.iter().filter(|(server, _)| server.is_spread());
            let rows = spread.map(|(server, rounds)| (server.name(), ratios(rounds, one)));
            Some(Panel { title: shape.name(), rows: rows.collect() })
        };
        self.shapes.iter().filter_map(panel).collect()
    }

    pub fn add(&mut self, shape: Shape, server: Server, round: u32, figures: Figures) {
        let servers = self.shapes.entry(shape).or_default();
        servers.entry(server).or_default().insert(round, figures);
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        for (&shape, servers) in &self.shapes {
            table(f, shape, servers)?;
        }
        Ok(())
    }
}

fn machine(cpus: &Cpus) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    // What a vendor adds says nothing to others.
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('.').take(2).collect::<Vec<_>>().join(".");
    let load_average = read("/proc/loadavg");
    let busy = load_average.split(' ').next().unwrap_or("unknown");
    let Cpus { server, second, load } = cpus;
    format!(
        "{model}, {cores} cores, Linux {kernel}, load average {busy} at the start. One server process \
         at a time, on CPU {server} (several workers: {server} and {second}; of several instances, \
         which have one worker each, every second on {second}); the load generator on CPU {load}. \
         Each cell is min · **median** · max over the rounds; a ratio is of first figures, paired \
         by round."
    )
}

fn table(f: &mut Formatter<'_>, shape: Shape, servers: &BTreeMap<Server, Rounds>) -> fmt::Result {
    let rounds = servers.values().map(BTreeMap::len).max().unwrap_or(0);
    let yardstick = shape.yardstick().and_then(|it| Some((it.name(), servers.get(&it)?)));

    writeln!(f, "\n### {} (rounds: {rounds})\n", shape.name())?;
    let mut head = format!("| server | {} |", shape.columns().join(" | "));
    let mut rule = "|---|".to_owned() + &"---:|".repeat(shape.columns().len());
    if let Some((name, _)) = yardstick {
        head.extend([" ", name, " ÷ server |"]);
        rule += "---:|";
    }
    writeln!(f, "{head}\n{rule}")?;
    for (server, rounds) in servers {
        write!(f, "| {} |", server.name())?;
        for column in 0..shape.columns().len() {
            let spread = Spread::of(rounds.values().map(|figures| figures[column]));
            write!(f, " {spread} |")?;
        }
        if let Some((_, yardstick)) = yardstick {
            write!(f, " {} |", ratios(yardstick, rounds))?;
        }
        writeln!(f)?;
    }

    if let Some(one) = servers.get(&Server::Wsecho) {
        for (server, rounds) in servers.iter().filter(|(server, _)| server.is_spread()) {
            writeln!(f, "\n- {} ÷ one worker: {}", server.name(), ratios(rounds, one))?;
        }
    }
    if let (Some(workers), Some(instances)) =
        (servers.get(&Server::WsechoTwoWorkers), servers.get(&Server::WsechoTwoInstances))
    {
        writeln!(f, "\n- Two workers ÷ two instances: {}", ratios(workers, instances))?;
    }
    if let (Some(wsecho), Some(plain)) =
        (servers.get(&Server::Wsecho), servers.get(&Server::WsechoUncompressed))
    {
        let sums = plain.iter().map(|(&round, plain)| (round, vec![plain[0] + plain[2]])).collect();
        writeln!(f, "\n- wsecho ÷ (uncompressed + inflating alone): {}", ratios(wsecho, &sums))?;
    }
    Ok(())
}

/// The first figure of `above` divided by that of `below`, for every round that has both.
fn ratios(above: &Rounds, below: &Rounds) -> Spread {
    Spread::of(above.iter().filter_map(|(round, above)| Some(above[0] / below.get(round)?[0])))
}

/// The spread of a figure over the rounds.
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (middle, last) = (values.len() / 2, values.len().saturating_sub(1));
        let median = if values.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        };
        Self { min: at(0), median, max: at(last) }
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { min, median, max } = self;
        write!(f, "{} · **{}** · {}", Figure(*min), Figure(*median), Figure(*max))
    }
}

/// A number with about three significant digits and separated thousands.
struct Figure(f64);

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let decimals = match self.0.abs() {
            0.0..1.0 => 3,
            1.0..10.0 => 2,
            10.0..100.0 => 1,
            _ => 0,
        };
        let text = format!("{:.decimals$}", self.0);
        if decimals > 0 || text.len() <= 3 {
            return f.write_str(&text);
        }
        for (index, digit) in text.chars().enumerate() {
            if index > 0 && (text.len() - index) % 3 == 0 {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}
