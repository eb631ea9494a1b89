//! How fast the connection drains, and so how long a record may be: `docs/spec.md` section 8.2, rule 6.

use core::time::Duration;

use crate::time::Instant;
use crate::wire::{MAX_RECORD, QUANTUM};

/// The largest record, in bytes.
const LARGEST: usize = MAX_RECORD as usize * QUANTUM;

/// Measures the rate at which the transport takes records.
///
/// While there is always one more, that is what it drains. Where the application was what was waited for, it drains at least that.
#[derive(Default)]
pub(super) struct DrainRate {
    span: Option<Span>,
    /// Bytes each second.
    rate: Option<u64>,
}

/// What is measured now.
struct Span {
    since: Instant,
    /// Bytes that were taken since.
    taken: u64,
    /// When the last record was taken; and nothing waits since then.
    last: Instant,
    idle: bool,
    /// That was so before.
    gaps: bool,
}

impl Span {
    /// The record that was taken at `now` does not count: it may have waited for the application.
    const fn begin(now: Instant, more: bool) -> Self {
        Self { since: now, taken: 0, last: now, idle: !more, gaps: false }
    }
}

impl DrainRate {
    /// A measurement takes at least so long: less would measure the buffers of the transport.
    const SPAN: Duration = Duration::from_millis(20);
    /// How long a record takes at most, as long as it has no fewer quanta than `FEWEST`.
    const RECORD: Duration = Duration::from_micros(750);
    const FEWEST: u64 = 4;
    /// Bytes each second before the first measurement.
    const ASSUMED: u64 = 100_000_000 / 8;
    /// How long what is given to the transport at once takes at most, and what of it waits there in any case.
    const BURST: Duration = Duration::from_micros(250);
    const WAITS: usize = 16 * 1024;
    /// The largest burst, and the most that waits, in records of the largest size.
    const MOST: usize = 4;
    const MOST_UNSENT: usize = 16;

    /// `bytes` were taken at `now`; `more` says whether payload waits behind them.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize, more: bool) {
        let over = |span: &Span| span.idle && now.saturating_since(span.last) >= Self::SPAN;
        if self.span.as_ref().is_none_or(over) {
            self.span = Some(Span::begin(now, more));
        }
        let Some(span) = &mut self.span else { return };
        let time = now.saturating_since(span.since);
        if time > Duration::ZERO {
            span.taken += bytes as u64;
            span.gaps |= span.idle;
        }
        (span.last, span.idle) = (now, !more);
        if time < Self::SPAN {
            return;
        }
        let measured = u64::try_from(u128::from(span.taken) * 1_000_000 / time.as_micros()).unwrap_or(u64::MAX);
        if !span.gaps || measured > self.rate.unwrap_or(Self::ASSUMED) {
            // An average of about four spans.
            self.rate = Some(self.rate.map_or(measured, |rate| rate / 4 * 3 + measured / 4));
        }
        self.span = Some(Span::begin(now, more));
    }

    /// Nothing waits.
    pub(super) const fn idle(&mut self) {
        if let Some(span) = &mut self.span {
            span.idle = true;
        }
    }

    /// The largest record that takes no longer than it should, in quanta.
    pub(super) fn largest_record(&self) -> u8 {
        let quanta = self.bytes_in(Self::RECORD) / QUANTUM;
        (quanta as u64).clamp(Self::FEWEST, u64::from(MAX_RECORD)) as u8
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
        let bytes = self.bytes_in(Self::BURST);
        1 << (bytes.saturating_sub(Self::WAITS) / LARGEST).clamp(1, most).ilog2()
    }

    /// Whether a record is gone so soon that what comes before it may wait for it: 0.25 ms at most.
    pub(super) fn is_fast(&self) -> bool {
        self.bytes_in(Self::BURST) >= LARGEST
    }

    fn bytes_in(&self, time: Duration) -> usize {
        let bytes = u128::from(self.rate.unwrap_or(Self::ASSUMED)) * time.as_micros() / 1_000_000;
        usize::try_from(bytes).unwrap_or(usize::MAX)
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
    fn a_record_takes_less_than_a_millisecond() {
        assert_eq!(DrainRate::default().largest_record(), 6);
        assert_eq!(at(1_000_000 / 8), 4);
        assert_eq!(at(10_000_000 / 8), 4);
        assert_eq!(at(100_000_000 / 8), 6);
        assert_eq!(at(200_000_000 / 8), 13);
        assert_eq!(at(1_000_000_000 / 8), 16);
    }

    #[test]
    fn only_on_a_fast_transport_a_record_waits_for_the_next_one() {
        assert!(!DrainRate::default().is_fast());
        assert!(!drained_at(100_000_000 / 8).is_fast());
        assert!(drained_at(1_000_000_000 / 8).is_fast());
    }

    #[test]
    fn a_transport_that_takes_long_for_a_record_is_slow() {
        let mut drain_rate = drained_at(1_000_000_000 / 8);
        for record in 0..100 {
            drain_rate.sent(Instant::from_millis(2000 + record * 50), 8 * QUANTUM, true);
        }
        assert_eq!(drain_rate.largest_record(), 4);
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
        for milli in 0..1000 {
            drain_rate.sent(Instant::from_millis(20_000 + milli), 1000, false);
        }
        assert_eq!(drain_rate.largest_record(), 16);
    }

    #[test]
    fn a_transport_is_fast_that_takes_much_though_nothing_waits_now_and_then() {
        let mut drain_rate = DrainRate::default();
        for milli in 0..1000 {
            drain_rate.sent(Instant::from_millis(milli), 2_000_000, milli % 2 == 0);
            drain_rate.idle();
        }
        assert_eq!(drain_rate.burst(), DrainRate::MOST * LARGEST);
    }
}
