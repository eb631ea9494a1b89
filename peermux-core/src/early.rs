//! A strike register: which first flights were seen, so that the early data of none is accepted twice ([spec](crate::spec) section 6).

use alloc::collections::BTreeSet;
use core::fmt;

use crate::crypto::PublicKey;

/// How far the initiator's clock may differ from the responder's, in milliseconds.
pub(crate) const WINDOW_MS: u64 = 60_000;

/// Remembers the ephemeral keys of first flights that offered early data, for as long as it could be accepted again.
///
/// One register serves all connections of a responder's static key, in one process: keep it behind a lock. Start a new one when the key changes, or what decides beside it about early
/// data. It is bounded: when it is full, those first flights have to go whose timestamps are farthest from the clock, and whatever it may have forgotten is refused. So a flood of
/// timestamps that are not of now takes no room from honest clocks. A register that was just made
/// refuses for 120 s, since it does not know what was seen before. For a register that several processes share, answer
/// [`Event::EarlyData`](crate::Event::EarlyData) by other means.
///
/// It makes sure that no first flight is *accepted* twice. That is not to say that no data is delivered twice: see [`RecvStream::is_early`](crate::RecvStream::is_early).
pub struct StrikeRegister {
    capacity: usize,
    /// When it was made, and the latest time that it was told: a clock that is set back makes nothing acceptable again.
    started: u64,
    latest: u64,
    seen: BTreeSet<[u8; 32]>,
    /// The same keys by their timestamps.
    by_time: BTreeSet<(u64, [u8; 32])>,
    /// What was dropped for want of room: no timestamp up to the floor is acceptable, and none within the band, which lies ahead of the clock.
    floor: Option<u64>,
    band: Option<(u64, u64)>,
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
    /// The register is full of flights whose timestamps are nearer to the clock, or has dropped flights with timestamps like this one.
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
        Self {
            capacity,
            started: now,
            latest: now,
            seen: BTreeSet::new(),
            by_time: BTreeSet::new(),
            floor: None,
            band: None,
        }
    }

    /// The register of a static key that was made at `now` or later: no first flight can have been made for it before, so it need not wait. It must not serve an older key as well,
    /// such as the previous one of a rotation.
    pub const fn for_new_key(capacity: usize, now: u64) -> Self {
        let mut register = Self::new(capacity, now);
        register.started = 0;
        register
    }

    /// Whether a first flight with this `timestamp` and `ephemeral` key may deliver its early data, at `now`; times are in milliseconds since 1970. It is entered in the same step.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn strike(&mut self, ephemeral: &PublicKey, timestamp: u64, now: u64) -> Result<(), Refusal> {
        self.advance(now);
        if timestamp.saturating_add(WINDOW_MS) < self.latest || timestamp > self.latest.saturating_add(WINDOW_MS) {
            return Err(Refusal::Clock);
        }
        let young = self.latest < self.started.saturating_add(2 * WINDOW_MS);
        let refusal = if self.seen.contains(ephemeral.as_bytes()) {
            Err(Refusal::Seen)
        } else if self.may_have_dropped(timestamp) || !self.make_room(timestamp) {
            Err(Refusal::Full)
        } else {
            // A young register enters what it refuses: it comes again in flight 3, and should not be accepted from a replay later.
            self.seen.insert(*ephemeral.as_bytes());
            self.by_time.insert((timestamp, *ephemeral.as_bytes()));
            Ok(())
        };
        if young { Err(Refusal::Young) } else { refusal }
    }

    /// Forgets what is not acceptable any more.
    fn advance(&mut self, now: u64) {
        self.latest = self.latest.max(now);
        while self.by_time.first().is_some_and(|(time, _)| time.saturating_add(WINDOW_MS) < self.latest) {
            if let Some((_, key)) = self.by_time.pop_first() {
                self.seen.remove(&key);
            }
        }
        // The clock has passed it: a band that grows ahead of the clock must not cover the clock.
        if let Some((_, end)) = self.band.take_if(|(_, end)| *end <= self.latest) {
            self.floor = self.floor.max(Some(end));
        }
    }

    fn may_have_dropped(&self, timestamp: u64) -> bool {
        self.floor.is_some_and(|floor| timestamp <= floor)
            || self.band.is_some_and(|(start, end)| (start..=end).contains(&timestamp))
    }

    /// Makes room for a flight of this `timestamp` by dropping one that is farther from the clock; false if there is none.
    fn make_room(&mut self, timestamp: u64) -> bool {
        if self.seen.len() < self.capacity {
            return true;
        }
        // The farthest, and of two that are equally far the later.
        let rank = |time: u64| (time.abs_diff(self.latest), time);
        let ends = [self.by_time.first(), self.by_time.last()];
        let Some(&(time, key)) = ends.into_iter().flatten().max_by_key(|(time, _)| rank(*time)) else { return false };
        if rank(time) <= rank(timestamp) {
            return false;
        }
        self.by_time.remove(&(time, key));
        self.seen.remove(&key);
        if time <= self.latest {
            self.floor = self.floor.max(Some(time));
        } else {
            let (start, end) = self.band.unwrap_or((time, time));
            self.band = Some((start.min(time), end.max(time)));
        }
        true
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
        assert_eq!(register.strike(&key(3), READY - 2, READY), Err(Refusal::Full), "the others are nearer");
        // The one that is farthest makes room, and nothing as old as it is acceptable any more.
        assert_eq!(register.strike(&key(3), READY, READY), Ok(()));
        assert_eq!(register.strike(&key(1), READY - 1, READY), Err(Refusal::Full));
        assert_eq!(register.strike(&key(4), READY + 120_001, READY + 120_001), Ok(()));
        assert_eq!(StrikeRegister::new(0, START).strike(&key(1), READY, READY), Err(Refusal::Full));
    }

    #[test]
    fn what_a_young_register_refused_is_not_accepted_later() {
        let mut register = StrikeRegister::new(10, START);
        assert_eq!(register.strike(&key(1), READY + 50_000, READY - 1), Err(Refusal::Young));
        assert_eq!(register.strike(&key(1), READY + 50_000, READY + 50_000), Err(Refusal::Seen));
    }

    #[test]
    fn timestamps_of_the_far_future_are_refused_and_take_no_room() {
        for ahead in [u64::MAX, u64::MAX - 1, READY + 60_001, READY + 1_000_000_000_000] {
            let mut register = StrikeRegister::new(10, START);
            for number in 0..20 {
                assert_eq!(register.strike(&key(number), ahead, READY), Err(Refusal::Clock));
            }
            assert!(register.is_empty());
            assert_eq!(register.strike(&key(20), READY, READY), Ok(()));
        }
    }

    #[test]
    fn a_flood_from_ahead_of_the_clock_leaves_room_for_honest_clocks() {
        let mut register = StrikeRegister::new(100, START);
        let mut number = 0u64;
        let mut fresh = || {
            number += 1;
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            PublicKey::from_bytes(bytes)
        };
        // Five minutes, in which all of the room is asked for ten times a second, as far ahead as is acceptable.
        let (mut honest, mut accepted) = (0, 0);
        for now in (READY..READY + 300_000).step_by(100) {
            for _ in 0..100 {
                let _ = register.strike(&fresh(), now + 60_000, now);
            }
            // One a second, by clocks that are up to 100 ms off.
            if now % 1000 == 0 {
                honest += 1;
                accepted += u64::from(register.strike(&fresh(), now - 50, now).is_ok());
                honest += 1;
                accepted += u64::from(register.strike(&fresh(), now + 51, now).is_ok());
            }
        }
        // Only while the clock passes the very timestamps that fill the register are those at a distance turned away.
        assert!(honest - accepted <= 6, "{accepted} of {honest}");
    }

    /// Against a naive register, which remembers for ever what it has accepted.
    #[test]
    fn no_flight_is_ever_accepted_twice() {
        let mut rng = crate::crypto::Rng::from_seed(&[7; 32]);
        for _ in 0..500 {
            let capacity = rng.uniform(1, 7) as usize;
            let mut register = StrikeRegister::new(capacity, START);
            let mut accepted = BTreeSet::new();
            let mut now = READY;
            for _ in 0..300 {
                now += rng.uniform(0, 2_000);
                let number = rng.uniform(0, 80) as u8;
                // The timestamp is part of what the key authenticates: it never changes.
                let timestamp = READY + u64::from(number) * 4_000;
                let result = register.strike(&key(number), timestamp, now);
                assert!(register.len() <= capacity);
                if timestamp.abs_diff(now) > WINDOW_MS {
                    assert_eq!(result, Err(Refusal::Clock));
                } else if result.is_ok() {
                    assert!(accepted.insert(number), "flight {number} was accepted twice");
                } else if !accepted.contains(&number) {
                    // What it has not accepted it refuses only for want of room.
                    assert_eq!(result, Err(Refusal::Full));
                }
            }
        }
    }
}
