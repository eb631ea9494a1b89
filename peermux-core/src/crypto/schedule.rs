//! The secrets of a handshake that has succeeded: [spec](crate::spec) section 5.

use zeroize::Zeroizing;

use super::Suite;
use super::hash::{blake2b_512, hmac};

/// The secret of a label: HMAC-BLAKE2b(`chaining_key`, `label` ‖ 0 ‖ `suite` ‖ `hash`), its first 32 bytes.
///
/// `label` must not contain a zero byte, or two labels could mean the same.
pub fn traffic_secret(chaining_key: &[u8; 64], label: &[u8], suite: Suite, hash: &[u8; 64]) -> Zeroizing<[u8; 32]> {
    let output = hmac(chaining_key, &[label, &[0, suite.as_byte()], hash]);
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(&output[..32]);
    secret
}

/// Fills `out` with keying material for an application: HKDF-Expand (RFC 5869) of `secret` over HMAC-BLAKE2b, where `info`
/// is the length of `label` in one byte, `label`, and BLAKE2b-512 of `context`.
///
/// `None` if `label` is longer than 255 bytes, or if `out` is empty or longer than 16,320; nothing is written then.
#[must_use]
pub fn export(secret: &[u8; 32], label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
    let label_len = u8::try_from(label.len()).ok()?;
    if out.is_empty() || out.len() > 255 * 64 {
        return None;
    }
    let context = blake2b_512(&[context]);
    let mut previous = Zeroizing::new([0; 64]);
    for (index, chunk) in (1..=255).zip(out.chunks_mut(64)) {
        // Nothing stands before the first block.
        let before = if index == 1 { &[][..] } else { &previous[..] };
        let block = hmac(secret, &[before, &[label_len], label, &context, &[index]]);
        chunk.copy_from_slice(&block[..chunk.len()]);
        previous = block;
    }
    Some(())
}
