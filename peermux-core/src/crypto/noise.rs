//! Noise's symmetric state (revision 34, sections 4.3, 5.1 and 5.2), for ChaChaPoly and BLAKE2b.

use alloc::boxed::Box;
use core::fmt;

use zeroize::{Zeroize as _, Zeroizing};

use super::hash::{blake2b_512, hkdf};
use super::{AeadKey, Provider, Suite};

/// Why a symmetric state did not encrypt or decrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseError {
    /// There is no key yet.
    NoKey,
    /// The key has been used with every nonce.
    NonceExhausted,
    /// The provider has no ChaCha20-Poly1305.
    NoCipher,
    /// The buffer to encrypt has no room for a tag.
    NoRoom,
    /// The ciphertext does not authenticate, or is shorter than a tag.
    NotAuthentic,
}

impl fmt::Display for NoiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKey => "no key has been mixed in yet",
            Self::NonceExhausted => "the key has been used with every nonce",
            Self::NoCipher => "the provider has no ChaCha20-Poly1305",
            Self::NoRoom => "the buffer has no room for a tag",
            Self::NotAuthentic => "the ciphertext does not authenticate",
        })
    }
}

impl core::error::Error for NoiseError {}

/// Noise's SymmetricState and the CipherState in it.
///
/// Making one costs one hash at most, so that a trial which fails is thrown away, and the next one begins from a clean
/// state. It is erased when it is dropped, never printed, and cannot be cloned, since a nonce could then repeat.
pub struct SymmetricState {
    provider: &'static dyn Provider,
    chaining_key: Zeroizing<[u8; 64]>,
    hash: [u8; 64],
    /// CipherState's `k`. The AEAD is made of it when it is needed: most keys of a handshake encrypt once or never.
    key: Option<Zeroizing<[u8; 32]>>,
    /// CipherState's `n`.
    nonce: u64,
}

impl SymmetricState {
    /// InitializeSymmetric.
    pub fn initialize(provider: &'static dyn Provider, protocol_name: &[u8]) -> Self {
        let mut hash = [0; 64];
        match hash.get_mut(..protocol_name.len()) {
            Some(name) => name.copy_from_slice(protocol_name),
            None => hash = blake2b_512(&[protocol_name]),
        }
        Self { provider, chaining_key: Zeroizing::new(hash), hash, key: None, nonce: 0 }
    }

    /// MixHash.
    pub fn mix_hash(&mut self, data: &[u8]) {
        self.hash = blake2b_512(&[&self.hash, data]);
    }

    /// MixKey. The key that this makes begins with the nonce 0.
    pub fn mix_key(&mut self, input: &[u8]) {
        let [chaining_key, temp_key] = hkdf(&self.chaining_key, input);
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&temp_key[..32]);
        self.chaining_key = chaining_key;
        self.key = Some(key);
        self.nonce = 0;
    }

    /// EncryptAndHash, in place: `buf` is the plaintext, and after it 16 bytes that the tag overwrites.
    ///
    /// Unlike Noise's, it does not pass plaintext through while there is no key: nothing in peermux is meant to. What
    /// is sent in the clear goes through [`SymmetricState::mix_hash`] instead, with the same result.
    ///
    /// # Errors
    /// [`NoiseError`]. The state is then as it was, and `buf` must not be sent.
    pub fn encrypt_and_hash(&mut self, buf: &mut [u8]) -> Result<(), NoiseError> {
        let (key, nonce, next) = self.cipher()?;
        key.seal(nonce, &self.hash, buf).map_err(|_| NoiseError::NoRoom)?;
        self.nonce = next;
        self.mix_hash(buf);
        Ok(())
    }

    /// DecryptAndHash, in place: `buf` is ciphertext and tag. The plaintext is `buf[..buf.len() - 16]`.
    ///
    /// Like [`SymmetricState::encrypt_and_hash`], it needs a key.
    ///
    /// # Errors
    /// [`NoiseError`]. The state is then as it was; what `buf` holds is not specified, except that it is no plaintext.
    pub fn decrypt_and_hash(&mut self, buf: &mut [u8]) -> Result<(), NoiseError> {
        let (key, nonce, next) = self.cipher()?;
        // The ciphertext is what is hashed, and decryption overwrites it.
        let hash = blake2b_512(&[&self.hash, buf]);
        key.open(nonce, &self.hash, buf).map_err(|_| NoiseError::NotAuthentic)?;
        self.nonce = next;
        self.hash = hash;
        Ok(())
    }

    /// Noise's `h`; after the last message it is the channel binding.
    pub const fn handshake_hash(&self) -> &[u8; 64] {
        &self.hash
    }

    /// Noise's `ck`, which [`traffic_secret`](super::traffic_secret) takes after the last message.
    pub fn chaining_key(&self) -> &[u8; 64] {
        &self.chaining_key
    }

    /// The AEAD under the present key, the nonce to use, and the one after it.
    fn cipher(&self) -> Result<(Box<dyn AeadKey>, u64, u64), NoiseError> {
        let key = self.key.as_ref().ok_or(NoiseError::NoKey)?;
        // The last nonce is REKEY's.
        let next = self.nonce.checked_add(1).ok_or(NoiseError::NonceExhausted)?;
        let aead = self.provider.aead(Suite::ChaCha20Poly1305, key).ok_or(NoiseError::NoCipher)?;
        Ok((aead, self.nonce, next))
    }
}

impl fmt::Debug for SymmetricState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SymmetricState").finish_non_exhaustive()
    }
}

impl Drop for SymmetricState {
    fn drop(&mut self) {
        // The rest erases itself.
        self.hash.zeroize();
    }
}
