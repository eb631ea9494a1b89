//! The symmetric state by itself: names, missing keys, failures that change nothing.

use peermux_core::crypto::{
    AeadKey, Encapsulated, KemSecret, NoiseError, Provider, RustCrypto, Suite, SymmetricState, default_provider,
};

/// A state with a key.
fn keyed() -> SymmetricState {
    let mut state = SymmetricState::initialize(default_provider(), b"name");
    state.mix_key(b"input");
    state
}

/// "text", sealed by a state that is like [`keyed`].
fn sealed() -> [u8; 20] {
    let mut buf = *b"text................";
    keyed().encrypt_and_hash(&mut buf).unwrap();
    buf
}

#[test]
fn a_name_of_up_to_64_bytes_is_padded_and_a_longer_one_hashed() {
    let state = SymmetricState::initialize(default_provider(), b"name");
    let mut padded = [0; 64];
    padded[..4].copy_from_slice(b"name");
    assert_eq!(state.handshake_hash(), &padded);
    assert_eq!(state.chaining_key(), &padded);

    let state = SymmetricState::initialize(default_provider(), &[b'n'; 64]);
    assert_eq!(state.handshake_hash(), &[b'n'; 64]);

    // Python: hashlib.blake2b(b"n" * 65).hexdigest()
    let state = SymmetricState::initialize(default_provider(), &[b'n'; 65]);
    let expected = "13d49b2df622669a602d872c4b8a154eab1f5e4471ea4e39a39ffae05ac275839aef072311006811b25a18ddbe8f9e1a8ef0b1314facf15e8c70f08fddeb78f6";
    assert_eq!(hex::encode(state.handshake_hash()), expected);
    assert_eq!(hex::encode(state.chaining_key()), expected);
}

#[test]
fn without_a_key_nothing_is_encrypted_or_passed_through() {
    let mut state = SymmetricState::initialize(default_provider(), b"name");
    let before = *state.handshake_hash();
    assert_eq!(state.encrypt_and_hash(&mut [0; 20]), Err(NoiseError::NoKey));
    assert_eq!(state.decrypt_and_hash(&mut [0; 20]), Err(NoiseError::NoKey));
    assert_eq!(state.handshake_hash(), &before);
}

#[test]
fn a_failure_changes_nothing() {
    let mut state = keyed();
    let before = *state.handshake_hash();
    for position in 0..20 {
        let mut changed = sealed();
        changed[position] ^= 0x10;
        assert_eq!(state.decrypt_and_hash(&mut changed), Err(NoiseError::NotAuthentic));
    }
    for length in 0..16 {
        assert_eq!(state.decrypt_and_hash(&mut sealed()[..length]), Err(NoiseError::NotAuthentic));
        assert_eq!(state.encrypt_and_hash(&mut sealed()[..length]), Err(NoiseError::NoRoom));
    }
    assert_eq!(state.handshake_hash(), &before);

    // Neither did the nonce move.
    let mut buf = sealed();
    state.decrypt_and_hash(&mut buf).unwrap();
    assert_eq!(&buf[..4], b"text");
}

#[test]
fn what_was_hashed_before_is_authenticated() {
    let mut state = SymmetricState::initialize(default_provider(), b"name");
    state.mix_hash(b"another prologue");
    state.mix_key(b"input");
    assert_eq!(state.decrypt_and_hash(&mut sealed()), Err(NoiseError::NotAuthentic));
}

#[test]
fn both_sides_agree_over_several_messages_under_one_key() {
    let (mut one, mut other) = (keyed(), keyed());
    let mut ciphertexts = Vec::new();
    for _ in 0..3 {
        let mut buf = *b"text................";
        one.encrypt_and_hash(&mut buf).unwrap();
        ciphertexts.push(buf);
        other.decrypt_and_hash(&mut buf).unwrap();
        assert_eq!(&buf[..4], b"text");
        assert_eq!(one.handshake_hash(), other.handshake_hash());
    }
    ciphertexts.dedup();
    assert_eq!(ciphertexts.len(), 3);
}

#[test]
fn it_is_not_printed() {
    assert_eq!(format!("{:?}", keyed()), "SymmetricState { .. }");
}

/// A provider that breaks its contract.
#[derive(Debug)]
struct NoCipher;

impl Provider for NoCipher {
    fn supports(&self, _: Suite) -> bool {
        false
    }

    fn aead(&self, _: Suite, _: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        None
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
fn a_provider_without_the_cipher_is_an_error_and_no_plaintext_leaves() {
    let mut state = SymmetricState::initialize(&NoCipher, b"name");
    state.mix_key(b"input");
    assert_eq!(state.encrypt_and_hash(&mut [0; 20]), Err(NoiseError::NoCipher));
    assert_eq!(state.decrypt_and_hash(&mut [0; 20]), Err(NoiseError::NoCipher));
}
