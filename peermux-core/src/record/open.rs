//! The receiving end of a direction.

use zeroize::Zeroizing;

use super::{DirectionKey, Header, KEY_RECORDS, SharedKey};
use crate::code::ProtocolErrorCode;
use crate::crypto::{Provider, Suite};
use crate::error::Violation;
use crate::wire::QUANTUM;

/// Why a record was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// It does not authenticate.
    NotAuthentic,
    /// It authenticates, and breaks the rules.
    Violation(Violation),
}

/// Opens the records of one direction.
pub(crate) struct Opener {
    key: DirectionKey,
    /// The size of the next record, in quanta.
    expected: u8,
    /// The largest record that this side takes, in quanta.
    largest: u8,
}

/// A record that has its place in the direction, and is to be opened.
#[must_use]
pub(crate) struct Unopened {
    key: SharedKey,
    n: u64,
}

impl Unopened {
    /// Opens the record in place; whether it is authentic.
    #[must_use]
    pub(crate) fn open(self, record: &mut [u8]) -> bool {
        self.key.open(self.n, &[], record).is_ok()
    }
}

impl Opener {
    /// A direction whose first record has `expected` quanta and the counter `n`, which is 0 but in tests.
    pub(crate) fn new(
        provider: &'static dyn Provider,
        suite: Suite,
        secret: Zeroizing<[u8; 32]>,
        expected: u8,
        largest: u8,
        n: u64,
    ) -> Option<Self> {
        let key = DirectionKey::new(provider, suite, secret, n)?;
        Some(Self { key, expected, largest })
    }

    /// The length of the next record, in bytes.
    pub(crate) const fn next_len(&self) -> usize {
        self.expected as usize * QUANTUM
    }

    /// Goes on after so many records under its key.
    #[cfg(test)]
    pub(crate) const fn has_used(&mut self, records: u32) {
        self.key.used = records;
    }

    /// Goes on from another counter.
    #[cfg(test)]
    pub(crate) const fn start_at(&mut self, n: u64) {
        self.key.n = n;
    }

    /// The counter of the next record: how many were opened.
    pub(crate) const fn count(&self) -> u64 {
        self.key.n
    }

    /// Opens `record` in place. The frames are `record[1..record.len() - 16]`.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<Header, OpenError> {
        debug_assert_eq!(record.len(), self.next_len());
        let authentic = self.begin().is_some_and(|unopened| unopened.open(record));
        self.finish(record, authentic)
    }

    /// The next record takes its place; [`Opener::finish`] must follow before the one after it begins. `None` if the counter is used up.
    pub(crate) fn begin(&mut self) -> Option<Unopened> {
        let n = self.key.next_nonce()?;
        Some(Unopened { key: self.key.key.clone(), n })
    }

    /// `record` was opened, and is `authentic` or not.
    pub(crate) fn finish(&mut self, record: &[u8], authentic: bool) -> Result<Header, OpenError> {
        if !authentic {
            return Err(OpenError::NotAuthentic);
        }
        let invalid = |code, what| Err(OpenError::Violation(Violation::new(code, what)));
        if self.key.used > KEY_RECORDS {
            return invalid(ProtocolErrorCode::KEY_LIMIT, "a key was used for more than 65,536 records");
        }
        let Some(header) = record.first().copied().and_then(Header::from_byte) else {
            return invalid(ProtocolErrorCode::RECORD_INVALID, "a record's header has bits that must be zero");
        };
        if header.next > self.largest {
            return invalid(ProtocolErrorCode::RECORD_INVALID, "a record is announced that exceeds MAX_RECORD");
        }
        self.expected = header.next;
        if header.key_update {
            self.key.update().ok_or(OpenError::NotAuthentic)?;
        }
        Ok(header)
    }
}
