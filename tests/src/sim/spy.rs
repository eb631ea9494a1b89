//! A provider of cryptography that remembers what it seals, so that the wire can be checked against the specification: the records
//! are the real ones.

use std::cell::RefCell;

use peermux_core::crypto::{AeadKey, AuthError, Encapsulated, KemSecret, Provider, SealError, Suite, TAG_LEN, default_provider};
use peermux_core::wire::{HANDSHAKE_FRAMES, QUANTUM};

/// What was sealed and carries frames.
#[derive(Clone, Debug)]
pub enum Sealed {
    /// The plaintext of a record.
    Record(Vec<u8>),
    /// The frames of flight 3 in fallback.
    ThirdFlight(Vec<u8>),
}

/// The provider.
#[derive(Debug)]
pub struct Spy;

/// The one instance.
pub static SPY: Spy = Spy;

/// The sealed length of P3.
const P3_LEN: usize = 1360;

thread_local! {
    static SEALED: RefCell<Vec<Sealed>> = const { RefCell::new(Vec::new()) };
}

/// What was sealed on this thread since the last call.
pub fn take() -> Vec<Sealed> {
    SEALED.take()
}

struct SpyKey(Box<dyn AeadKey>);

impl AeadKey for SpyKey {
    fn seal(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), SealError> {
        let plain = &buf[..buf.len().saturating_sub(TAG_LEN)];
        // Records have no associated data, and the handshake's messages have.
        if aad.is_empty() && buf.len() % QUANTUM == 0 {
            SEALED.with_borrow_mut(|sealed| sealed.push(Sealed::Record(plain.to_vec())));
        } else if !aad.is_empty() && buf.len() == P3_LEN {
            // header 1 ‖ tlv_len 2 ‖ TLVs ‖ frames ‖ zeros
            let tlvs = usize::from(u16::from_be_bytes([plain[1], plain[2]]));
            let frames = plain[3 + tlvs..][..HANDSHAKE_FRAMES].to_vec();
            SEALED.with_borrow_mut(|sealed| sealed.push(Sealed::ThirdFlight(frames)));
        }
        self.0.seal(nonce, aad, buf)
    }

    fn open(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), AuthError> {
        self.0.open(nonce, aad, buf)
    }
}

impl Provider for Spy {
    fn supports(&self, suite: Suite) -> bool {
        default_provider().supports(suite)
    }

    fn prefers_aes(&self) -> bool {
        default_provider().prefers_aes()
    }

    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        Some(Box::new(SpyKey(default_provider().aead(suite, key)?)))
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        default_provider().kem_generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        default_provider().kem_check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        default_provider().kem_encapsulate(encapsulation_key, randomness)
    }
}
