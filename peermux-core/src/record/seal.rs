//! The sending end of a direction.

use zeroize::Zeroizing;

use super::{DirectionKey, Header, KEY_AGE, KEY_RECORDS, SharedKey, TAG};
use crate::crypto::{Provider, Suite};
use crate::time::Instant;
use crate::wire::QUANTUM;

/// Seals the records of one direction.
pub(crate) struct Sealer {
    key: DirectionKey,
    key_since: Instant,
    /// The size that the next record must have, in quanta.
    announced: u8,
    ended: bool,
}

/// A record that has its place in the direction, and is to be sealed before it is sent.
#[must_use]
pub(crate) struct Unsealed {
    key: SharedKey,
    n: u64,
}

impl core::fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Unsealed").field("n", &self.n).finish_non_exhaustive()
    }
}

impl Unsealed {
    /// Seals the record in place; `None` if the provider fails.
    pub(crate) fn seal(self, record: &mut [u8]) -> Option<()> {
        self.key.seal(self.n, &[], record).ok()
    }
}

impl Sealer {
    /// A direction whose first record has `announced` quanta and the counter `n`, which is 0 but in tests.
    pub(crate) fn new(
        provider: &'static dyn Provider,
        suite: Suite,
        secret: Zeroizing<[u8; 32]>,
        announced: u8,
        n: u64,
        now: Instant,
    ) -> Option<Self> {
        let key = DirectionKey::new(provider, suite, secret, n)?;
        Some(Self { key, key_since: now, announced, ended: false })
    }

    /// The length that the next record must have, in bytes.
    pub(crate) const fn next_len(&self) -> usize {
        self.announced as usize * QUANTUM
    }

    /// Goes on from another counter.
    #[cfg(test)]
    pub(crate) const fn start_at(&mut self, n: u64) {
        self.key.n = n;
    }

    /// The counter of the next record: how many were sealed.
    pub(crate) const fn count(&self) -> u64 {
        self.key.n
    }

    /// Gives `record` its place in the direction: frames and zeros stand in it, but for the first byte and the last 16. `next` is the size of the record
    /// after it; there is none if this one is the `end`.
    ///
    /// Updates the key where it must. Returns `None` if the length is not the one announced, after the end,
    /// when the counter is used up, or if the provider fails.
    pub(crate) fn prepare(&mut self, record: &mut [u8], next: u8, end: bool, now: Instant) -> Option<Unsealed> {
        if record.len() != self.next_len() || self.ended {
            return None;
        }
        let last_under_key = self.key.used + 1 == KEY_RECORDS || now.saturating_since(self.key_since) >= KEY_AGE;
        let header = Header { next: if end { 1 } else { next }, key_update: last_under_key && !end, end };
        let n = self.key.next_nonce()?;
        let (first, rest) = record.split_first_mut()?;
        debug_assert!(rest.len() > TAG);
        *first = header.byte();
        let unsealed = Unsealed { key: self.key.key.clone(), n };
        self.announced = header.next;
        self.ended = end;
        if header.key_update {
            self.key.update()?;
            self.key_since = now;
        }
        Some(unsealed)
    }

    /// Seals `record` in place: [`Sealer::prepare`] and [`Unsealed::seal`].
    #[cfg(test)]
    pub(crate) fn seal(&mut self, record: &mut [u8], next: u8, end: bool, now: Instant) -> Option<()> {
        self.prepare(record, next, end, now)?.seal(record)
    }
}
