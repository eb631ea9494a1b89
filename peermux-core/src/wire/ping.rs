//! PING and PONG: [spec](crate::spec) section 9.2.
//!
//! ```text
//! PING = 0x01 ‖ data 8        PONG = 0x02 ‖ data 8
//! ```

use crate::codec::{DecodeError, Reader, Writer};

/// Asks for a PONG with the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping(pub [u8; 8]);

/// Answers a PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong(pub [u8; 8]);

impl Ping {
    pub(crate) const TYPE: u8 = 0x01;
    pub(crate) const MAX_LEN: usize = 9;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array("PING data").map(Self)
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.bytes(&self.0);
    }
}

impl Pong {
    pub(crate) const TYPE: u8 = 0x02;
    pub(crate) const MAX_LEN: usize = 9;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array("PONG data").map(Self)
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.bytes(&self.0);
    }
}
