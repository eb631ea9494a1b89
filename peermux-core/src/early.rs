//! A strike register: which first flights were seen, so that none delivers its early data twice (`docs/spec.md` section 6).

use alloc::collections::{BTreeMap, BTreeSet};
use core::fmt;

use crate::crypto::PublicKey;

/// How far the initiator's clock may differ from the responder's, in milliseconds.
pub(crate) const WINDOW_MS: u64 = 60_000;

/// First flights whose timestamps are of the same second are forgotten together when there is no room.
const SECOND_MS: u64 = 1000;

/// Remembers first flights with early data, so that the early data of each is accepted once at most.
///
/// One register serves all connections of a responder's static key, in one process: keep it behind a lock. A register that was just made refuses for 120 s, since it does not know what
/// was seen before. For a register that several processes share, answer [`Event::EarlyData`](crate::Event::EarlyData) by other means.
///
/// A register prevents that a copy of a first flight is *accepted* again. It does not prevent that early data is *delivered* more than once: whoever stands between both sides can let a copy of a first
/// flight arrive before the first flight itself. The copy is accepted then; the original is refused, so its initiator sends the data again, with its second flight. Each copy of such a stream says
/// [`is_early`](crate::RecvStream::is_early).
///
/// The register is bounded. When it is full it forgets all flights of the second that it has seen most flights of, by their timestamps, and refuses further flights of that second, whose data
/// goes again by itself. Flights of all other seconds are accepted as before.
pub struct StrikeRegister {
    capacity: usize,
    /// When it was made, and the latest time that it was told: a clock that is set back makes nothing acceptable again.
    started: u64,
    latest: u64,
    /// What was seen of each second: some 120 of them, since other timestamps are not entered.
    seconds: BTreeMap<u64, Second>,
    /// The keys in all seconds.
    len: usize,
}

/// The ephemeral keys of the flights of one second; `None` if they were forgotten for want of room.
type Second = Option<BTreeSet<[u8; 32]>>;

/// Why early data was refused. Nothing is lost by it: the initiator sends the data again in flight 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The first flight was seen before: a replay.
    Seen,
    /// Its timestamp differs from this side's clock by more than 60 s.
    Clock,
    /// The register was made less than 120 s ago.
    Young,
    /// The register was full, and has forgotten the flights of the second that this one was made in.
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
    /// A register for at most `capacity` first flights within 120 s, made at `now`, in milliseconds since 1970. Each takes some 50 bytes.
    pub const fn new(capacity: usize, now: u64) -> Self {
        Self { capacity, started: now, latest: now, seconds: BTreeMap::new(), len: 0 }
    }

    /// The register of a static key that was made at `now` or later: no first flight can have been made for it before, so it need not wait. It must not serve an older key as well,
    /// such as the previous one of a rotation.
    pub const fn for_new_key(capacity: usize, now: u64) -> Self {
        let mut register = Self::new(capacity, now);
        register.started = 0;
        register
    }

    /// Whether a first flight with this `timestamp` and `ephemeral` key may deliver its early data, at `now`; times are in milliseconds since 1970. It is entered in the same step, whether it may or
    /// not, unless its timestamp differs from `now` by more than 60 s.
    ///
    /// Ask for every first flight that offers early data: one that was refused should not be accepted from a replay.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn strike(&mut self, ephemeral: &PublicKey, timestamp: u64, now: u64) -> Result<(), Refusal> {
        self.latest = self.latest.max(now);
        self.forget_what_has_passed();
        if timestamp.abs_diff(self.latest) > WINDOW_MS {
            return Err(Refusal::Clock);
        }
        // It is remembered even if it is refused now: what was refused comes again in flight 3, and should not be accepted from a replay later.
        let second = timestamp / SECOND_MS;
        let Some(keys) = self.seconds.entry(second).or_insert_with(|| Some(BTreeSet::new())) else {
            return Err(Refusal::Full);
        };
        if !keys.insert(*ephemeral.as_bytes()) {
            return Err(Refusal::Seen);
        }
        self.len += 1;
        if self.len > self.capacity && self.make_room() == Some(second) {
            Err(Refusal::Full)
        } else if self.latest < self.started.saturating_add(2 * WINDOW_MS) {
            Err(Refusal::Young)
        } else {
            Ok(())
        }
    }

    /// Seconds of which no timestamp is acceptable any more.
    fn forget_what_has_passed(&mut self) {
        while let Some(second) = self.seconds.first_entry() {
            let last = second.key().saturating_mul(SECOND_MS).saturating_add(SECOND_MS - 1);
            if last.saturating_add(WINDOW_MS) >= self.latest {
                return;
            }
            self.len -= second.remove().map_or(0, |keys| keys.len());
        }
    }

    /// Forgets the second with the most flights, the earliest of several, and says which one that was. No flight of it is accepted any more.
    fn make_room(&mut self) -> Option<u64> {
        let count = |keys: &Second| keys.as_ref().map_or(0, BTreeSet::len);
        let (&second, keys) = self.seconds.iter_mut().rev().max_by_key(|(_, keys)| count(keys))?;
        self.len -= count(keys);
        *keys = None;
        Some(second)
    }

    /// First flights that it remembers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for StrikeRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StrikeRegister({} of {})", self.len, self.capacity)
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
        // It is forgotten, with its second, only when its timestamp is not acceptable any more.
        assert_eq!(register.strike(&key(1), READY + 60_000, READY + 120_001), Err(Refusal::Clock));
        assert_eq!(register.strike(&key(1), READY + 60_000, READY + 121_000), Err(Refusal::Clock));
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
    fn a_young_register_refuses() {
        let mut register = StrikeRegister::new(2, START);
        assert_eq!(register.strike(&key(1), READY - 1, READY - 1), Err(Refusal::Young));
        assert_eq!(register.strike(&key(2), READY, READY), Ok(()));
    }

    #[test]
    fn a_full_register_refuses_the_second_with_the_most_flights_and_no_other() {
        let mut register = StrikeRegister::new(3, START);
        assert_eq!(register.strike(&key(1), READY - 5000, READY), Ok(()));
        assert_eq!(register.strike(&key(2), READY, READY), Ok(()));
        assert_eq!(register.strike(&key(3), READY + 999, READY), Ok(()));
        // It is full. READY is the beginning of a second, which has two flights.
        assert_eq!(register.strike(&key(4), READY + 1000, READY), Ok(()));
        assert_eq!(register.len(), 2);
        for timestamp in [READY, READY + 500, READY + 999] {
            assert_eq!(register.strike(&key(5), timestamp, READY), Err(Refusal::Full));
        }
        assert_eq!(register.strike(&key(2), READY, READY), Err(Refusal::Full), "which was accepted");
        assert_eq!(register.strike(&key(1), READY - 5000, READY), Err(Refusal::Seen));
        assert_eq!(register.strike(&key(4), READY + 1000, READY), Err(Refusal::Seen));
        // It stays so as long as their timestamps are acceptable.
        assert_eq!(register.strike(&key(2), READY, READY + 60_000), Err(Refusal::Full));
        assert_eq!(register.strike(&key(2), READY, READY + 60_001), Err(Refusal::Clock));
        // A flight in the second that has the most is refused at once.
        let mut register = StrikeRegister::new(1, START);
        assert_eq!(register.strike(&key(1), READY, READY), Ok(()));
        assert_eq!(register.strike(&key(2), READY, READY), Err(Refusal::Full));
        assert_eq!(register.strike(&key(3), READY + 1000, READY), Ok(()));
        assert_eq!(StrikeRegister::new(0, START).strike(&key(1), READY, READY), Err(Refusal::Full));
    }

    #[test]
    fn a_flight_that_was_refused_within_the_window_is_never_accepted_later() {
        // By a young register.
        let mut register = StrikeRegister::new(10, START);
        assert_eq!(register.strike(&key(1), READY + 50_000, READY - 1), Err(Refusal::Young));
        assert_eq!(register.strike(&key(1), READY + 50_000, READY + 50_000), Err(Refusal::Seen));
        // By a full register, of which nothing of it is left but its second.
        let mut register = StrikeRegister::new(1, START);
        assert_eq!(register.strike(&key(3), READY + 40_000, READY), Ok(()));
        assert_eq!(register.strike(&key(4), READY + 40_000, READY), Err(Refusal::Full));
        assert_eq!(register.strike(&key(4), READY + 40_000, READY + 99_000), Err(Refusal::Full));
    }

    /// Anyone who knows the responder's public key can make first flights with any timestamp.
    #[test]
    fn floods_do_not_turn_early_data_off_for_honest_clocks() {
        let numbered = |number: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            PublicKey::from_bytes(bytes)
        };
        let capacity = 1 << 12;
        for timestamp in [u64::MAX, READY + 60_001, READY + 60_000, READY + 2000] {
            let mut register = StrikeRegister::new(capacity, START);
            for number in 0..2 * capacity as u64 {
                let _ = register.strike(&numbered(number), timestamp, READY);
            }
            // From then on a flight each 10 ms, for three minutes.
            let mut refused = 0;
            for number in 0..18_000 {
                let now = READY + 10 * number;
                refused += u64::from(register.strike(&numbered(u64::MAX - number), now, now).is_err());
            }
            // Those of one second, at most.
            assert!(refused <= 100, "{refused} after {timestamp}");
        }
    }

    /// More honest flights than the register holds: those of the past are forgotten.
    #[test]
    fn a_register_that_is_too_small_accepts_nearly_all_flights() {
        let mut register = StrikeRegister::new(1000, START);
        let mut accepted = 0;
        for number in 0..10_000u64 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let now = READY + 10 * number;
            accepted += u64::from(register.strike(&PublicKey::from_bytes(bytes), now, now).is_ok());
            assert!(register.len() <= 1000);
        }
        assert!(accepted >= 9_900, "{accepted}");
    }
}
