//! A strike register: which first flights were seen, so that none delivers its early data twice (`docs/spec.md` section 6).

use alloc::collections::BTreeSet;
use core::fmt;

use crate::crypto::PublicKey;

/// How far the initiator's clock may differ from the responder's, in milliseconds.
pub(crate) const WINDOW_MS: u64 = 60_000;

/// Remembers the ephemeral keys of first flights whose early data was accepted, for as long as they could be accepted again.
///
/// One register serves all connections of a responder's static key, in one process: keep it behind a lock. It is bounded, and refuses when it is full. A register that was just made
/// refuses for 120 s, since it does not know what was seen before. For a register that several processes share, answer
/// [`Event::EarlyData`](crate::Event::EarlyData) by other means.
pub struct StrikeRegister {
    capacity: usize,
    /// When it was made, and the latest time that it was told: a clock that is set back makes nothing acceptable again.
    started: u64,
    latest: u64,
    seen: BTreeSet<[u8; 32]>,
    /// The same keys by the time at which they are forgotten.
    expiries: BTreeSet<(u64, [u8; 32])>,
    /// The latest timestamp of a flight that there was no room for: none up to it is acceptable.
    floor: Option<u64>,
}

/// Why early data was refused. Nothing is lost by it: the initiator sends the data again in flight 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The first flight was seen before: a replay.
    Seen,
    /// Its timestamp differs from this side's clock by more than 60 s.
    Clock,
    /// The register was made less than 120 s ago.
    Young,
    /// The register holds as many keys as it may, or was full when a flight came that was made later than this one.
    Full,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seen => "the first flight was seen before",
            Self::Clock => "its timestamp differs from this side's clock by more than 60 s",
            Self::Young => "the strike register was made less than 120 s ago",
            Self::Full => "the strike register is full",
        })
    }
}

impl core::error::Error for Refusal {}

impl StrikeRegister {
    /// A register for at most `capacity` first flights within 120 s, made at `now`, in milliseconds since 1970. Each takes some 150 bytes.
    pub const fn new(capacity: usize, now: u64) -> Self {
        Self { capacity, started: now, latest: now, seen: BTreeSet::new(), expiries: BTreeSet::new(), floor: None }
    }

    /// The register of a static key that was made at `now` or later: no first flight can have been made for it before, so it need not wait. It must not serve an older key as well,
    /// such as the previous one of a rotation.
    pub const fn for_new_key(capacity: usize, now: u64) -> Self {
        let mut register = Self::new(capacity, now);
        register.started = 0;
        register
    }

    /// Whether a first flight with this `timestamp` and `ephemeral` key may deliver its early data, at `now`; times are in milliseconds since 1970. It is entered in the same step, whether it may or not.
    ///
    /// Ask for every first flight that offers early data: one that was refused must not be accepted from a replay.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn strike(&mut self, ephemeral: &PublicKey, timestamp: u64, now: u64) -> Result<(), Refusal> {
        self.latest = self.latest.max(now);
        while self.expiries.first().is_some_and(|(expiry, _)| *expiry < self.latest) {
            if let Some((_, key)) = self.expiries.pop_first() {
                self.seen.remove(&key);
            }
        }
        if timestamp.saturating_add(WINDOW_MS) < self.latest {
            return Err(Refusal::Clock);
        }
        // It is remembered even if it is refused now: what was refused comes again in flight 3, and must not be accepted from a replay later.
        let seen = self.seen.contains(ephemeral.as_bytes());
        let below_floor = self.floor.is_some_and(|floor| timestamp <= floor);
        let full = self.seen.len() >= self.capacity;
        if !seen && full {
            self.floor = self.floor.max(Some(timestamp));
        } else if !seen {
            self.seen.insert(*ephemeral.as_bytes());
            self.expiries.insert((timestamp.saturating_add(WINDOW_MS), *ephemeral.as_bytes()));
        }
        if timestamp > self.latest.saturating_add(WINDOW_MS) {
            Err(Refusal::Clock)
        } else if self.latest < self.started.saturating_add(2 * WINDOW_MS) {
            Err(Refusal::Young)
        } else if seen {
            Err(Refusal::Seen)
        } else if full || below_floor {
            Err(Refusal::Full)
        } else {
            Ok(())
        }
    }

    /// First flights that it remembers.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

impl fmt::Debug for StrikeRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StrikeRegister({} of {})", self.seen.len(), self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    const START: u64 = 1_000_000;
    const READY: u64 = START + 120_000;

    #[test]
    fn each_flight_strikes_once_as_long_as_its_timestamp_is_acceptable() {
        let mut register = StrikeRegister::new(10, START);
        assert_eq!(register.strike(&key(1), READY + 60_000, READY), Ok(()));
        for later in [0, 1, 59_999, 119_999, 120_000] {
            assert_eq!(register.strike(&key(1), READY + 60_000, READY + later), Err(Refusal::Seen));
        }
        // It is forgotten only when its timestamp is not acceptable any more.
        assert_eq!(register.strike(&key(1), READY + 60_000, READY + 120_001), Err(Refusal::Clock));
        assert!(register.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_acceptable_again() {
        let mut register = StrikeRegister::new(10, START);
        assert_eq!(register.strike(&key(1), READY, READY), Ok(()));
        assert_eq!(register.strike(&key(2), READY + 200_000, READY + 200_000), Ok(()));
        assert_eq!(register.strike(&key(1), READY, READY), Err(Refusal::Clock));
    }

    #[test]
    fn the_register_of_a_new_key_accepts_at_once() {
        let mut register = StrikeRegister::for_new_key(10, START);
        assert_eq!(register.strike(&key(1), START, START), Ok(()));
        assert_eq!(register.strike(&key(1), START, START), Err(Refusal::Seen));
    }

    #[test]
    fn young_and_full_registers_refuse() {
        let mut register = StrikeRegister::new(2, START);
        assert_eq!(register.strike(&key(1), READY - 1, READY - 1), Err(Refusal::Young));
        assert_eq!(register.strike(&key(2), READY, READY), Ok(()));
        assert_eq!(register.strike(&key(3), READY, READY), Err(Refusal::Full));
        assert_eq!(register.strike(&key(4), READY + 120_001, READY + 120_001), Ok(()));
    }

    #[test]
    fn a_flight_that_was_refused_is_never_accepted_later() {
        // By a young register.
        let mut register = StrikeRegister::new(10, START);
        assert_eq!(register.strike(&key(1), READY + 50_000, READY - 1), Err(Refusal::Young));
        assert_eq!(register.strike(&key(1), READY + 50_000, READY + 50_000), Err(Refusal::Seen));
        // By a clock that is ahead.
        let mut register = StrikeRegister::new(10, START);
        assert_eq!(register.strike(&key(2), READY + 100_000, READY), Err(Refusal::Clock));
        assert_eq!(register.strike(&key(2), READY + 100_000, READY + 100_000), Err(Refusal::Seen));
        // By a full register, of which nothing of it is left but its time.
        let mut register = StrikeRegister::new(1, START);
        assert_eq!(register.strike(&key(3), READY, READY), Ok(()));
        assert_eq!(register.strike(&key(4), READY + 40_000, READY), Err(Refusal::Full));
        assert_eq!(register.strike(&key(4), READY + 40_000, READY + 60_001), Err(Refusal::Full));
        assert_eq!(register.strike(&key(5), READY + 90_000, READY + 101_000), Ok(()));
    }
}
