//! BLAKE2b, HMAC over it, and Noise's HKDF.

use blake2::digest::{KeyInit as _, Mac as _};
use blake2::{Blake2b256, Blake2b512, Digest as _};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

/// BLAKE2b (RFC 7693) with an output of 32 bytes, which is not a truncation of the one with 64.
pub fn blake2b_256(data: &[u8]) -> [u8; 32] {
    Blake2b256::digest(data).into()
}

/// BLAKE2b-512 of `parts`, one after the other.
pub(super) fn blake2b_512(parts: &[&[u8]]) -> [u8; 64] {
    let mut hash = Blake2b512::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// HMAC-BLAKE2b-512 (RFC 2104) of `parts`, one after the other.
pub(super) fn hmac<const N: usize>(key: &[u8; N], parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
    const { assert!(N <= 128, "a longer key would have to be hashed first") };
    // A key shorter than BLAKE2b's block is extended with zeros, by HMAC's definition.
    let mut block = Zeroizing::new([0; 128]);
    block[..N].copy_from_slice(key);
    let mut hmac = SimpleHmac::<Blake2b512>::new((&*block).into());
    for part in parts {
        hmac.update(part);
    }
    Zeroizing::new(hmac.finalize().into_bytes().into())
}

/// Noise's HKDF with two outputs (revision 34, section 4.3).
pub(super) fn hkdf(chaining_key: &[u8; 64], input: &[u8]) -> [Zeroizing<[u8; 64]>; 2] {
    let temp_key = hmac(chaining_key, &[input]);
    let first = hmac::<64>(&temp_key, &[&[1]]);
    let second = hmac::<64>(&temp_key, &[&first[..], &[2]]);
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7693, appendix A.
    #[test]
    fn blake2b_512_of_abc_is_as_published() {
        let expected = hex::decode(concat!(
            "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1",
            "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
        ));
        assert_eq!(blake2b_512(&[b"a", b"bc"]).to_vec(), expected.unwrap());
    }
}
