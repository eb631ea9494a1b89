//! Attestations, and the frame for the long ones: [spec](crate::spec) sections 4.5 and 9.13.
//!
//! ```text
//! ATTESTATION = 0x0d ‖ length ‖ scheme 1 ‖ body
//! ```

use crate::codec::{DecodeError, Fault, Reader, Writer};

/// The longest attestation in a TLV, in bytes.
pub const MAX_TLV_ATTESTATION: usize = 112;

/// The longest attestation in a frame, in bytes.
pub const MAX_FRAME_ATTESTATION: usize = 1024;

/// The scheme byte of an Ed25519 attestation.
pub const ED25519_SCHEME: u8 = 1;

/// Binds another identity to the sender's static key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation<'a>(pub &'a [u8]);

impl<'a> Attestation<'a> {
    pub(crate) const TYPE: u8 = 0x0d;

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bytes = reader.prefixed("ATTESTATION")?;
        if !(1..=MAX_FRAME_ATTESTATION).contains(&bytes.len()) {
            return Err(DecodeError::new("ATTESTATION", Fault::OutOfRange));
        }
        Ok(Self(bytes))
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.prefixed(self.0);
    }
}
