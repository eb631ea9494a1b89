//! The traits behind which the implementations of AEADs, of X25519 and of ML-KEM-768 stand.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use zeroize::Zeroizing;

use super::{Suite, keys};

/// The length of an AEAD's tag, in bytes; it is the same for every suite.
pub const TAG_LEN: usize = 16;

/// A ciphertext does not authenticate, or is shorter than a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthError;

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ciphertext does not authenticate")
    }
}

impl core::error::Error for AuthError {}

/// A buffer was not sealed: it has no room for a tag, or is longer than the AEAD may seal (64 GiB at least).
///
/// It may still hold plaintext and must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealError;

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the buffer has a length that cannot be sealed")
    }
}

impl core::error::Error for SealError {}

/// One key of an AEAD.
///
/// It keeps no count: whoever holds it must use each nonce once for sealing. Implementations erase the key when they are
/// dropped.
pub trait AeadKey: Send + Sync {
    /// Seals `buf` in place: plaintext, and after it [`TAG_LEN`] bytes that the tag overwrites.
    ///
    /// # Errors
    /// [`SealError`] if `buf` is shorter than a tag or too long for the AEAD.
    fn seal(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), SealError>;

    /// Opens `buf` in place: ciphertext, and after it the tag. The plaintext is `buf[..buf.len() - TAG_LEN]`.
    ///
    /// # Errors
    /// [`AuthError`] if `buf` does not authenticate or is shorter than a tag. What it then holds is not specified, except
    /// that it is no plaintext: whoever wants to try another key needs a copy.
    fn open(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), AuthError>;
}

/// An X25519 secret (RFC 7748). Implementations erase it when they are dropped.
pub trait X25519Key: Send + Sync {
    /// The public key that belongs to it. This may take as long as an agreement.
    fn public_key(&self) -> [u8; 32];

    /// X25519 with `public`, whose highest bit is ignored: all zeros for a point of low order. Whoever calls checks that,
    /// in constant time, as [`EphemeralSecret`](super::EphemeralSecret) does.
    fn diffie_hellman(&self, public: &[u8; 32]) -> Zeroizing<[u8; 32]>;
}

/// A decapsulation key of ML-KEM-768. Implementations erase it when they are dropped.
pub trait KemKey: Send + Sync {
    /// The secret that `ciphertext` encapsulates.
    ///
    /// This never fails: a ciphertext that was not made for this key yields a secret that nobody else knows (FIPS 203,
    /// section 6.3).
    fn decapsulate(&self, ciphertext: &[u8; 1088]) -> Zeroizing<[u8; 32]>;
}

/// A decapsulation key of some provider.
pub type KemSecret = Box<dyn KemKey>;

/// A ciphertext of ML-KEM-768, and the secret that it encapsulates.
pub type Encapsulated = (Box<[u8; 1088]>, Zeroizing<[u8; 32]>);

/// An implementation of the AEADs, of ML-KEM-768, and of X25519 if it has a better one than the portable.
///
/// BLAKE2b is not part of it: there is one implementation of it.
pub trait Provider: fmt::Debug + Send + Sync {
    /// Whether there is an AEAD for the suite. [`Suite::ChaCha20Poly1305`] must be there.
    fn supports(&self, suite: Suite) -> bool;

    /// Whether AES-256-GCM should be offered and chosen before ChaCha20-Poly1305: it is supported, and the hardware
    /// computes it.
    fn prefers_aes(&self) -> bool {
        false
    }

    /// Prepares a key; `None` if the suite is not supported.
    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>>;

    /// Prepares an X25519 secret, which is clamped when it is used. Handshakes go through this; without a better
    /// implementation it is x25519-dalek's. A static secret is prepared once, for all connections.
    fn x25519(&self, secret: &[u8; 32]) -> Arc<dyn X25519Key> {
        keys::portable(secret)
    }

    /// ML-KEM.KeyGen: the key pair of `seed`, which is `d` and after it `z`.
    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret);

    /// The modulus check of FIPS 203, section 7.2. It must cost little: it is what is done first with a stranger's bytes.
    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool;

    /// ML-KEM.Encaps with `randomness` for `m`, which must be fresh and uniform: the ciphertext and the shared secret.
    ///
    /// `None` if the encapsulation key does not pass the modulus check.
    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated>;
}

/// All providers that are compiled in, the fastest first.
pub const fn providers() -> &'static [&'static dyn Provider] {
    &[
        #[cfg(feature = "aws-lc-rs")]
        &super::AwsLc,
        #[cfg(feature = "ring")]
        &super::Ring,
        &super::RustCrypto,
    ]
}

/// The fastest provider that is compiled in.
pub const fn default_provider() -> &'static dyn Provider {
    providers()[0]
}

/// Whether the processor computes AES and the multiplication of GCM. Without the standard library, what the compiler was
/// told of the target has to do.
#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
pub(super) fn hardware_aes() -> bool {
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(all(feature = "std", target_arch = "aarch64"))]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    return cfg!(any(
        all(target_feature = "aes", target_feature = "pclmulqdq"),
        all(target_feature = "aes", target_feature = "neon")
    ));
}

/// Noise's REKEY (revision 34, section 4.2): the first 32 bytes of what `old_key` makes of 32 zeros under the last nonce.
///
/// `None` if the provider does not support the suite.
pub fn rekey(provider: &dyn Provider, suite: Suite, old_key: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let mut sealed = Zeroizing::new([0; 32 + TAG_LEN]);
    provider.aead(suite, old_key)?.seal(u64::MAX, &[], &mut sealed[..]).ok()?;
    let (new_key, _tag) = sealed.split_first_chunk()?;
    Some(Zeroizing::new(*new_key))
}
