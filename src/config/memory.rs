//! The most memory that a configuration lets the service take.
//!
//! Owns the sum that docs/operations.md shows, with the reason for each part. The kernel's share is
//! not in it.

use super::Config;
use crate::ops::machine::Capacity;

/// What it takes at start.
const PROGRAM: u64 = 5 << 20;
/// A connection until its request is complete, which is more than a session takes.
const CONNECTION: u64 = 7 << 10;
/// A worker: its window, blocks for a backlog, one read beyond the budget, inflaters.
const WORKER: u64 = (516 + 512 + 516 + 5 * 48 + 64) << 10;
/// The queue of the log.
const LOG: u64 = 16 << 20;
/// What is remembered of peers: who has logged, and who has how many connections.
const BOOKKEEPING: u64 = 2 << 20;

impl Config {
    /// The sum for this many connections and workers, in bytes.
    #[must_use]
    pub fn most_memory(&self, capacity: Capacity, workers: usize) -> u64 {
        let connections = (capacity.admitted + capacity.overflow) as u64;
        let budget = self.boot.buffer_budget as u64;
        PROGRAM + connections * CONNECTION + budget + workers as u64 * WORKER + LOG + BOOKKEEPING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_one_that_is_documented() {
        let page = include_str!("../../docs/operations.md");
        let total = page.lines().find_map(|line| line.split("| **total**").nth(1)).unwrap();
        let documented: u64 =
            total.split("**").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let capacity = Capacity { admitted: 10_000, overflow: 256, admin: 0 };
        let sum = Config::default().most_memory(capacity, 4) >> 20;
        // The page rounds each part up.
        assert!((documented - 3..=documented).contains(&sum), "{sum} of {documented} MiB");
    }
}
