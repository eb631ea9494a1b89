//! How fast the connection drains, and so how long a record may be: `docs/spec.md` section 8.2, rule 6.

use core::time::Duration;

use crate::time::Instant;
use crate::wire::{MAX_RECORD, QUANTUM};

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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: u64) -> u8 {
        let mut drain_rate = DrainRate::default();
        for milli in 0..1000 {
            drain_rate.sent(Instant::from_millis(milli), (rate / 1000) as usize, true);
        }
        drain_rate.largest_record()
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
