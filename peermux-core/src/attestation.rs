//! Attestations: another identity, bound to a static key ([spec](crate::spec) section 4.5).
//!
//! What a peer attests is given to the application as bytes ([`PeerInfo::attestation`](crate::PeerInfo::attestation), [`Event::Attestation`](crate::Event::Attestation)).
//! The module `ed25519`, behind the feature of its name, makes and verifies those of scheme 1, which bind the Ed25519 key of a Sia host.

use alloc::vec::Vec;

use crate::crypto::PublicKey;
use crate::id::Role;

/// What an attestation's signature is made over: it names the static key, so nobody else can use it, and the role.
pub fn signed_text(role: Role, key: &PublicKey, not_after: u64) -> Vec<u8> {
    let role = match role {
        Role::Initiator => 0,
        Role::Responder => 1,
    };
    [b"peermux/1 static\0", &[role][..], key.as_bytes(), &not_after.to_be_bytes()].concat()
}

/// Scheme 1: Ed25519 (RFC 8032).
#[cfg(feature = "ed25519")]
pub mod ed25519 {
    use core::fmt;

    use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

    use super::signed_text;
    use crate::codec::{DecodeError, Fault, Reader};
    use crate::crypto::PublicKey;
    use crate::id::Role;
    use crate::wire::ED25519_SCHEME;

    /// The length of an attestation, in bytes: the scheme, the public key, the time, the signature.
    pub const LEN: usize = 1 + 32 + 8 + 64;

    /// Why an attestation binds nothing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Invalid {
        /// It is of another scheme.
        Scheme(u8),
        /// It is malformed.
        Malformed(DecodeError),
        /// The time until which it held has passed, or this side has no clock.
        Expired,
        /// The signature is not that of its key over the peer's static key and role.
        Signature,
    }

    impl fmt::Display for Invalid {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Scheme(scheme) => write!(f, "attestation of scheme {scheme}, which is not Ed25519"),
                Self::Malformed(error) => write!(f, "attestation: {error}"),
                Self::Expired => f.write_str("the attestation has expired"),
                Self::Signature => f.write_str("the attestation's signature does not bind the peer's static key"),
            }
        }
    }

    impl core::error::Error for Invalid {}

    /// Attests that the holder of `signing_key` is the holder of the static key `key` in `role`, until `not_after`, in seconds since 1970.
    pub fn attest(signing_key: &SigningKey, role: Role, key: &PublicKey, not_after: u64) -> [u8; LEN] {
        let signature = signing_key.sign(&signed_text(role, key, not_after));
        let mut bytes = [ED25519_SCHEME; LEN];
        bytes[1..33].copy_from_slice(signing_key.verifying_key().as_bytes());
        bytes[33..41].copy_from_slice(&not_after.to_be_bytes());
        bytes[41..].copy_from_slice(&signature.to_bytes());
        bytes
    }

    /// Verifies what a peer attests, and returns the identity that it binds. `role` and `key` are the peer's, as the handshake proved
    /// them; `now` is the time in seconds since 1970, or `None` without a clock.
    ///
    /// # Errors
    /// See [`Invalid`].
    pub fn verify(attestation: &[u8], role: Role, key: &PublicKey, now: Option<u64>) -> Result<VerifyingKey, Invalid> {
        let mut reader = Reader::new(attestation);
        let read = |reader: &mut Reader<'_>| -> Result<_, DecodeError> {
            let identity = reader.array("Ed25519 public key")?;
            let not_after = u64::from_be_bytes(reader.array("not_after")?);
            let signature: [u8; 64] = reader.array("Ed25519 signature")?;
            if !reader.is_empty() {
                return Err(DecodeError::new("attestation", Fault::Trailing));
            }
            Ok((identity, not_after, signature))
        };
        let scheme = reader.u8("scheme").map_err(Invalid::Malformed)?;
        if scheme != ED25519_SCHEME {
            return Err(Invalid::Scheme(scheme));
        }
        let (identity, not_after, signature) = read(&mut reader).map_err(Invalid::Malformed)?;
        if now.is_none_or(|now| now > not_after) {
            return Err(Invalid::Expired);
        }
        let identity = VerifyingKey::from_bytes(&identity).map_err(|_| Invalid::Signature)?;
        identity
            .verify_strict(&signed_text(role, key, not_after), &Signature::from_bytes(&signature))
            .map_err(|_| Invalid::Signature)?;
        Ok(identity)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_attestation_binds_its_key_and_role_until_its_time() {
            let identity = SigningKey::from_bytes(&[7; 32]);
            let key = PublicKey::from_bytes([1; 32]);
            let other = PublicKey::from_bytes([2; 32]);
            let bytes = attest(&identity, Role::Responder, &key, 1000);
            assert_eq!(verify(&bytes, Role::Responder, &key, Some(1000)), Ok(identity.verifying_key()));
            assert_eq!(verify(&bytes, Role::Responder, &key, Some(1001)), Err(Invalid::Expired));
            assert_eq!(verify(&bytes, Role::Responder, &key, None), Err(Invalid::Expired));
            // Misbinding: copied by the holder of another key, or shown in the other role.
            assert_eq!(verify(&bytes, Role::Responder, &other, Some(0)), Err(Invalid::Signature));
            assert_eq!(verify(&bytes, Role::Initiator, &key, Some(0)), Err(Invalid::Signature));
            for index in 1..LEN {
                let mut changed = bytes;
                changed[index] ^= 1;
                assert!(verify(&changed, Role::Responder, &key, Some(0)).is_err(), "byte {index}");
            }
            assert_eq!(verify(&[9], Role::Responder, &key, Some(0)), Err(Invalid::Scheme(9)));
            assert!(matches!(verify(&bytes[..50], Role::Responder, &key, Some(0)), Err(Invalid::Malformed(_))));
            assert!(matches!(
                verify(&[&bytes[..], &[0]].concat(), Role::Responder, &key, Some(0)),
                Err(Invalid::Malformed(_))
            ));
        }
    }
}
