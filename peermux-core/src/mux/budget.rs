//! Budgets for what a peer may repeat for free: `docs/spec.md` section 18.2.

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
        let micros = now.saturating_since(self.fallen_at).as_micros();
        let fallen = u64::try_from(micros * u128::from(self.falls_each_second) / 1_000_000).unwrap_or(u64::MAX);
        if fallen >= self.level {
            self.level = 0;
            self.fallen_at = now;
        } else if fallen > 0 {
            self.level -= fallen;
            // The moment moves by what the whole units took, so nothing is rounded away.
            let took = u128::from(fallen) * 1_000_000 / u128::from(self.falls_each_second);
            self.fallen_at = self.fallen_at + core::time::Duration::from_micros(took as u64);
        }
        self.level += cost;
        self.level <= self.capacity
    }

    const fn fall(&mut self, by: u64) {
        self.level = self.level.saturating_sub(by);
    }
}

/// The two budgets of a connection.
#[derive(Debug)]
pub(crate) struct Budget {
    control: Bucket,
    cancel: Bucket,
    /// Payload bytes that have not yet made the control level fall.
    payload: u64,
}

impl Budget {
    const CONTROL: u64 = 20_000;
    const CONTROL_EACH_SECOND: u64 = 1_000;
    const CANCEL: u64 = 10_000;
    const CANCEL_EACH_SECOND: u64 = 500;
    /// Payload bytes that make the control level fall by one.
    const PAYLOAD: u64 = 512;

    pub(crate) const EMPTY_RECORD: u64 = 4;
    pub(crate) const KEY_UPDATE: u64 = 16;

    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            control: Bucket::new(Self::CONTROL, Self::CONTROL_EACH_SECOND, now),
            cancel: Bucket::new(Self::CANCEL, Self::CANCEL_EACH_SECOND, now),
            payload: 0,
        }
    }

    /// The peer did something that it could repeat for free.
    pub(crate) fn control(&mut self, now: Instant, cost: u64) -> Result<(), Violation> {
        if self.control.rise(now, cost) {
            Ok(())
        } else {
            Err(Violation::new(ProtocolCode::EXCESSIVE_LOAD, "too many control frames"))
        }
    }

    /// The peer cancelled a half of a stream.
    pub(crate) fn cancel(&mut self, now: Instant) -> Result<(), Violation> {
        if self.cancel.rise(now, 1) {
            Ok(())
        } else {
            Err(Violation::new(ProtocolCode::EXCESSIVE_LOAD, "too many cancelled streams"))
        }
    }

    /// Payload went in either direction.
    pub(crate) const fn payload(&mut self, bytes: usize) {
        self.payload += bytes as u64;
        self.control.fall(self.payload / Self::PAYLOAD);
        self.payload %= Self::PAYLOAD;
    }

    /// A stream ended with FIN in both directions.
    pub(crate) const fn stream_finished(&mut self) {
        self.cancel.fall(2);
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
    fn cancelling_as_many_as_finish_is_never_too_much() {
        let mut budget = Budget::new(Instant::ZERO);
        for _ in 0..100_000 {
            budget.cancel(Instant::ZERO).expect("RESET");
            budget.cancel(Instant::ZERO).expect("STOP");
            budget.stream_finished();
        }
        assert!((0..20_000).any(|_| budget.cancel(Instant::ZERO).is_err()));
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
