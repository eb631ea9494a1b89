//! The layout of P1, P2 and P3: [spec](crate::spec) section 4.1.

use alloc::vec::Vec;

use crate::codec::{DecodeError, Fault, Reader, Writer};
use crate::wire::{HANDSHAKE_FRAMES, Hello};

/// The size of the frame area of each payload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    P1,
    P2Ik,
    P2Fallback,
    P3,
}

impl Payload {
    const fn frame_area(self) -> usize {
        match self {
            Self::P1 | Self::P3 => HANDSHAKE_FRAMES,
            Self::P2Ik => 48,
            Self::P2Fallback => 0,
        }
    }

    /// Fills `out` with the payload. `frames` are the frame area, or as much of it as is not zeros.
    pub(super) fn write(self, out: &mut [u8], header: u8, hello: &Hello, frames: &[u8]) {
        let mut writer = Writer::new(out);
        if self == Self::P3 {
            writer.u8(header);
        }
        hello.encode(&mut writer);
        writer.bytes(&frames[..frames.len().min(self.frame_area())]);
        writer.pad();
        debug_assert!(!writer.overflowed());
    }

    /// Reads a payload: the header byte, which is 0 where there is none, what the peer says of itself, and the frame area.
    pub(super) fn read(self, input: &[u8]) -> Result<(u8, Hello, Vec<u8>), DecodeError> {
        let mut reader = Reader::new(input);
        let header = if self == Self::P3 { reader.u8("header")? } else { 0 };
        let hello = Hello::decode(&mut reader, self == Self::P1)?;
        let frames = reader.take(self.frame_area(), "frame area")?.to_vec();
        if reader.rest().iter().any(|&byte| byte != 0) {
            return Err(DecodeError::new("zeros after the frame area", Fault::Trailing));
        }
        Ok((header, hello, frames))
    }
}
