//! CLOSE and DRAIN: [spec](crate::spec) sections 9.10 and 9.11.
//!
//! ```text
//! CLOSE = 0x0a ‖ layer 1 ‖ code ‖ length ‖ reason        DRAIN = 0x0b ‖ code
//! ```

use super::reset::{decode_code, encode_code};
use crate::code::{Code, ProtocolCode};
use crate::codec::{DecodeError, Fault, Reader, Writer};

/// The longest reason in CLOSE, in bytes.
pub const MAX_REASON: usize = 256;

/// Ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people: at most 256 bytes.
    pub reason: &'a str,
}

/// Asks for no more streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain(pub ProtocolCode);

impl<'a> Close<'a> {
    pub(crate) const TYPE: u8 = 0x0a;

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let code = decode_code(reader, "CLOSE code")?;
        let reason = core::str::from_utf8(reader.prefixed("CLOSE reason")?)
            .ok()
            .filter(|reason| reason.len() <= MAX_REASON)
            .ok_or(DecodeError::new("CLOSE reason", Fault::OutOfRange))?;
        Ok(Self { code, reason })
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        encode_code(self.code, out);
        out.prefixed(self.reason.as_bytes());
    }
}

impl Drain {
    pub(crate) const TYPE: u8 = 0x0b;
    pub(crate) const MAX_LEN: usize = 9;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(ProtocolCode(reader.varint("DRAIN code")?)))
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.0.0);
    }
}
