//! What can go wrong, and who says so.

use alloc::sync::Arc;
use core::fmt;

use crate::code::{Code, ProtocolCode};
use crate::crypto::PublicKey;

/// One of the two ends of a connection, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This side.
    Local,
    /// The other side.
    Peer,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Peer => "peer",
        })
    }
}

/// A CLOSE that was sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code, with its layer.
    pub code: Code,
    /// The reason, for people; often empty.
    pub reason: Arc<str>,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.code, f)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        Ok(())
    }
}

/// Why a connection ended: who ended it, at which layer, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionError {
    /// The handshake failed; nothing was said to the peer ([spec](crate::spec) section 13.1).
    Handshake(HandshakeError),
    /// A side closed it by CLOSE ([spec](crate::spec) section 13.3).
    Closed {
        /// Who closed first. Where both did at once, each side names itself.
        by: Side,
        /// What the side that closed said.
        closed: Closed,
        /// What the other side answered or said at the same time, once it is known.
        answer: Option<Closed>,
    },
    /// The peer broke the protocol; it was told by CLOSE ([spec](crate::spec) section 13.6).
    Protocol(Violation),
    /// A record did not authenticate: something on the way changed it, or the peer is broken ([spec](crate::spec) section 13.5).
    Tampered,
    /// The transport ended before the peer's last record ([spec](crate::spec) section 13.4).
    Truncated,
    /// Nothing arrived for the idle timeout.
    IdleTimeout,
    /// Nobody decided in time: this side's application about the peer, or the peer's about this side.
    DecisionTimeout,
    /// The adapter gave the transport up, as a rule for an error of the operating system.
    Transport(TransportError),
}

/// How a transport failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportError {
    message: Arc<str>,
    #[cfg(feature = "std")]
    kind: std::io::ErrorKind,
    os_error: Option<i32>,
}

impl TransportError {
    /// The number that the operating system gave, if the error is its.
    pub const fn raw_os_error(&self) -> Option<i32> {
        self.os_error
    }

    /// What kind of error the transport reported. `ConnectionReset` if it only gave a text.
    #[cfg(feature = "std")]
    pub const fn kind(&self) -> std::io::ErrorKind {
        self.kind
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<&str> for TransportError {
    fn from(message: &str) -> Self {
        Self {
            message: Arc::from(message),
            #[cfg(feature = "std")]
            kind: std::io::ErrorKind::ConnectionReset,
            os_error: None,
        }
    }
}

#[cfg(feature = "std")]
impl From<&std::io::Error> for TransportError {
    fn from(error: &std::io::Error) -> Self {
        let message = alloc::string::ToString::to_string(error);
        Self { message: Arc::from(message), kind: error.kind(), os_error: error.raw_os_error() }
    }
}

impl ConnectionError {
    /// Who caused the end, as far as this side can know; `None` where anyone on the way may have.
    pub const fn side(&self) -> Option<Side> {
        match self {
            Self::Closed { by, .. } => Some(*by),
            Self::Protocol(_) => Some(Side::Peer),
            Self::DecisionTimeout => Some(Side::Local),
            Self::Handshake(_) | Self::Tampered | Self::Truncated | Self::IdleTimeout | Self::Transport(_) => None,
        }
    }

    /// The code that one side closed with, if one did.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Closed { closed, .. } => Some(closed.code),
            Self::Protocol(violation) => Some(Code::Protocol(violation.code)),
            Self::IdleTimeout => Some(Code::Protocol(ProtocolCode::IDLE_TIMEOUT)),
            Self::DecisionTimeout => Some(Code::Protocol(ProtocolCode::DECISION_TIMEOUT)),
            _ => None,
        }
    }

    /// Whether this is an orderly end: a CLOSE by either side with NO_ERROR.
    pub fn is_orderly(&self) -> bool {
        matches!(self, Self::Closed { closed, .. } if closed.code == Code::NO_ERROR)
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(error) => write!(f, "handshake failed: {error}"),
            Self::Closed { by, closed, answer } => {
                let layer = match closed.code {
                    Code::Application(_) => "application",
                    Code::Protocol(_) => "protocol",
                };
                write!(f, "closed by the {by} {layer}: {closed}")?;
                match answer {
                    Some(answer) if answer.code != Code::NO_ERROR => write!(f, "; the other side said {answer}"),
                    _ => Ok(()),
                }
            }
            Self::Protocol(violation) => write!(f, "the peer broke the protocol: {violation}"),
            Self::Tampered => f.write_str("a record from the peer does not authenticate: it was changed on the way"),
            Self::Truncated => f.write_str("the transport ended before the peer closed the connection"),
            Self::IdleTimeout => f.write_str("nothing arrived from the peer for the idle timeout"),
            Self::DecisionTimeout => {
                f.write_str("the application that was asked, here or there, did not decide in time")
            }
            Self::Transport(error) => write!(f, "the transport failed: {error}"),
        }
    }
}

impl core::error::Error for ConnectionError {}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The initiator's ML-KEM encapsulation key is not valid: what arrived is no first flight of peermux.
    EncapsulationKey,
    /// The responder knows none of the keys that the initiator used, and is configured never to fall back.
    NoFallback,
    /// The responder's answer does not authenticate, in any mode.
    Answer,
    /// The initiator's third flight does not authenticate.
    ThirdFlight,
    /// A Diffie-Hellman result is zero: the peer used a point of low order.
    ZeroResult,
    /// The peer's payload authenticates and is malformed.
    Payload(crate::codec::DecodeError),
    /// The sides have no version in common.
    Version,
    /// The sides have no cipher suite in common.
    Suite,
    /// The responder proved another key than the one that was expected.
    UnexpectedKey {
        /// The key that this side expected.
        expected: PublicKey,
        /// The key that the responder proved.
        proved: PublicKey,
    },
    /// The peer proved this side's own key: someone connects this side to itself.
    OwnKey,
    /// The local application refused the responder.
    Refused,
    /// The transport ended before the handshake did.
    Truncated,
    /// The handshake was not complete by its deadline.
    Timeout,
    /// The local provider of cryptography failed.
    Provider,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EncapsulationKey => "what arrived is no first flight of peermux (invalid encapsulation key)",
            Self::NoFallback => "the dialer does not know this side's key, and this side never falls back",
            Self::Answer => "the responder's answer does not authenticate",
            Self::ThirdFlight => "the initiator's third flight does not authenticate",
            Self::ZeroResult => "a Diffie-Hellman result is zero (a point of low order)",
            Self::Payload(error) => return write!(f, "the peer's payload is malformed: {error}"),
            Self::Version => "no version of the protocol in common",
            Self::Suite => "no cipher suite in common",
            Self::UnexpectedKey { expected, proved } => {
                return write!(f, "the responder proved the key {proved}, expected was {expected}");
            }
            Self::OwnKey => "the peer proved this side's own key",
            Self::Refused => "the local application refused the responder",
            Self::Truncated => "the transport ended before the handshake was complete",
            Self::Timeout => "the peer did not complete it by the deadline",
            Self::Provider => "the local provider of cryptography failed",
        })
    }
}

impl core::error::Error for HandshakeError {}

/// How an authenticated peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The code that it was told.
    pub code: ProtocolCode,
    /// What it did.
    pub what: &'static str,
    /// The stream that it did it on, by its id on the wire.
    pub stream: Option<u64>,
}

impl Violation {
    pub(crate) const fn new(code: ProtocolCode, what: &'static str) -> Self {
        Self { code, what, stream: None }
    }

    pub(crate) const fn on(code: ProtocolCode, what: &'static str, stream: u64) -> Self {
        Self { code, what, stream: Some(stream) }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.what)?;
        match self.stream {
            Some(stream) => write!(f, " on stream {stream}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Violation {}

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The name of the protocol is not 1 to 64 bytes of printable ASCII without space.
    Name,
    /// A side drains the connection: no new streams.
    Draining,
    /// The connection has ended.
    Connection(ConnectionError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("a protocol's name is 1 to 64 bytes of printable ASCII without space"),
            Self::Draining => f.write_str("the connection is draining: no new streams"),
            Self::Connection(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl core::error::Error for OpenError {}

/// Why nothing could be written to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// There is no room now: see [`Wait`] for what it waits for.
    Blocked,
    /// The peer does not want the stream's data, for this reason.
    Stopped(Code),
    /// This half was finished or reset here before.
    Finished,
    /// There is no such stream: the application let go of it.
    UnknownStream,
    /// The connection has ended.
    Connection(ConnectionError),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("no room in the stream now"),
            Self::Stopped(code) => write!(f, "the peer does not want the stream's data: {code}"),
            Self::Finished => f.write_str("the stream was finished or reset by this side"),
            Self::UnknownStream => f.write_str("no such stream"),
            Self::Connection(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl core::error::Error for WriteError {}

/// Why nothing could be read from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is nothing now.
    Blocked,
    /// The peer gave the stream up, for this reason.
    Reset(Code),
    /// This side said that it does not want the stream's data.
    Stopped,
    /// There is no such stream: the application let go of it.
    UnknownStream,
    /// The connection has ended before the stream did.
    Connection(ConnectionError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("nothing to read in the stream now"),
            Self::Reset(code) => write!(f, "the peer reset the stream: {code}"),
            Self::Stopped => f.write_str("this side has stopped reading the stream"),
            Self::UnknownStream => f.write_str("no such stream"),
            Self::Connection(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl core::error::Error for ReadError {}

/// What a stream's sending half waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// For the application: nothing is queued and there is room.
    Application,
    /// For the handshake, or for the decision about the peer.
    Handshake,
    /// For the peer to allow one more stream.
    StreamLimit,
    /// For the peer's application to read this stream.
    Credit,
    /// For the peer's application to read other streams of the connection.
    ConnectionCredit,
    /// For streams that go before it.
    Priority,
    /// For the transport to take more.
    Transport,
    /// For nothing: this half has ended.
    Ended,
}

/// A buffer that is too small for what is to be written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferTooSmall {
    /// Bytes that are needed.
    pub needed: usize,
}

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the buffer is too small: {} bytes are needed", self.needed)
    }
}

impl core::error::Error for BufferTooSmall {}
