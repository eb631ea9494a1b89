//! STREAM: [spec](crate::spec) section 9.14.
//!
//! ```text
//! STREAM = (0x10 | FIN 0x01 | LEN 0x02) ‖ stream ‖ [ length ] ‖ payload
//! ```

use crate::codec::{DecodeError, Reader, Writer};
use crate::varint;

/// Payload of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamData<'a> {
    /// The stream's id on the wire.
    pub stream: u64,
    /// Whether this is the last of the sender's half.
    pub fin: bool,
    /// The bytes.
    pub payload: &'a [u8],
}

impl<'a> StreamData<'a> {
    pub(crate) const TYPE: u8 = 0x10;
    pub(crate) const LAST_TYPE: u8 = 0x13;
    const FIN: u8 = 0x01;
    const LEN: u8 = 0x02;

    pub(crate) fn decode(kind: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let stream = reader.varint("STREAM stream")?;
        let payload = if kind & Self::LEN != 0 { reader.prefixed("STREAM payload")? } else { reader.take_rest() };
        Ok(Self { stream, fin: kind & Self::FIN != 0, payload })
    }

    /// Encodes the frame with its length.
    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        Self::encode_header(self.stream, self.fin, Some(self.payload.len()), out);
        out.bytes(self.payload);
    }

    /// Encodes everything before the payload; without a length the payload must reach to the end of the frame area.
    pub(crate) fn encode_header(stream: u64, fin: bool, len: Option<usize>, out: &mut Writer<'_>) {
        let len_flag = if len.is_some() { Self::LEN } else { 0 };
        out.frame_type(Self::TYPE | (u8::from(fin) * Self::FIN) | len_flag);
        out.varint(stream);
        if let Some(len) = len {
            out.varint(len as u64);
        }
    }

    /// Bytes before the payload when it has no length.
    pub(crate) const fn short_header_len(stream: u64) -> usize {
        1 + varint::len(stream)
    }

    /// Bytes before the payload when it has one.
    pub(crate) const fn long_header_len(stream: u64, len: usize) -> usize {
        1 + varint::len(stream) + varint::len(len as u64)
    }
}
