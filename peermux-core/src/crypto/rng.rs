//! The internal generator of random numbers.

use core::convert::Infallible;
use core::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use rand_core::{Rng as _, TryCryptoRng, TryRng};
use zeroize::{Zeroize as _, Zeroizing};

/// How many bytes one key yields. With the next key they make four blocks of ChaCha20, which are computed side by side.
const OUTPUT: usize = 256 - 32;

/// A generator of random numbers, seeded once, and deterministic from there on: the same seed and the same calls give the
/// same bytes.
///
/// Whoever takes hold of its state learns nothing of what it gave out before (fast key erasure): each key yields the next
/// key and 224 bytes, and is erased, and so is each byte that was given out. The bytes are the keystream of ChaCha20
/// (RFC 8439) with a zero nonce, from block 0. It is never printed and cannot be cloned.
pub struct Rng {
    key: [u8; 32],
    output: [u8; OUTPUT],
    /// How much of `output` was given out.
    used: usize,
}

impl Rng {
    /// A generator that begins with `seed`, which must be uniform wherever secrets are made of what it gives out.
    pub const fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: *seed, output: [0; OUTPUT], used: OUTPUT }
    }

    /// A generator whose seed is drawn from `rng`.
    ///
    /// # Errors
    /// That of `rng`.
    pub fn from_rng<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<Self, R::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut seed[..])?;
        Ok(Self::from_seed(&seed))
    }

    /// A number from `low` to `high - 1`, each as likely as the others; `low` if there is none.
    pub fn uniform(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low);
        if span == 0 {
            return low;
        }
        // Numbers from the last, incomplete multiple of the span would favour small results.
        let limit = u64::MAX - u64::MAX % span;
        loop {
            let number = self.next_u64();
            if number < limit {
                return low + number % span;
            }
        }
    }

    fn refill(&mut self) {
        let mut block = Zeroizing::new([0; 32 + OUTPUT]);
        ChaCha20::new(&self.key.into(), &[0; 12].into()).apply_keystream(&mut block[..]);
        let (key, output) = block.split_at(32);
        self.key.copy_from_slice(key);
        self.output.copy_from_slice(output);
        self.used = 0;
    }
}

impl TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, mut dst: &mut [u8]) -> Result<(), Infallible> {
        while !dst.is_empty() {
            if self.used == OUTPUT {
                self.refill();
            }
            let ready = &mut self.output[self.used..];
            let taken = ready.len().min(dst.len());
            let (now, later) = dst.split_at_mut(taken);
            now.copy_from_slice(&ready[..taken]);
            ready[..taken].zeroize();
            self.used += taken;
            dst = later;
        }
        Ok(())
    }
}

impl TryCryptoRng for Rng {}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng").finish_non_exhaustive()
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.key.zeroize();
        self.output.zeroize();
    }
}
