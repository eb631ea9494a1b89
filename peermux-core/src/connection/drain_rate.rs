//! How fast the connection drains, and so how long a record may be: `docs/spec.md` section 8.2, rule 6.

use core::time::Duration;

use crate::time::Instant;
use crate::wire::{MAX_RECORD, QUANTUM};

/// The largest record, in bytes.
const LARGEST: usize = MAX_RECORD as usize * QUANTUM;

/// Measures the rate at which the transport takes records while there is always one more.
#[derive(Default)]
pub(super) struct DrainRate {
    /// Since when there has always been one more, and the bytes that were taken since.
    busy: Option<(Instant, u64)>,
    /// Bytes each second.
    rate: Option<u64>,
}

impl DrainRate {
    /// A measurement takes at least so long: less would measure the buffers of the transport.
    const SPAN: Duration = Duration::from_millis(20);
    /// How long a record takes at most, as long as it has no fewer quanta than `FEWEST`.
    const RECORD: Duration = Duration::from_micros(500);
    const FEWEST: u64 = 4;
    /// Before the first measurement.
    const UNKNOWN: u8 = 8;
    /// How long what is given to the transport at once takes at most, and what of it waits there in any case.
    const BURST: Duration = Duration::from_micros(250);
    const WAITS: usize = 16 * 1024;
    /// The largest burst, and the most that waits, in records of the largest size.
    const MOST: usize = 4;
    const MOST_UNSENT: usize = 16;

    /// `bytes` were taken at `now`; `more` says whether payload waits behind them.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize, more: bool) {
        if !more {
            return self.idle();
        }
        let (since, taken) = *self.busy.get_or_insert((now, 0));
        let taken = taken + bytes as u64;
        let span = now.saturating_since(since);
        if span < Self::SPAN {
            self.busy = Some((since, taken));
            return;
        }
        let measured = u64::try_from(u128::from(taken) * 1_000_000 / span.as_micros()).unwrap_or(u64::MAX);
        // An average of about four spans.
        self.rate = Some(match self.rate {
            Some(rate) => rate / 4 * 3 + measured / 4,
            None => measured,
        });
        self.busy = Some((now, 0));
    }

    /// Nothing waits: the next measurement begins anew.
    pub(super) const fn idle(&mut self) {
        self.busy = None;
    }

    /// The largest record that takes no longer than it should, in quanta.
    pub(super) fn largest_record(&self) -> u8 {
        let Some(rate) = self.rate else { return Self::UNKNOWN };
        let bytes = u128::from(rate) * Self::RECORD.as_micros() / 1_000_000;
        let quanta = u64::try_from(bytes).unwrap_or(u64::MAX) / QUANTUM as u64;
        quanta.clamp(Self::FEWEST, u64::from(MAX_RECORD)) as u8
    }

    /// How many bytes may be given to the transport at once: a record of the largest size, or some of them where a system call for each would
    /// be what limits the rate. That is so from about 2 Gbit/s on.
    pub(super) fn burst(&self) -> usize {
        self.records(Self::MOST) * LARGEST
    }

    /// How many bytes may wait in the transport unsent: those that always may, or as many as a fast one sends in the time of a burst.
    pub(super) fn unsent(&self) -> usize {
        match self.records(Self::MOST_UNSENT) {
            1 => Self::WAITS,
            records => records * LARGEST,
        }
    }

    /// Records of the largest size that take no longer than a burst, besides what waits anyway: a power of two, so that it seldom changes.
    fn records(&self, most: usize) -> usize {
        let bytes = u128::from(self.rate.unwrap_or(0)) * Self::BURST.as_micros() / 1_000_000;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        1 << (bytes.saturating_sub(Self::WAITS) / LARGEST).clamp(1, most).ilog2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained_at(rate: u64) -> DrainRate {
        let mut drain_rate = DrainRate::default();
        for milli in 0..1000 {
            drain_rate.sent(Instant::from_millis(milli), (rate / 1000) as usize, true);
        }
        drain_rate
    }

    fn at(rate: u64) -> u8 {
        drained_at(rate).largest_record()
    }

    #[test]
    fn only_a_fast_transport_is_given_several_records_at_once() {
        let records = |rate| drained_at(rate).burst() / (16 * QUANTUM);
        assert_eq!(DrainRate::default().burst(), 16 * QUANTUM);
        assert_eq!(records(100_000_000 / 8), 1);
        assert_eq!(records(1_000_000_000 / 8), 1);
        assert_eq!(records(2_000_000_000 / 8), 2);
        assert_eq!(records(4_000_000_000 / 8), 4);
        assert_eq!(records(100_000_000_000 / 8), 4);
        assert_eq!(drained_at(1_000_000_000 / 8).unsent(), 16 * 1024);
        assert_eq!(drained_at(100_000_000_000 / 8).unsent(), 256 * QUANTUM);
    }

    #[test]
    fn a_record_takes_about_half_a_millisecond() {
        assert_eq!(DrainRate::default().largest_record(), 8);
        assert_eq!(at(10_000_000 / 8), 4);
        assert_eq!(at(100_000_000 / 8), 4);
        assert_eq!(at(200_000_000 / 8), 8);
        assert_eq!(at(1_000_000_000 / 8), 16);
    }

    #[test]
    fn an_idle_transport_is_not_taken_for_a_slow_one() {
        let mut drain_rate = DrainRate::default();
        for second in 0..10 {
            for milli in 0..30 {
                drain_rate.sent(Instant::from_millis(second * 1000 + milli), 125_000, milli < 29);
            }
        }
        assert_eq!(drain_rate.largest_record(), 16);
    }
}
