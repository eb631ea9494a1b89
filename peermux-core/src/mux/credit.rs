//! Credit: [spec](crate::spec) section 11. Each struct keeps one invariant, and asserts it.

use core::time::Duration;

use crate::time::Instant;

/// What may be sent: a stream's, or the connection's.
#[derive(Debug)]
pub(super) struct SendCredit {
    sent: u64,
    limit: u64,
}

impl SendCredit {
    pub(super) const fn new(limit: u64) -> Self {
        Self { sent: 0, limit }
    }

    /// Bytes that may still be sent.
    pub(super) const fn left(&self) -> u64 {
        self.limit - self.sent
    }

    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Uses `bytes`, of which no more than are left are ever asked for.
    pub(super) const fn spend(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        debug_assert!(self.sent <= self.limit);
    }

    /// The peer allows `limit` bytes in all; whether that is more than before.
    pub(super) const fn raise(&mut self, limit: u64) -> bool {
        let raises = limit > self.limit;
        if raises {
            self.limit = limit;
        }
        raises
    }
}

/// What the peer may send: `left`. With what it sent and the application has not taken, that never exceeds the window.
#[derive(Debug)]
pub(super) struct RecvCredit {
    received: u64,
    /// These are at most 2 GiB: the configuration allows a receive window of 1 GiB, and the connection's credit is twice that.
    unread: u32,
    left: u32,
    window: u32,
    /// The window that it began with.
    first: u32,
}

impl RecvCredit {
    pub(super) fn new(window: u64) -> Self {
        let window = u32::try_from(window).unwrap_or(u32::MAX);
        Self { received: 0, unread: 0, left: window, window, first: window }
    }

    pub(super) const fn window(&self) -> u64 {
        self.window as u64
    }

    pub(super) const fn first_window(&self) -> u64 {
        self.first as u64
    }

    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// Bytes received that the application has not yet taken, and that were not discarded.
    pub(super) const fn unread(&self) -> u64 {
        self.unread as u64
    }

    /// Bytes that the application took, or that were discarded.
    pub(super) const fn consumed(&self) -> u64 {
        self.received - self.unread()
    }

    /// The peer sent `bytes`; false, and nothing is counted, if that is more than was granted.
    #[must_use]
    pub(super) const fn receive(&mut self, bytes: usize) -> bool {
        let granted = bytes as u64 <= self.left();
        if granted {
            self.received += bytes as u64;
            self.unread += bytes as u32;
            self.left -= bytes as u32;
        }
        granted
    }

    /// The application took `bytes`, or they were discarded.
    pub(super) const fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes as u64 <= self.unread());
        self.unread -= bytes as u32;
    }

    pub(super) fn grow(&mut self, by: u64) {
        self.window += by as u32;
    }

    /// What must be given back for a record to be caused by it: half of the window; of a large one a quarter or an eighth, where waiting for more could
    /// hold a fast sender up and a record costs next to nothing.
    pub(super) const fn worth_a_record(&self) -> u64 {
        const LARGE: u64 = 1 << 20;
        match self.window() {
            window if window >= 8 * LARGE => window / 8,
            window if window >= LARGE => window / 4,
            window => window / 2,
        }
    }

    /// By how much the limit could be raised now.
    pub(super) const fn raise(&self) -> u64 {
        (self.window - self.unread - self.left) as u64
    }

    /// What the peer may still send.
    pub(super) const fn left(&self) -> u64 {
        self.left as u64
    }

    /// Raises the limit as far as it goes, and returns it: the bytes that the peer may have sent in all.
    pub(super) const fn grant(&mut self) -> u64 {
        self.left = self.window - self.unread;
        self.received + self.left()
    }
}

/// Decides when a stream's window is too small: when it is less than four times what the application reads in a round trip. Half of it is used
/// up before credit is given, and the round trip that is measured knows nothing of the sender's queue.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    consumed: u64,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, consumed: 0 }
    }

    /// More credit is due: whether the window of `credit` should grow, by what was consumed since this was last asked.
    pub(super) fn is_held_up(&mut self, now: Instant, credit: &RecvCredit, round_trip: Duration) -> bool {
        let consumed = credit.consumed() - self.consumed;
        let took = now.saturating_since(self.since);
        *self = Self { since: now, consumed: credit.consumed() };
        u128::from(credit.window()) * took.as_micros() < 4 * u128::from(consumed) * round_trip.as_micros()
    }
}
