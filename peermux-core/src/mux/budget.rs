//! Budgets for what a peer may repeat for free: [spec](crate::spec) section 18.2.

use core::time::Duration;

use crate::code::ProtocolCode;
use crate::error::Violation;
use crate::time::Instant;

/// A level that rises with what the peer does, falls with time and with useful work, and must not exceed its capacity.
#[derive(Debug)]
struct Bucket {
    level: u64,
    capacity: u64,
    falls_each_second: u64,
    fallen_at: Instant,
}

impl Bucket {
    const fn new(capacity: u64, falls_each_second: u64, now: Instant) -> Self {
        Self { level: 0, capacity, falls_each_second, fallen_at: now }
    }

    /// Whether the level stays within its capacity after rising by `cost`.
    fn rise(&mut self, now: Instant, cost: u64) -> bool {
        self.fall_with_time(now);
        self.level += cost;
        self.level <= self.capacity
    }

    fn has_room(&mut self, now: Instant) -> bool {
        self.fall_with_time(now);
        self.level < self.capacity
    }

    fn fall_with_time(&mut self, now: Instant) {
        let micros = now.saturating_since(self.fallen_at).as_micros();
        let fallen = u64::try_from(micros * u128::from(self.falls_each_second) / 1_000_000).unwrap_or(u64::MAX);
        if fallen >= self.level {
            self.level = 0;
            self.fallen_at = now;
        } else if fallen > 0 {
            self.level -= fallen;
            // The moment moves by what the whole units took, so nothing is rounded away.
            let took = u128::from(fallen) * 1_000_000 / u128::from(self.falls_each_second);
            self.fallen_at = self.fallen_at + Duration::from_micros(took as u64);
        }
    }

    const fn fall(&mut self, by: u64) {
        self.level = self.level.saturating_sub(by);
    }
}

/// A count of control frames, which useful work makes fall.
#[derive(Debug)]
struct Control {
    bucket: Bucket,
    /// Payload bytes that have not yet made the level fall.
    payload: u64,
}

impl Control {
    /// Payload went in either direction.
    const fn payload(&mut self, bytes: usize) {
        self.payload += bytes as u64;
        self.bucket.fall(self.payload / Budget::PAYLOAD);
        self.payload %= Budget::PAYLOAD;
    }

    /// A stream is over. Its place comes back by MAX_STREAMS.
    const fn stream_over(&mut self) {
        self.bucket.fall(1);
    }
}

/// What a peer may repeat, how fast places of streams that it cancels come back, and what this side sends by itself.
#[derive(Debug)]
pub(crate) struct Budget {
    control: Control,
    /// This side's own count of the control frames that it sends, as its peer counts them but with half of the capacity, which falls half as fast with time. While it is full, frames
    /// that can wait do, so that an application which causes many of them never exceeds the peer's budget, however they bunch on the way.
    restraint: Control,
    /// Frames for streams that have ended, and that nothing was done about.
    ignored: u64,
    cancelled: Bucket,
}

impl Budget {
    const CONTROL: u64 = 20_000;
    const CONTROL_EACH_SECOND: u64 = 1_000;
    /// Payload bytes that make the control level fall by one.
    const PAYLOAD: u64 = 512;
    /// Ignored frames that each stream which was ever opened pays for: RESET, STOP and FIN cross the end of a stream once each.
    const IGNORED: u64 = 4;
    /// Cancelled streams whose places come back at once.
    const CANCELLED: u64 = 1_000;
    const CANCELLED_EACH_SECOND: u64 = 1_000;

    pub(crate) const EMPTY_RECORD: u64 = 4;
    pub(crate) const KEY_UPDATE: u64 = 16;
    /// After this time more places of cancelled streams may have come back.
    pub(super) const COOLS: Duration = Duration::from_millis(20);

    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            control: Control { bucket: Bucket::new(Self::CONTROL, Self::CONTROL_EACH_SECOND, now), payload: 0 },
            restraint: Control {
                bucket: Bucket::new(Self::CONTROL / 2, Self::CONTROL_EACH_SECOND / 2, now),
                payload: 0,
            },
            ignored: 0,
            cancelled: Bucket::new(Self::CANCELLED, Self::CANCELLED_EACH_SECOND, now),
        }
    }

    /// The peer did something that it could repeat for free.
    pub(crate) fn control(&mut self, now: Instant, cost: u64) -> Result<(), Violation> {
        if self.control.bucket.rise(now, cost) {
            Ok(())
        } else {
            Err(Violation::new(ProtocolCode::EXCESSIVE_LOAD, "too many control frames"))
        }
    }

    /// The peer sent a frame without payload that is ignored, since it can have crossed the end of one of the `streams` that were ever opened.
    pub(crate) fn ignored(&mut self, now: Instant, streams: u64) -> Result<(), Violation> {
        self.ignored += 1;
        if self.ignored <= streams.saturating_mul(Self::IGNORED) { Ok(()) } else { self.control(now, 1) }
    }

    /// Payload went in either direction.
    pub(crate) const fn payload(&mut self, bytes: usize) {
        self.control.payload(bytes);
        self.restraint.payload(bytes);
    }

    /// This side sent a control frame.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.restraint.bucket.rise(now, 1);
    }

    /// Whether this side may now send a frame that can wait.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        self.restraint.bucket.has_room(now)
    }

    /// A stream is over. Its place comes back by MAX_STREAMS.
    pub(super) const fn stream_over(&mut self) {
        self.control.stream_over();
        self.restraint.stream_over();
    }

    /// A stream of the peer is over that the peer did not cancel.
    pub(super) const fn stream_worked(&mut self) {
        self.cancelled.fall(1);
    }

    /// Whether the place of a stream that the peer cancelled comes back now.
    pub(super) fn gives_back(&mut self, now: Instant) -> bool {
        self.cancelled.has_room(now) && self.cancelled.rise(now, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_safe_harbour_is_safe_and_no_more() {
        let mut budget = Budget::new(Instant::ZERO);
        for milli in 0..60_000 {
            budget.control(Instant::from_millis(milli), 1).expect("1,000 each second");
        }
        let now = Instant::from_millis(60_000);
        let more = (0..30_000).take_while(|_| budget.control(now, 1).is_ok()).count();
        assert!((19_000..=20_000).contains(&more), "{more}");
    }

    #[test]
    fn what_can_cross_the_end_of_a_stream_is_free_however_many_streams_end_at_once() {
        let mut budget = Budget::new(Instant::ZERO);
        for streams in 1..=1_000_000 {
            for _ in 0..4 {
                budget.ignored(Instant::ZERO, streams).expect("no more than can cross");
            }
        }
        let more = (0..30_000).take_while(|_| budget.ignored(Instant::ZERO, 1_000_000).is_ok()).count();
        assert_eq!(more, 20_000);
    }

    #[test]
    fn places_of_cancelled_streams_come_back_a_thousand_at_once_and_a_thousand_each_second() {
        let mut budget = Budget::new(Instant::ZERO);
        let mut back = |milli| (0..5_000).take_while(|_| budget.gives_back(Instant::from_millis(milli))).count();
        assert_eq!(back(0), 1_000);
        assert_eq!(back(20), 20);
        assert_eq!(back(1_000), 980);
        assert_eq!(back(3_600_000), 1_000, "a quiet time saves up no more");
    }

    #[test]
    fn a_quiet_time_saves_up_no_more_than_the_capacity() {
        let mut budget = Budget::new(Instant::ZERO);
        for _ in 0..19_000 {
            budget.control(Instant::ZERO, 1).expect("within the capacity");
        }
        let now = Instant::from_millis(3_600_000);
        let more = (0..50_000).take_while(|_| budget.control(now, 1).is_ok()).count();
        assert_eq!(more, 20_000);
    }

    #[test]
    fn payload_pays_for_control() {
        let mut budget = Budget::new(Instant::ZERO);
        for _ in 0..100_000 {
            budget.control(Instant::ZERO, 1).expect("paid for");
            budget.payload(512);
        }
    }
}
