//! The figures of a run, second by second. This file owns how they are taken, judged and written.

use crate::client::World;
use crate::proc;

const MIB: f64 = 1024.0 * 1024.0;

/// One service at one moment: memory in MiB, CPU time in seconds; the rest are counts.
#[derive(Clone, Copy, Default)]
pub struct OfService {
    pub memory: f64,
    pub descriptors: f64,
    pub cpu: f64,
    pub reloads: u64,
    pub restarts: u64,
}

/// One moment.
pub struct Sample {
    pub second: u64,
    pub sessions: f64,
    pub echoes: u64,
    pub services: Vec<(&'static str, Option<OfService>)>,
}

impl Sample {
    pub fn take(second: u64, world: &World) -> Self {
        let services = world.services().iter().map(|service| {
            let pid = service.pid();
            let figures = || {
                Some(OfService {
                    memory: proc::bytes(pid, "status", "VmRSS").ok()? as f64 / MIB,
                    descriptors: proc::descriptors(pid).ok()? as f64,
                    cpu: proc::cpu(pid).ok()?.as_secs_f64(),
                    reloads: service.reloads(),
                    restarts: service.restarts().div_ceil(2),
                })
            };
            // A process that is just being replaced has no figures.
            (service.name, figures())
        });
        Self {
            second,
            sessions: world.sessions() as f64,
            echoes: world.echoes(),
            services: services.collect(),
        }
    }
}

#[derive(Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    pub fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub fn all(&self) -> &[Sample] {
        &self.0
    }

    /// The names of the services, in the order of the samples.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.first().map(|it| it.services.iter().map(|it| it.0).collect()).unwrap_or_default()
    }

    pub fn of(&self, service: usize, figure: fn(&OfService) -> f64) -> Vec<(f64, f64)> {
        let points = self
            .0
            .iter()
            .filter_map(|it| Some((it.second as f64, figure(it.services[service].1.as_ref()?))));
        points.collect()
    }

    pub fn rates(&self) -> Vec<(f64, f64)> {
        let pairs = self.0.windows(2);
        pairs.map(|it| (it[1].second as f64, (it[1].echoes - it[0].echoes) as f64)).collect()
    }

    /// How many seconds to leave out at the start, while the mix of clients is still settling.
    fn warm_up(&self) -> f64 {
        (self.0.len() as f64 / 5.0).min(60.0)
    }

    /// The medians of the first and the last third after the warm-up.
    fn thirds(&self, points: &[(f64, f64)]) -> (f64, f64) {
        let warm: Vec<f64> =
            points.iter().filter(|it| it.0 >= self.warm_up()).map(|it| it.1).collect();
        let third = warm.len() / 3;
        (median(&warm[..third]), median(&warm[warm.len() - third..]))
    }

    /// Complaints about what is not flat in the first service, the one that stays.
    pub fn judge(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.0.len() < 60 {
            println!("too short to tell whether anything grows");
            return complaints;
        }
        let mut flat = |what: &str, figure: fn(&OfService) -> f64, tenth_and: f64| {
            let (first, last) = self.thirds(&self.of(0, figure));
            println!("{what}: median {first:.1} in the first third, {last:.1} in the last");
            if last > 1.1 * first + tenth_and {
                complaints.push(format!("{what} grew from {first:.1} to {last:.1}"));
            }
        };
        flat("memory, MiB", |it| it.memory, 4.0);
        flat("descriptors", |it| it.descriptors, 20.0);
        complaints
    }

    pub fn summary(&self) -> String {
        let rates: Vec<f64> = self.rates().iter().map(|it| it.1).collect();
        let sessions: Vec<f64> = self.0.iter().map(|it| it.sessions).collect();
        let mut text = format!(
            "sessions: {:.0} at most, median {:.0}; echoes per second: median {:.0}",
            sessions.iter().copied().fold(0.0, f64::max),
            median(&sessions),
            median(&rates),
        );
        text.extend(self.names().into_iter().enumerate().map(|(index, name)| {
            let memory: Vec<f64> = self.of(index, |it| it.memory).iter().map(|it| it.1).collect();
            let cpu = self.of(index, |it| it.cpu);
            let last = self.0.iter().rev().find_map(|it| it.services[index].1);
            let last = last.unwrap_or_default();
            format!(
                "\n{name}: {} reloads, {} restarts, memory {:.1} MiB at most, median {:.1}; \
                 {:.1} s of CPU in its last process",
                last.reloads,
                last.restarts,
                memory.iter().copied().fold(0.0, f64::max),
                median(&memory),
                cpu.last().map_or(0.0, |it| it.1),
            )
        }));
        text
    }

    pub fn csv(&self) -> String {
        const COLUMNS: [&str; 5] =
            ["memory_mib", "descriptors", "cpu_seconds", "reloads", "restarts"];
        let mut text = "second,sessions,echoes".to_owned();
        for name in self.names() {
            text.extend(COLUMNS.map(|column| format!(",{name}_{column}")));
        }
        for Sample { second, sessions, echoes, services } in &self.0 {
            text.extend([format!("\n{second},{sessions},{echoes}")]);
            text.extend(services.iter().map(|(_, figures)| {
                figures.map_or(",,,,,".to_owned(), |it| {
                    format!(
                        ",{:.2},{},{:.2},{},{}",
                        it.memory, it.descriptors, it.cpu, it.reloads, it.restarts
                    )
                })
            }));
        }
        text + "\n"
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
