//! OPEN: [spec](crate::spec) section 9.8.
//!
//! ```text
//! OPEN = 0x08 ‖ stream ‖ priority 1 ‖ window ‖ name
//! name = 0 | 1 ‖ length ‖ bytes (entered) | 2 ‖ length ‖ bytes (not entered) | 3 + index
//! ```

use super::Priority;
use crate::codec::{DecodeError, Fault, Reader, Writer};

/// The longest protocol name, in bytes.
pub const MAX_NAME: usize = 64;

/// The names that each direction's table holds at most.
pub const MAX_NAMES: usize = 64;

/// Opens a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// The stream's id on the wire.
    pub stream: u64,
    /// The stream's priority, in both directions.
    pub priority: Priority,
    /// Payload bytes that the other side may send on the stream at first.
    pub window: u64,
    /// The application protocol that the stream speaks.
    pub name: Name<'a>,
}

/// How OPEN names a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// Not at all.
    None,
    /// By a name that takes the next index of the sender's table.
    Entered(&'a str),
    /// By a name that takes no index.
    Literal(&'a str),
    /// By an index of the sender's table.
    Index(u64),
}

/// Whether `name` may name a protocol: 1 to 64 bytes of printable ASCII without space.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

impl<'a> Name<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.varint("OPEN name form")? {
            0 => Ok(Self::None),
            1 => Self::literal(reader).map(Self::Entered),
            2 => Self::literal(reader).map(Self::Literal),
            index => Ok(Self::Index(index - 3)),
        }
    }

    fn literal(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
        let bytes = reader.prefixed("OPEN name")?;
        core::str::from_utf8(bytes)
            .ok()
            .filter(|name| is_name(name))
            .ok_or(DecodeError::new("OPEN name", Fault::OutOfRange))
    }

    fn encode(&self, out: &mut Writer<'_>) {
        match *self {
            Self::None => out.varint(0),
            Self::Entered(name) => {
                out.varint(1);
                out.prefixed(name.as_bytes());
            }
            Self::Literal(name) => {
                out.varint(2);
                out.prefixed(name.as_bytes());
            }
            Self::Index(index) => out.varint(3 + index),
        }
    }
}

impl<'a> Open<'a> {
    pub(crate) const TYPE: u8 = 0x08;
    /// Type, stream, priority, window, form, and a name with its length (64 takes two bytes).
    pub(crate) const MAX_LEN: usize = 1 + 8 + 1 + 8 + 1 + 2 + MAX_NAME;

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: reader.varint("OPEN stream")?,
            priority: Priority::decode(reader, "OPEN priority")?,
            window: reader.varint("OPEN window")?,
            name: Name::decode(reader)?,
        })
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.stream);
        out.u8(self.priority.byte());
        out.varint(self.window);
        self.name.encode(out);
    }
}
