//! The cryptography that peermux is made of, and nothing of its protocol.
//!
//! Here are X25519 keys, Noise's symmetric state, the hash functions, the generator of random numbers, and the traits
//! behind which AEADs, X25519 and ML-KEM-768 stand ([`Provider`]). There are three providers: [`RustCrypto`], portable and
//! always there; `Ring`, behind the feature `ring`, whose AEADs are several times as fast; and `AwsLc`, behind the feature
//! `aws-lc-rs`, whose X25519 and ML-KEM are faster too. A test can bring its own. Nothing on this floor knows of messages, records
//! or streams, and nothing here asks an operating system for anything, but for one function behind the feature `getrandom`:
//! [`StaticSecret::generate`](StaticSecret#method.generate).

#[cfg(feature = "aws-lc-rs")]
mod aws_provider;
#[cfg(feature = "aws-lc-rs")]
mod fast_kem;
mod hash;
mod kem;
#[cfg(feature = "serde")]
mod key_serde;
mod key_text;
mod keys;
mod noise;
#[cfg(feature = "getrandom")]
mod os_random;
mod provider;
#[cfg(feature = "ring")]
mod ring_provider;
mod rng;
mod rust_crypto;
mod schedule;

#[cfg(feature = "aws-lc-rs")]
pub use aws_provider::AwsLc;
pub use hash::blake2b_256;
pub use key_text::{ParseKeyError, ParseSecretError};
pub use keys::{EphemeralSecret, PublicKey, SharedSecret, StaticSecret};
pub use noise::{NoiseError, SymmetricState};
#[cfg(feature = "getrandom")]
pub use os_random::RandomnessError;
pub use provider::{
    AeadKey, AuthError, Encapsulated, KemKey, KemSecret, Provider, SealError, TAG_LEN, X25519Key, default_provider,
    providers, rekey,
};
#[cfg(feature = "ring")]
pub use ring_provider::Ring;
pub use rng::Rng;
pub use rust_crypto::RustCrypto;
pub use schedule::{export, traffic_secret};
/// What holds a secret that is returned: it is erased when it is dropped.
pub use zeroize::Zeroizing;

/// An AEAD that records can be protected with, by its byte on the wire: [spec](crate::spec) section 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439). Every implementation has it, and the handshake uses no other.
    ChaCha20Poly1305 = 1,
    /// AES-256-GCM (NIST SP 800-38D), for hardware that computes it.
    Aes256Gcm = 2,
}

impl Suite {
    /// The suite that a byte on the wire stands for, if this implementation knows it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::ChaCha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    /// The byte that stands for the suite on the wire.
    pub const fn as_byte(self) -> u8 {
        self as u8
    }

    /// Noise's nonce: four zero bytes, then the counter, whose byte order depends on the cipher.
    pub(crate) const fn nonce(self, n: u64) -> [u8; 12] {
        let [a, b, c, d, e, f, g, h] = match self {
            Self::ChaCha20Poly1305 => n.to_le_bytes(),
            Self::Aes256Gcm => n.to_be_bytes(),
        };
        [0, 0, 0, 0, a, b, c, d, e, f, g, h]
    }
}
