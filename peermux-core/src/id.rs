//! Who is who, and which stream is which.

use core::fmt;

/// Which end of the TCP connection a side is ([spec](crate::spec) section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It dialled.
    Initiator,
    /// It accepted.
    Responder,
}

impl Role {
    /// The role of the other side.
    pub const fn peer(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }

    /// The parity of the ids of the streams that this role opens.
    pub(crate) const fn parity(self) -> u64 {
        match self {
            Self::Initiator => 0,
            Self::Responder => 1,
        }
    }
}

/// The mode that the handshake took ([spec](crate::spec) section 3.1). Nobody outside can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The initiator knew the responder's static key.
    Ik,
    /// It did not, or the responder holds that key no more.
    Fallback,
}

/// A stream of one [`Connection`](crate::Connection), for its application.
///
/// It is local: the id on the wire is assigned only when the stream's OPEN is written. It is never used again for another stream of the same connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    pub(crate) serial: u64,
    pub(crate) slot: u32,
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.serial)
    }
}
