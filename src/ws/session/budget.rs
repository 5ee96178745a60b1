//! The memory that all sessions of the process share: `limits.buffer_budget`.
//!
//! Owns the sum. It does not know what the memory is for, and takes none back: sessions that see it
//! spent hold back by themselves.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A process-wide number of bytes.
///
/// It may be exceeded by what one turn of each worker reads, and by what every session may hold
/// uncharged.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Bytes that may be used.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.used() >= self.limit()
    }
}

/// One connection's share of the budget; returned when it is dropped, however the connection ends.
pub struct Charge<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl<'a> Charge<'a> {
    /// Nothing yet.
    #[must_use]
    pub fn new(budget: &'a Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Changes the charge to `bytes`.
    pub fn set(&mut self, bytes: usize) {
        let used = &self.budget.used;
        if bytes > self.bytes {
            used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}
