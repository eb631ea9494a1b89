//! ML-KEM-768 (FIPS 203) by libcrux, in vector instructions where the processor has them. It needs a newer Rust than the crate
//! ml-kem, so only the provider of AWS-LC has it.

use alloc::boxed::Box;

use libcrux_ml_kem::mlkem768::{self, MlKem768PrivateKey};
use zeroize::Zeroizing;

use super::{Encapsulated, KemKey, KemSecret, kem};

struct MlKem(MlKem768PrivateKey);

impl KemKey for MlKem {
    fn decapsulate(&self, ciphertext: &[u8; 1088]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(mlkem768::decapsulate(&self.0, &ciphertext.into()))
    }
}

impl Drop for MlKem {
    /// libcrux erases nothing, so the key is overwritten.
    fn drop(&mut self) {
        self.0 = MlKem768PrivateKey::default();
        zeroize::optimization_barrier(&self.0);
    }
}

pub(super) fn generate(seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
    let (secret, public) = mlkem768::generate_key_pair(*seed).into_parts();
    (Box::new(public.into()), Box::new(MlKem(secret)))
}

pub(super) fn encapsulate(encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
    // libcrux takes any key.
    if !kem::check(encapsulation_key) {
        return None;
    }
    let (ciphertext, secret) = mlkem768::encapsulate(&encapsulation_key.into(), *randomness);
    Some((Box::new(ciphertext.into()), Zeroizing::new(secret)))
}
