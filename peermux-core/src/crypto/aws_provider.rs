//! The provider whose AEADs and X25519 are those of AWS-LC.

use alloc::boxed::Box;
use alloc::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use zeroize::Zeroizing;

use super::provider::{TAG_LEN, hardware_aes};
use super::{AeadKey, AuthError, Encapsulated, KemSecret, Provider, SealError, Suite, X25519Key, fast_kem, kem, keys};

/// ChaCha20-Poly1305, AES-256-GCM and X25519 from AWS-LC, in assembly, and ML-KEM-768 from libcrux.
///
/// AWS-LC has ML-KEM-768 too, but aws-lc-rs lets nobody choose its randomness, and then no run could be repeated.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

impl Provider for AwsLc {
    fn supports(&self, suite: Suite) -> bool {
        match suite {
            Suite::ChaCha20Poly1305 | Suite::Aes256Gcm => true,
        }
    }

    fn prefers_aes(&self) -> bool {
        hardware_aes()
    }

    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        let algorithm = match suite {
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Suite::Aes256Gcm => &AES_256_GCM,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Box::new(AwsKey { suite, key }))
    }

    fn x25519(&self, secret: &[u8; 32]) -> Arc<dyn X25519Key> {
        // It fails only where there is no memory; the portable one needs less.
        match AwsX25519::new(secret) {
            Some(key) => Arc::new(key),
            None => keys::portable(secret),
        }
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        fast_kem::generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        kem::check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        fast_kem::encapsulate(encapsulation_key, randomness)
    }
}

/// AWS-LC erases all memory that it gives back, so the key too.
struct AwsKey {
    suite: Suite,
    key: LessSafeKey,
}

impl AwsKey {
    fn nonce(&self, n: u64) -> Nonce {
        Nonce::assume_unique_for_key(self.suite.nonce(n))
    }
}

impl AeadKey for AwsKey {
    fn seal(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), SealError> {
        let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(SealError)?;
        let sealed = self.key.seal_in_place_separate_tag(self.nonce(nonce), Aad::from(aad), text);
        tag.copy_from_slice(sealed.map_err(|_| SealError)?.as_ref());
        Ok(())
    }

    fn open(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), AuthError> {
        let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(AuthError)?;
        let (nonce, aad) = (self.nonce(nonce), Aad::from(aad));
        self.key.open_in_place_separate_tag(nonce, aad, tag, text).map(|_| ()).map_err(|_| AuthError)
    }
}

/// An X25519 secret in AWS-LC's memory, and its public key, which AWS-LC computes either way.
struct AwsX25519 {
    secret: PrivateKey,
    public: [u8; 32],
}

impl AwsX25519 {
    /// `None` if there is no memory.
    fn new(secret: &[u8; 32]) -> Option<Self> {
        let secret = PrivateKey::from_private_key(&X25519, secret).ok()?;
        let public = secret.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { secret, public })
    }
}

impl X25519Key for AwsX25519 {
    fn public_key(&self) -> [u8; 32] {
        self.public
    }

    fn diffie_hellman(&self, public: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let mut shared = Zeroizing::new([0; 32]);
        // AWS-LC refuses a result that is all zeros, so they stay.
        let _ = agree(&self.secret, UnparsedPublicKey::new(&X25519, public), (), |agreed| {
            if agreed.len() == shared.len() {
                shared.copy_from_slice(agreed);
            }
            Ok(())
        });
        shared
    }
}
