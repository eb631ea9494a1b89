//! Error codes, and who says them: [spec](crate::spec) section 14.

use core::fmt;

use crate::varint;

/// An error code with the layer that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A code of the application, whose meaning the applications agreed upon. At most 2^62 − 1; a greater one is sent as 2^62 − 1.
    Application(u64),
    /// A code of peermux itself.
    Protocol(ProtocolCode),
}

/// A code of the protocol layer, as it stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolCode(pub u64);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl ProtocolCode {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name that the specification gives this code, if it gives it one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// An orderly end.
    NO_ERROR = 0x00;
    /// The sender's own fault.
    INTERNAL = 0x01;
    /// A frame is malformed.
    FRAME_ENCODING = 0x02;
    /// A frame's type is neither known nor skippable.
    FRAME_UNKNOWN = 0x03;
    /// A frame stands where it must not.
    FRAME_NOT_ALLOWED = 0x04;
    /// A frame does not fit the state of its stream.
    STREAM_STATE = 0x05;
    /// More streams than MAX_STREAMS.
    STREAM_LIMIT = 0x06;
    /// A stream id that is not the next one, of the wrong side, or never opened.
    STREAM_ID = 0x07;
    /// More data than credit.
    FLOW_CONTROL = 0x08;
    /// Settings out of range, repeated or misplaced.
    SETTINGS_INVALID = 0x09;
    /// A record's header, size or padding is wrong.
    RECORD_INVALID = 0x0a;
    /// A key was used for too many records.
    KEY_LIMIT = 0x0b;
    /// A budget for what a peer may repeat is exceeded.
    EXCESSIVE_LOAD = 0x0c;
    /// The peer, or the stream, was refused and nothing of it was processed.
    REFUSED = 0x0d;
    /// The decision about the peer was not made in time.
    DECISION_TIMEOUT = 0x0e;
    /// Nothing arrived for the idle timeout.
    IDLE_TIMEOUT = 0x0f;
    /// The other side's shaping is not acceptable.
    SHAPING_REFUSED = 0x10;
    /// Another connection with the same counterparty holds.
    DUPLICATE = 0x11;
    /// The sender of DRAIN is about to end.
    GOING_AWAY = 0x12;
    /// Nobody speaks the protocol that the stream names.
    UNKNOWN_PROTOCOL = 0x13;
    /// The application let go of a stream without a code of its own.
    CANCELLED = 0x14;
}

impl Code {
    /// An orderly end, said by peermux.
    pub const NO_ERROR: Self = Self::Protocol(ProtocolCode::NO_ERROR);
    /// Nothing was processed: what was refused may be tried again.
    pub const REFUSED: Self = Self::Protocol(ProtocolCode::REFUSED);
    /// Nobody speaks the protocol that the stream names.
    pub const UNKNOWN_PROTOCOL: Self = Self::Protocol(ProtocolCode::UNKNOWN_PROTOCOL);
    /// The application let go of a stream without a code of its own.
    pub const CANCELLED: Self = Self::Protocol(ProtocolCode::CANCELLED);

    /// The layer's byte on the wire.
    pub(crate) const fn layer(self) -> u8 {
        match self {
            Self::Application(_) => 0,
            Self::Protocol(_) => 1,
        }
    }

    /// The code's number on the wire, within its layer.
    pub const fn number(self) -> u64 {
        let number = match self {
            Self::Application(number) | Self::Protocol(ProtocolCode(number)) => number,
        };
        if number > varint::MAX { varint::MAX } else { number }
    }

    pub(crate) const fn from_wire(layer: u8, number: u64) -> Option<Self> {
        match layer {
            0 => Some(Self::Application(number)),
            1 => Some(Self::Protocol(ProtocolCode(number))),
            _ => None,
        }
    }
}

impl fmt::Display for ProtocolCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "protocol code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ProtocolCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application(number) => write!(f, "application code {number}"),
            Self::Protocol(code) => fmt::Display::fmt(code, f),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
