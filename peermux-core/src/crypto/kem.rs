//! ML-KEM-768 (FIPS 203) by the crate ml-kem, for every provider that has no better one.

use alloc::boxed::Box;

use ml_kem::KeyExport as _;
use ml_kem::kem::Decapsulate as _;
use ml_kem::ml_kem_768::{DecapsulationKey, EncapsulationKey};
use zeroize::Zeroizing;

use super::{Encapsulated, KemKey, KemSecret};

/// FIPS 203's q: coefficients are below it.
const MODULUS: u16 = 3329;

/// Where the coefficients of an encapsulation key end, and the seed of the matrix begins.
const COEFFICIENTS: usize = 1152;

struct MlKem(DecapsulationKey);

impl KemKey for MlKem {
    fn decapsulate(&self, ciphertext: &[u8; 1088]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.decapsulate(ciphertext.into()).into())
    }
}

pub(super) fn generate(seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
    let secret = DecapsulationKey::from_seed((*seed).into());
    let encapsulation_key = Box::new(secret.encapsulation_key().to_bytes().into());
    (encapsulation_key, Box::new(MlKem(secret)))
}

/// The modulus check by itself. ml-kem has it only together with hashing the key, which takes several times as long, and
/// most strangers fail it at the first coefficients.
pub(super) fn check(encapsulation_key: &[u8; 1184]) -> bool {
    let (coefficients, _matrix_seed) = encapsulation_key.split_at(COEFFICIENTS);
    coefficients.as_chunks().0.iter().all(|&[a, b, c]: &[u8; 3]| {
        // Two numbers of twelve bits, little-endian.
        let first = u16::from(a) | u16::from(b & 0x0f) << 8;
        let second = u16::from(b >> 4) | u16::from(c) << 4;
        first < MODULUS && second < MODULUS
    })
}

pub(super) fn encapsulate(encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
    // This makes the modulus check too.
    let key = EncapsulationKey::new(encapsulation_key.into()).ok()?;
    let (ciphertext, secret) = key.encapsulate_deterministic(randomness.into());
    Some((Box::new(ciphertext.into()), Zeroizing::new(secret.into())))
}
