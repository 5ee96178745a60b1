//! Times in fixed memory, however many there are.
//!
//! Owns the buckets: 128 for each power of two of nanoseconds, 58 KiB in all, so that a percentile is
//! at most 0.8 % too high. The shortest and the longest time are exact. A crate for this would bring
//! resizing, merging and a file format, none of which is needed here.

use std::time::Duration;

use crate::probe::report::measured::Spread;

/// The logarithm of the number of buckets for each power of two.
const PRECISION: u32 = 7;
const BUCKETS: usize = (64 - PRECISION as usize + 1) << PRECISION;

/// How often which time was recorded.
pub(super) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, min: u64::MAX, max: 0 }
    }

    /// Records a time that so many messages took.
    pub(super) fn record(&mut self, time: Duration, messages: u64) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[index(nanos)] += messages;
        self.count += messages;
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
    }

    /// The percentiles; `None` if nothing was recorded.
    pub(super) fn spread(&self) -> Option<Spread> {
        let at = |per_mille| Duration::from_nanos(self.percentile(per_mille));
        (self.count > 0).then(|| Spread {
            min: Duration::from_nanos(self.min),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: Duration::from_nanos(self.max),
        })
    }

    /// The time that this share did not exceed, in nanoseconds.
    fn percentile(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        bucket.map_or(self.max, longest).clamp(self.min, self.max)
    }
}

/// The bucket of a time: exact up to 255 ns, then by the eight highest bits.
fn index(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(PRECISION + 1);
    let highest = usize::try_from(nanos >> shift).expect("eight bits");
    ((shift as usize) << PRECISION) + highest
}

/// The longest time in a bucket.
fn longest(index: usize) -> u64 {
    let shift = (index >> PRECISION).saturating_sub(1);
    let highest = (index - (shift << PRECISION)) as u64;
    (highest << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_a_bucket_whose_longest_is_at_most_a_128th_longer() {
        let powers = (0..64).map(|power| 1_u64 << power);
        let near = powers.flat_map(|power| [power - 1, power, power + power / 3]);
        for nanos in near.chain(0..1000).chain([u64::MAX]) {
            let longest = longest(index(nanos));
            assert!(longest >= nanos && longest - nanos <= nanos / 128, "{nanos}: {longest}");
            assert!(index(longest) == index(nanos) && index(nanos) < BUCKETS, "{nanos}");
            assert!(longest == u64::MAX || index(longest + 1) == index(nanos) + 1, "{nanos}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.spread(), None);
        for micros in (1..=1000).rev() {
            histogram.record(Duration::from_micros(micros), 3);
        }
        let Spread { min, p50, p90, p99, p999, max } = histogram.spread().expect("there are some");
        assert_eq!((min, max), (Duration::from_micros(1), Duration::from_millis(1)));
        for (found, micros) in [(p50, 500), (p90, 900), (p99, 990), (p999, 999)] {
            let exact = Duration::from_micros(micros);
            assert!((exact..=exact + exact / 128).contains(&found), "{micros}: {found:?}");
        }
        let mut one = Histogram::new();
        one.record(Duration::from_micros(1), 1);
        assert_eq!(one.spread().expect("one").p50, Duration::from_micros(1));
    }
}
