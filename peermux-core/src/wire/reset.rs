//! RESET and STOP: [spec](crate::spec) sections 9.6 and 9.7.
//!
//! ```text
//! RESET = 0x06 ‖ stream ‖ layer 1 ‖ code        STOP = 0x07 ‖ stream ‖ layer 1 ‖ code
//! ```

use crate::code::Code;
use crate::codec::{DecodeError, Fault, Reader, Writer};

/// The sender gives up its sending half of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The stream's id on the wire.
    pub stream: u64,
    /// Why.
    pub code: Code,
}

/// The sender does not want what the other side sends on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The stream's id on the wire.
    pub stream: u64,
    /// Why.
    pub code: Code,
}

pub(super) fn decode_code(reader: &mut Reader<'_>, field: &'static str) -> Result<Code, DecodeError> {
    let layer = reader.u8(field)?;
    let number = reader.varint(field)?;
    Code::from_wire(layer, number).ok_or(DecodeError::new(field, Fault::OutOfRange))
}

pub(super) fn encode_code(code: Code, out: &mut Writer<'_>) {
    out.u8(code.layer());
    out.varint(code.number());
}

impl Reset {
    pub(crate) const TYPE: u8 = 0x06;
    pub(crate) const MAX_LEN: usize = 18;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { stream: reader.varint("RESET stream")?, code: decode_code(reader, "RESET code")? })
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.stream);
        encode_code(self.code, out);
    }
}

impl Stop {
    pub(crate) const TYPE: u8 = 0x07;
    pub(crate) const MAX_LEN: usize = 18;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { stream: reader.varint("STOP stream")?, code: decode_code(reader, "STOP code")? })
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.stream);
        encode_code(self.code, out);
    }
}
