//! MAX_DATA, MAX_STREAM_DATA and MAX_STREAMS: [spec](crate::spec) sections 9.3 to 9.5.
//!
//! ```text
//! MAX_DATA = 0x03 ‖ maximum    MAX_STREAM_DATA = 0x04 ‖ stream ‖ maximum    MAX_STREAMS = 0x05 ‖ maximum ‖ window
//! ```

use crate::codec::{DecodeError, Fault, Reader, Writer};

/// Payload bytes that the receiver of this may send in all, over all streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxData(pub u64);

/// Payload bytes that the receiver of this may send in all on one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxStreamData {
    /// The stream's id on the wire.
    pub stream: u64,
    /// Payload bytes in all.
    pub maximum: u64,
}

/// Streams that the receiver of this may open in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxStreams {
    /// Streams in all.
    pub maximum: u64,
    /// Payload bytes that may at first be sent on each stream that this allows, and that was not allowed before.
    pub window: u64,
}

impl MaxData {
    pub(crate) const TYPE: u8 = 0x03;
    pub(crate) const MAX_LEN: usize = 9;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.varint("MAX_DATA maximum").map(Self)
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.0);
    }
}

impl MaxStreamData {
    pub(crate) const TYPE: u8 = 0x04;
    pub(crate) const MAX_LEN: usize = 17;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: reader.varint("MAX_STREAM_DATA stream")?,
            maximum: reader.varint("MAX_STREAM_DATA maximum")?,
        })
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.stream);
        out.varint(self.maximum);
    }
}

impl MaxStreams {
    pub(crate) const TYPE: u8 = 0x05;
    pub(crate) const MAX_LEN: usize = 17;
    /// The greatest limit: ids are varints, and two share each number.
    pub(crate) const MAX: u64 = 1 << 60;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let maximum = reader.varint("MAX_STREAMS maximum")?;
        if maximum > Self::MAX {
            return Err(DecodeError::new("MAX_STREAMS maximum", Fault::OutOfRange));
        }
        Ok(Self { maximum, window: reader.varint("MAX_STREAMS window")? })
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.maximum);
        out.varint(self.window);
    }
}
