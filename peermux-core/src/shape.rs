//! Shaping: when a record may leave, and what fills it ([spec](crate::spec) section 19).

use core::time::Duration;

use crate::time::Instant;
use crate::wire::Shaping;

/// What of two proposals holds: the stronger mode; of two constant ones the greater size and the shorter interval, with records that both sides take.
pub(crate) fn agree(ours: Shaping, theirs: Shaping, largest: u8) -> Shaping {
    match (ours, theirs) {
        (Shaping::Constant { size, interval }, Shaping::Constant { size: their_size, interval: their_interval }) => {
            Shaping::Constant { size: size.max(their_size).min(largest), interval: interval.min(their_interval) }
        }
        (Shaping::Constant { size, interval }, _) | (_, Shaping::Constant { size, interval }) => {
            Shaping::Constant { size: size.min(largest), interval }
        }
        (Shaping::Bucketed, _) | (_, Shaping::Bucketed) => Shaping::Bucketed,
        (Shaping::Quantised, Shaping::Quantised) => Shaping::Quantised,
    }
}

/// Whether a side that accepts at most `limit` accepts `agreed`.
pub(crate) fn accepts(limit: Shaping, agreed: Shaping) -> bool {
    match (limit, agreed) {
        (_, Shaping::Quantised) => true,
        (Shaping::Constant { size, interval }, Shaping::Constant { size: agreed_size, interval: agreed_interval }) => {
            agreed_size <= size && agreed_interval >= interval
        }
        (Shaping::Bucketed | Shaping::Constant { .. }, Shaping::Bucketed) => true,
        (Shaping::Quantised, _) | (Shaping::Bucketed, Shaping::Constant { .. }) => false,
    }
}

/// Decides for one direction when a record leaves without anything to say, and when one may not.
#[derive(Debug)]
pub(crate) enum Shaper {
    Quantised,
    /// The quanta of the burst that is going on.
    Bucketed {
        burst: u64,
    },
    Constant {
        size: u8,
        interval: Duration,
        next: Instant,
        /// The slot has come, and its record has not left.
        due: bool,
    },
}

impl Shaper {
    /// In force from `now` on, which is when flight 3 leaves or arrives.
    pub(crate) fn new(shaping: Shaping, now: Instant) -> Self {
        match shaping {
            Shaping::Quantised => Self::Quantised,
            Shaping::Bucketed => Self::Bucketed { burst: 0 },
            Shaping::Constant { size, interval } => {
                let interval = Duration::from_micros(u64::from(interval));
                Self::Constant { size, interval, next: now + interval, due: false }
            }
        }
    }

    /// Flight 3 of this side leaves at `now`: its slots count from there.
    pub(crate) fn flight_sent(&mut self, now: Instant) {
        if let Self::Constant { interval, next, due, .. } = self {
            (*next, *due) = (now + *interval, false);
        }
    }

    /// The longest time that a record waits for its turn.
    pub(crate) const fn interval(&self) -> Duration {
        match self {
            Self::Constant { interval, .. } => *interval,
            _ => Duration::ZERO,
        }
    }

    /// Whether records without frames are part of it.
    pub(crate) const fn pads(&self) -> bool {
        !matches!(self, Self::Quantised)
    }

    /// Whether records leave whatever there is to say.
    pub(crate) const fn is_constant(&self) -> bool {
        matches!(self, Self::Constant { .. })
    }

    /// Whether a record may leave now.
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        match self {
            Self::Quantised | Self::Bucketed { .. } => true,
            Self::Constant { next, due, .. } => *due || now >= *next,
        }
    }

    /// Quanta of padding that are due although there is nothing to say. A burst is over when there are none.
    pub(crate) fn padding(&mut self, now: Instant) -> u64 {
        match self {
            Self::Quantised => 0,
            Self::Bucketed { burst } => {
                let padding = padme(*burst) - *burst;
                if padding == 0 {
                    *burst = 0;
                }
                padding
            }
            Self::Constant { size, next, due, .. } => {
                if *due || now >= *next {
                    u64::from(*size)
                } else {
                    0
                }
            }
        }
    }

    /// The size of the next record, in quanta, where payload alone would make it `wanted`, and `largest` is possible; `after` is the size of the one that is being made.
    pub(crate) fn next_size(&self, wanted: u8, largest: u8, after: u8) -> u8 {
        match self {
            Self::Quantised => wanted,
            Self::Constant { size, .. } => *size,
            Self::Bucketed { burst } => {
                let burst = burst + u64::from(after);
                // What is left of the bucket, if no payload follows.
                let rest = padme(burst) - burst;
                u8::try_from(rest).unwrap_or(u8::MAX).min(largest).max(wanted)
            }
        }
    }

    /// A record of `quanta` left at `now`.
    pub(crate) fn sent(&mut self, quanta: u8, now: Instant) {
        match self {
            Self::Quantised => {}
            Self::Bucketed { burst } => *burst += u64::from(quanta),
            Self::Constant { interval, next, due, .. } => {
                *due = false;
                *next = *next + *interval;
                // Slots that were missed are not made up for.
                if *next <= now {
                    let late = now.saturating_since(*next).as_micros();
                    let slots = late / interval.as_micros().max(1) + 1;
                    *next =
                        *next + Duration::from_micros(u64::try_from(slots * interval.as_micros()).unwrap_or(u64::MAX));
                }
            }
        }
    }

    /// When the next slot comes; `None` while one waits for the transport.
    pub(crate) const fn timeout(&self) -> Option<Instant> {
        match self {
            Self::Constant { next, due: false, .. } => Some(*next),
            _ => None,
        }
    }

    /// The time is `now`.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if let Self::Constant { next, due, .. } = self {
            *due |= now >= *next;
        }
    }
}

/// The bucket of a burst of `quanta`: Padmé, at most 12 % more.
pub(crate) const fn padme(quanta: u64) -> u64 {
    if quanta < 2 {
        return quanta;
    }
    let exponent = quanta.ilog2();
    let significant = exponent.ilog2() + 1;
    if exponent <= significant {
        return quanta;
    }
    quanta.next_multiple_of(1 << (exponent - significant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_costs_at_most_12_percent_and_leaves_few_sizes() {
        let mut sizes = alloc::collections::BTreeSet::new();
        for quanta in 0..100_000 {
            let padded = padme(quanta);
            assert!(padded >= quanta && padded * 100 <= quanta * 112, "{quanta}: {padded}");
            assert_eq!(padme(padded), padded, "{quanta}");
            sizes.insert(padded);
        }
        assert!(sizes.len() < 200, "{}", sizes.len());
        assert_eq!([1, 7, 8, 9, 17, 33].map(padme), [1, 7, 8, 10, 18, 36]);
    }

    #[test]
    fn the_stronger_proposal_holds() {
        let constant = |size, interval| Shaping::Constant { size, interval };
        assert_eq!(agree(Shaping::Quantised, Shaping::Bucketed, 16), Shaping::Bucketed);
        assert_eq!(agree(constant(4, 9_000), Shaping::Bucketed, 16), constant(4, 9_000));
        assert_eq!(agree(constant(4, 9_000), constant(2, 5_000), 16), constant(4, 5_000));
        assert_eq!(agree(constant(4, 9_000), constant(2, 5_000), 3), constant(3, 5_000));
        assert!(accepts(Shaping::Quantised, Shaping::Quantised) && !accepts(Shaping::Quantised, Shaping::Bucketed));
        assert!(!accepts(Shaping::Bucketed, constant(1, 10_000)) && accepts(constant(1, 10_000), Shaping::Bucketed));
        assert!(accepts(constant(4, 5_000), constant(4, 5_000)) && !accepts(constant(4, 5_000), constant(4, 4_000)));
    }

    #[test]
    fn slots_that_were_missed_are_not_made_up_for() {
        let shaping = Shaping::Constant { size: 2, interval: 10_000 };
        let mut shaper = Shaper::new(shaping, Instant::ZERO);
        assert!(!shaper.may_send(Instant::from_millis(9)) && shaper.may_send(Instant::from_millis(10)));
        shaper.on_time(Instant::from_millis(10));
        assert_eq!(shaper.timeout(), None);
        shaper.sent(2, Instant::from_millis(35));
        assert_eq!(shaper.timeout(), Some(Instant::from_millis(40)));
        assert!(!shaper.may_send(Instant::from_millis(35)));
    }
}
