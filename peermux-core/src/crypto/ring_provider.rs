//! The provider whose AEADs are ring's.

use alloc::boxed::Box;

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::provider::{TAG_LEN, hardware_aes};
use super::{AeadKey, AuthError, Encapsulated, KemSecret, Provider, SealError, Suite, kem};

/// ChaCha20-Poly1305 and AES-256-GCM from ring, in assembly; ML-KEM-768 and X25519 are those of
/// [`RustCrypto`](super::RustCrypto), since ring has none of the one, and takes no secret from outside for the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring;

impl Provider for Ring {
    fn supports(&self, suite: Suite) -> bool {
        match suite {
            Suite::ChaCha20Poly1305 | Suite::Aes256Gcm => true,
        }
    }

    fn prefers_aes(&self) -> bool {
        hardware_aes()
    }

    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        Some(Box::new(RingKey { suite, key: less_safe_key(suite, key)? }))
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        kem::generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        kem::check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        kem::encapsulate(encapsulation_key, randomness)
    }
}

/// `None` cannot happen: both algorithms take keys of 32 bytes.
fn less_safe_key(suite: Suite, key: &[u8; 32]) -> Option<LessSafeKey> {
    let algorithm = match suite {
        Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        Suite::Aes256Gcm => &AES_256_GCM,
    };
    UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new)
}

struct RingKey {
    suite: Suite,
    key: LessSafeKey,
}

impl RingKey {
    fn nonce(&self, n: u64) -> Nonce {
        Nonce::assume_unique_for_key(self.suite.nonce(n))
    }
}

impl AeadKey for RingKey {
    fn seal(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), SealError> {
        let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(SealError)?;
        let sealed = self.key.seal_in_place_separate_tag(self.nonce(nonce), Aad::from(aad), text);
        tag.copy_from_slice(sealed.map_err(|_| SealError)?.as_ref());
        Ok(())
    }

    fn open(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), AuthError> {
        let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(AuthError)?;
        let (nonce, aad, tag) = (self.nonce(nonce), Aad::from(aad), Tag::from(*tag));
        self.key.open_in_place_separate_tag(nonce, aad, tag, text, 0..).map(|_| ()).map_err(|_| AuthError)
    }
}

impl Drop for RingKey {
    /// ring erases nothing, so the key is overwritten with another of the same suite.
    fn drop(&mut self) {
        if let Some(zeros) = less_safe_key(self.suite, &[0; 32]) {
            self.key = zeros;
        }
        zeroize::optimization_barrier(&self.key);
    }
}
