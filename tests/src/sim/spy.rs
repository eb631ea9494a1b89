//! A provider of cryptography that remembers what it seals, so that the wire can be checked against the specification: the records
//! are the real ones.

use std::cell::RefCell;
use std::sync::Arc;

use peermux_core::crypto::{
    AeadKey, AuthError, Encapsulated, KemSecret, Provider, SealError, Suite, TAG_LEN, X25519Key, default_provider,
};
use peermux_core::wire::{HANDSHAKE_FRAMES, QUANTUM};

/// What was sealed and carries frames.
#[derive(Clone, Debug)]
pub enum Sealed {
    /// The plaintext of a record.
    Record(Vec<u8>),
    /// The frames of flight 3 in fallback.
    ThirdFlight(Vec<u8>),
    /// Early data: the frames of P1.
    Early(Vec<u8>),
    /// Answers to early data: the frames of P2 in IK.
    Answers(Vec<u8>),
}

/// The provider.
#[derive(Debug)]
pub struct Spy;

/// The one instance.
pub static SPY: Spy = Spy;

/// The sealed lengths of the payloads that hold frames.
const P1_LEN: usize = 1552;
const P2_LEN: usize = 272;
const P3_LEN: usize = 1360;

/// The frame area of a payload: tlv_len 2 ‖ TLVs ‖ frames ‖ zeros, in P3 behind a header.
fn frame_area(payload: &[u8], header: usize, len: usize) -> Vec<u8> {
    let tlvs = usize::from(u16::from_be_bytes([payload[header], payload[header + 1]]));
    payload[header + 2 + tlvs..][..len].to_vec()
}

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
        let sealed = match buf.len() {
            len if aad.is_empty() && len % QUANTUM == 0 => Some(Sealed::Record(plain.to_vec())),
            _ if aad.is_empty() => None,
            P1_LEN => Some(Sealed::Early(frame_area(plain, 0, HANDSHAKE_FRAMES))),
            P2_LEN => Some(Sealed::Answers(frame_area(plain, 0, 48))),
            P3_LEN => Some(Sealed::ThirdFlight(frame_area(plain, 1, HANDSHAKE_FRAMES))),
            _ => None,
        };
        SEALED.with_borrow_mut(|log| log.extend(sealed));
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

    fn x25519(&self, secret: &[u8; 32]) -> Arc<dyn X25519Key> {
        default_provider().x25519(secret)
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
