//! Priorities, and PRIORITY: [spec](crate::spec) sections 12.1 and 9.9.
//!
//! ```text
//! priority = urgency (bits 0–2) | incremental (bit 3)        PRIORITY = 0x09 ‖ stream ‖ priority 1
//! ```

use crate::codec::{DecodeError, Fault, Reader, Writer};

/// How urgent a stream is, as in RFC 9218.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Fields"))]
pub struct Priority {
    urgency: u8,
    incremental: bool,
}

impl Priority {
    /// The least urgent of the eight urgencies.
    pub const MAX_URGENCY: u8 = 7;

    /// A priority. `urgency` is from 0, which goes first, to 7; greater values count as 7. Streams of one urgency
    /// that are `incremental` take turns; the others go one after the other.
    pub const fn new(urgency: u8, incremental: bool) -> Self {
        let urgency = if urgency > Self::MAX_URGENCY { Self::MAX_URGENCY } else { urgency };
        Self { urgency, incremental }
    }

    /// From 0, which goes first, to 7.
    pub const fn urgency(self) -> u8 {
        self.urgency
    }

    /// Whether the stream takes turns with others of its urgency.
    pub const fn incremental(self) -> bool {
        self.incremental
    }

    pub(super) fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let byte = reader.u8(field)?;
        if byte > 0x0f {
            return Err(DecodeError::new(field, Fault::OutOfRange));
        }
        Ok(Self { urgency: byte & 0x07, incremental: byte & 0x08 != 0 })
    }

    pub(super) const fn byte(self) -> u8 {
        self.urgency | (self.incremental as u8) << 3
    }
}

/// Urgency 3, incremental: streams share the link unless the application asks for an order.
impl Default for Priority {
    fn default() -> Self {
        Self::new(3, true)
    }
}

/// What stands for a priority in the formats of serde.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    urgency: u8,
    incremental: bool,
}

#[cfg(feature = "serde")]
impl TryFrom<Fields> for Priority {
    type Error = &'static str;

    fn try_from(Fields { urgency, incremental }: Fields) -> Result<Self, Self::Error> {
        if urgency > Self::MAX_URGENCY {
            return Err("`urgency` must be 0 to 7");
        }
        Ok(Self { urgency, incremental })
    }
}

/// Asks the other side to send on a stream with a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityUpdate {
    /// The stream's id on the wire.
    pub stream: u64,
    /// The priority asked for.
    pub priority: Priority,
}

impl PriorityUpdate {
    pub(crate) const TYPE: u8 = 0x09;
    pub(crate) const MAX_LEN: usize = 10;

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { stream: reader.varint("PRIORITY stream")?, priority: Priority::decode(reader, "PRIORITY priority")? })
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.frame_type(Self::TYPE);
        out.varint(self.stream);
        out.u8(self.priority.byte());
    }
}
