//! Records: [spec](crate::spec) section 8.
//!
//! [`Sealer`] and [`Opener`] are the two ends of one direction. Each owns the direction's key and counter, so a nonce cannot be used
//! twice: the counter moves with every record, and neither can be cloned.
//!
//! Sealing and opening are what takes long. [`Unsealed`] and [`Unopened`] do that for one record each, while the direction goes on.

mod open;
mod seal;
#[cfg(test)]
pub(crate) mod vectors;

#[cfg(feature = "driver")]
pub(crate) use open::Unopened;
pub(crate) use open::{OpenError, Opener};
pub(crate) use seal::{Sealer, Unsealed};

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::{AeadKey, Provider, Suite, rekey};
use crate::wire::{MAX_RECORD, QUANTUM};

/// Bytes of a record that hold no frames: the header and the tag.
pub(crate) const OVERHEAD: usize = 1 + TAG;
pub(crate) const TAG: usize = 16;

/// The records that one key protects at most.
pub(crate) const KEY_RECORDS: u32 = 1 << 16;

/// How long a sender uses one key, at most.
pub(crate) const KEY_AGE: Duration = Duration::from_secs(3600);

/// The first byte of a record's plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Size of the next record of this direction, in quanta: 1 to 16.
    pub(crate) next: u8,
    /// The key changes after this record.
    pub(crate) key_update: bool,
    /// This is the last record of its direction.
    pub(crate) end: bool,
}

impl Header {
    const KEY_UPDATE: u8 = 1 << 4;
    const END: u8 = 1 << 5;
    const RESERVED: u8 = 0b1100_0000;

    pub(crate) fn byte(self) -> u8 {
        (self.next.clamp(1, MAX_RECORD) - 1)
            | if self.key_update { Self::KEY_UPDATE } else { 0 }
            | if self.end { Self::END } else { 0 }
    }

    /// `None` if reserved bits are set, or if the last record announces another or updates its key.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        let header =
            Self { next: (byte & 0x0f) + 1, key_update: byte & Self::KEY_UPDATE != 0, end: byte & Self::END != 0 };
        let valid = byte & Self::RESERVED == 0 && (!header.end || byte & !Self::END == 0);
        valid.then_some(header)
    }
}

/// A key that protects a record while the direction goes on.
type SharedKey = Arc<Box<dyn AeadKey>>;

/// The key of one direction, and how much it was used.
struct DirectionKey {
    provider: &'static dyn Provider,
    suite: Suite,
    secret: Zeroizing<[u8; 32]>,
    /// Boxed besides, since moving a key would leave a copy behind.
    key: SharedKey,
    /// The counter of the next record; it goes on across key updates.
    n: u64,
    /// Records under this key so far.
    used: u32,
}

impl DirectionKey {
    /// `None` if the provider does not support the suite.
    fn new(provider: &'static dyn Provider, suite: Suite, secret: Zeroizing<[u8; 32]>, n: u64) -> Option<Self> {
        let key = Arc::new(provider.aead(suite, &secret)?);
        Some(Self { provider, suite, secret, key, n, used: 0 })
    }

    /// Moves on to the next nonce; `None` when only the one that REKEY uses is left.
    fn next_nonce(&mut self) -> Option<u64> {
        let n = self.n;
        if n == u64::MAX {
            return None;
        }
        self.n = n + 1;
        self.used += 1;
        Some(n)
    }

    fn update(&mut self) -> Option<()> {
        self.secret = rekey(self.provider, self.suite, &self.secret)?;
        self.key = Arc::new(self.provider.aead(self.suite, &self.secret)?);
        self.used = 0;
        Some(())
    }
}

/// The size in quanta of a record that holds `len` bytes of frames.
pub(crate) const fn quanta_for(len: usize) -> usize {
    (len + OVERHEAD).div_ceil(QUANTUM)
}
