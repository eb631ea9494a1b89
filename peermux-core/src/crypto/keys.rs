//! X25519 keys (RFC 7748).

use alloc::sync::Arc;
use core::fmt;
#[cfg(feature = "std")]
use std::sync::OnceLock;

use rand_core::{CryptoRng, TryCryptoRng};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{Provider, X25519Key};

/// An X25519 public key: who a peer is.
///
/// It is equal and ordered by its bytes. Some byte strings stand for the same point of the curve; as names of a peer they
/// are different. As text it is 64 hexadecimal digits, lowercase when written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes. X25519 takes every string of 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// An X25519 secret that outlives a connection: what proves who a peer is.
///
/// It is erased when it is dropped, and never printed. Its copies are for connections that run at the same time. They share what a provider has prepared of
/// it, which is erased with the last of them.
#[derive(Clone)]
pub struct StaticSecret {
    secret: x25519_dalek::StaticSecret,
    /// It takes long to compute, and is needed every time.
    public: PublicKey,
    /// Preparing it takes a provider as long, if that wants the public key too. Without the standard library it is prepared for each connection.
    #[cfg(feature = "std")]
    prepared: Arc<OnceLock<Prepared>>,
}

/// A static secret in the hands of the provider that needed it first. One is enough: a process has seldom two.
#[cfg(feature = "std")]
struct Prepared {
    provider: &'static dyn Provider,
    secret: Arc<dyn X25519Key>,
}

impl StaticSecret {
    /// The secret with these bytes, which must have been chosen at random. They are clamped as RFC 7748 says when they are
    /// used.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let secret = x25519_dalek::StaticSecret::from(*bytes);
        let public = PublicKey(X25519Key::public_key(&secret));
        Self {
            secret,
            public,
            #[cfg(feature = "std")]
            prepared: Arc::default(),
        }
    }

    /// Makes a new secret from the operating system's randomness.
    ///
    /// # Errors
    /// Returns [`RandomnessError`](super::RandomnessError) if the operating system provides no randomness.
    #[cfg(feature = "getrandom")]
    pub fn generate() -> Result<Self, super::RandomnessError> {
        let mut bytes = Zeroizing::new([0; 32]);
        super::os_random::fill(&mut bytes[..])?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Makes a new secret from the randomness of `rng`.
    ///
    /// # Errors
    /// Returns the error of `rng`.
    pub fn generate_from<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<Self, R::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut bytes[..])?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Returns the secret's bytes, to be stored in a safe place.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The public key that belongs to it.
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }

    /// X25519; `None` if the result is all zeros, as it is for the points of low order. The comparison takes constant time.
    ///
    /// This is the portable implementation; handshakes use that of their provider.
    #[must_use]
    pub fn diffie_hellman(&self, public: &PublicKey) -> Option<SharedSecret> {
        agree(&self.secret, public)
    }

    /// The secret for one handshake, in the hands of `provider`.
    pub(crate) fn prepare(&self, provider: &'static dyn Provider) -> EphemeralSecret {
        EphemeralSecret { secret: self.prepared(provider), public: self.public }
    }

    #[cfg(feature = "std")]
    fn prepared(&self, provider: &'static dyn Provider) -> Arc<dyn X25519Key> {
        let prepare = || provider.x25519(self.secret.as_bytes());
        let first = self.prepared.get_or_init(|| Prepared { provider, secret: prepare() });
        // Where one type has two tables of methods, this costs time only.
        if core::ptr::eq(first.provider, provider) { first.secret.clone() } else { prepare() }
    }

    #[cfg(not(feature = "std"))]
    fn prepared(&self, provider: &'static dyn Provider) -> Arc<dyn X25519Key> {
        provider.x25519(self.secret.as_bytes())
    }
}

impl PartialEq for StaticSecret {
    /// Takes constant time.
    fn eq(&self, other: &Self) -> bool {
        self.secret.as_bytes().ct_eq(other.secret.as_bytes()).into()
    }
}

impl Eq for StaticSecret {}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticSecret").field("public", &self.public).finish_non_exhaustive()
    }
}

/// An X25519 secret in the hands of a provider, for one connection.
///
/// It is erased when it is dropped, never printed, and can be neither read nor copied.
pub struct EphemeralSecret {
    secret: Arc<dyn X25519Key>,
    public: PublicKey,
}

impl EphemeralSecret {
    /// A new secret, with which `provider` computes.
    pub fn generate<R: CryptoRng + ?Sized>(provider: &dyn Provider, rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut bytes[..]);
        let secret = provider.x25519(&bytes);
        let public = PublicKey(secret.public_key());
        Self { secret, public }
    }

    /// The public key that belongs to it.
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }

    /// X25519; `None` if the result is all zeros, as it is for the points of low order. The comparison takes constant time.
    #[must_use]
    pub fn diffie_hellman(&self, public: &PublicKey) -> Option<SharedSecret> {
        agree(&*self.secret, public)
    }
}

impl fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EphemeralSecret").field("public", &self.public).finish_non_exhaustive()
    }
}

/// X25519 by any implementation, with the check of its result.
fn agree(secret: &dyn X25519Key, public: &PublicKey) -> Option<SharedSecret> {
    let shared = secret.diffie_hellman(&public.0);
    let is_zero = shared.as_slice().ct_eq(&[0; 32]);
    (!bool::from(is_zero)).then(|| SharedSecret(shared))
}

/// x25519-dalek's implementation, for every provider that has no better one. It erases itself: the crate's feature
/// `zeroize` is on.
impl X25519Key for x25519_dalek::StaticSecret {
    fn public_key(&self) -> [u8; 32] {
        x25519_dalek::PublicKey::from(self).to_bytes()
    }

    fn diffie_hellman(&self, public: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.diffie_hellman(&x25519_dalek::PublicKey::from(*public)).to_bytes())
    }
}

pub(super) fn portable(secret: &[u8; 32]) -> Arc<dyn X25519Key> {
    Arc::new(x25519_dalek::StaticSecret::from(*secret))
}

/// What two sides have agreed on by X25519; never all zeros. It is erased when it is dropped, and never printed.
pub struct SharedSecret(Zeroizing<[u8; 32]>);

impl SharedSecret {
    /// Its bytes, which are not uniform: they are for a key derivation.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecret").finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::boxed::Box;

    use super::*;
    use crate::crypto::{AeadKey, Encapsulated, KemSecret, RustCrypto, Suite};

    /// Counts the X25519 secrets that it prepares.
    #[derive(Debug)]
    struct Counting(AtomicUsize);

    impl Provider for Counting {
        fn supports(&self, suite: Suite) -> bool {
            RustCrypto.supports(suite)
        }

        fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
            RustCrypto.aead(suite, key)
        }

        fn x25519(&self, secret: &[u8; 32]) -> Arc<dyn X25519Key> {
            self.0.fetch_add(1, Relaxed);
            portable(secret)
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

    #[test]
    fn a_static_secret_is_prepared_once_for_all_its_copies_and_never_by_another_provider() {
        static FIRST: Counting = Counting(AtomicUsize::new(0));
        static OTHER: Counting = Counting(AtomicUsize::new(0));
        let secret = StaticSecret::from_bytes(&[1; 32]);
        let peer = StaticSecret::from_bytes(&[2; 32]).public_key();
        let shared = secret.diffie_hellman(&peer).map(|shared| *shared.as_bytes());
        for times in 1..=3 {
            for provider in [&FIRST, &OTHER] {
                let prepared = secret.clone().prepare(provider);
                assert_eq!(prepared.public_key(), secret.public_key());
                assert_eq!(prepared.diffie_hellman(&peer).map(|shared| *shared.as_bytes()), shared);
            }
            assert_eq!((FIRST.0.load(Relaxed), OTHER.0.load(Relaxed)), (1, times));
        }
    }
}
