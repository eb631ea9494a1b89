//! The ciphers that are measured.

use peermux_core::crypto::{AeadKey, AuthError, Encapsulated, KemSecret, Provider, Ring, RustCrypto, SealError, Suite};

/// A cipher, and whose implementation of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// ChaCha20-Poly1305 of RustCrypto.
    RustChaCha,
    /// ChaCha20-Poly1305 of ring.
    RingChaCha,
    /// AES-256-GCM of ring. Without hardware for AES the connections agree upon ChaCha20-Poly1305.
    RingAes,
    /// AES-256-GCM of AWS-LC.
    #[cfg(feature = "aws-lc-rs")]
    AwsAes,
    /// None: what is measured is the core alone. It is of no other use.
    Plain,
}

impl Cipher {
    /// Those that encrypt.
    pub const REAL: &[Self] = &[
        Self::RustChaCha,
        Self::RingChaCha,
        Self::RingAes,
        #[cfg(feature = "aws-lc-rs")]
        Self::AwsAes,
    ];

    /// Its name in the tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RustChaCha => "rust-chacha",
            Self::RingChaCha => "ring-chacha",
            Self::RingAes => "ring-aes",
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsAes => "aws-aes",
            Self::Plain => "plain",
        }
    }

    /// A provider with which two connections agree upon this cipher.
    pub const fn provider(self) -> &'static dyn Provider {
        match self {
            Self::RustChaCha => &RustCrypto,
            Self::RingChaCha => &RingChaCha,
            Self::RingAes => &Ring,
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsAes => &peermux_core::crypto::AwsLc,
            Self::Plain => &Plain,
        }
    }

    /// A key of the AEAD by itself.
    pub fn key(self) -> Box<dyn AeadKey> {
        let provider = self.provider();
        let aes = provider.supports(Suite::Aes256Gcm);
        let suite = if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
        provider.aead(suite, &[7; 32]).expect("the provider supports it")
    }
}

/// ring without AES.
#[derive(Debug)]
struct RingChaCha;

impl Provider for RingChaCha {
    fn supports(&self, suite: Suite) -> bool {
        suite == Suite::ChaCha20Poly1305
    }

    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        Ring.aead(suite, key)
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        Ring.kem_generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        Ring.kem_check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        Ring.kem_encapsulate(encapsulation_key, randomness)
    }
}

/// A provider whose AEAD does nothing, so that what is measured is the core.
#[derive(Debug)]
pub struct Plain;

impl AeadKey for Plain {
    fn seal(&self, _: u64, _: &[u8], _: &mut [u8]) -> Result<(), SealError> {
        Ok(())
    }

    fn open(&self, _: u64, _: &[u8], _: &mut [u8]) -> Result<(), AuthError> {
        Ok(())
    }
}

impl Provider for Plain {
    fn supports(&self, suite: Suite) -> bool {
        suite == Suite::ChaCha20Poly1305
    }

    fn aead(&self, _: Suite, _: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        Some(Box::new(Self))
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        RustCrypto.kem_generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        RustCrypto.kem_check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        RustCrypto.kem_encapsulate(encapsulation_key, randomness)
    }
}
