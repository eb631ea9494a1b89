//! The portable provider.

use alloc::boxed::Box;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};

use super::provider::TAG_LEN;
use super::{AeadKey, AuthError, Encapsulated, KemSecret, Provider, SealError, Suite, kem};

/// ChaCha20-Poly1305 and ML-KEM-768 in Rust, from the RustCrypto project. It has no AES-256-GCM.
#[derive(Clone, Copy, Debug, Default)]
pub struct RustCrypto;

impl Provider for RustCrypto {
    fn supports(&self, suite: Suite) -> bool {
        match suite {
            Suite::ChaCha20Poly1305 => true,
            Suite::Aes256Gcm => false,
        }
    }

    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        match suite {
            Suite::ChaCha20Poly1305 => Some(Box::new(ChaCha(ChaCha20Poly1305::new(key.into())))),
            Suite::Aes256Gcm => None,
        }
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

/// Erases its key when it is dropped: the crate's feature `zeroize` is on.
struct ChaCha(ChaCha20Poly1305);

impl AeadKey for ChaCha {
    fn seal(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), SealError> {
        let nonce = Suite::ChaCha20Poly1305.nonce(nonce).into();
        let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(SealError)?;
        *tag = self.0.encrypt_inout_detached(&nonce, aad, text.into()).map_err(|_| SealError)?.into();
        Ok(())
    }

    fn open(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), AuthError> {
        let nonce = Suite::ChaCha20Poly1305.nonce(nonce).into();
        let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(AuthError)?;
        self.0.decrypt_inout_detached(&nonce, aad, text.into(), (&*tag).into()).map_err(|_| AuthError)
    }
}
