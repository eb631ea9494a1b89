//! Errors as [`std::io::Error`]s, for adapters: the kind says what a caller may do about it, the source what it was.
//!
//! | kind | what happened |
//! | --- | --- |
//! | `TimedOut` | the handshake, the decision or the idle timeout took too long |
//! | `PermissionDenied` | the responder proved another key than the expected one, or was refused here |
//! | `UnexpectedEof` | TCP ended before the handshake or the connection did |
//! | `InvalidData` | the handshake failed otherwise, the peer broke the protocol, or a record did not authenticate |
//! | `ConnectionRefused` | the peer closed the connection before it was established: its application refused this side, with the code and the reason of the source |
//! | `ConnectionAborted` | either side closed the connection; no new streams while it drains |
//! | the socket's own, `ConnectionReset` without one | the transport failed: [`TransportError`](crate::error::TransportError) has the number of the system's error |
//! | `ConnectionReset` | the peer reset the stream, or stopped it |
//! | `BrokenPipe`, `NotConnected` | this side has finished, reset, stopped or released the stream |
//! | `InvalidInput` | the protocol's name is invalid |
//! | `WouldBlock` | nothing now |

use std::io;

use crate::error::{ConnectionError, HandshakeError, OpenError, ReadError, Side, WriteError};

fn kind(error: &ConnectionError) -> io::ErrorKind {
    match error {
        ConnectionError::Handshake(HandshakeError::Timeout)
        | ConnectionError::IdleTimeout
        | ConnectionError::DecisionTimeout => io::ErrorKind::TimedOut,
        ConnectionError::Handshake(HandshakeError::UnexpectedKey { .. } | HandshakeError::Refused) => {
            io::ErrorKind::PermissionDenied
        }
        ConnectionError::Handshake(HandshakeError::Truncated) | ConnectionError::Truncated => {
            io::ErrorKind::UnexpectedEof
        }
        ConnectionError::Handshake(_) | ConnectionError::Protocol(_) => io::ErrorKind::InvalidData,
        ConnectionError::DecryptError => io::ErrorKind::InvalidData,
        ConnectionError::Closed { .. } => io::ErrorKind::ConnectionAborted,
        ConnectionError::Transport(error) => error.kind(),
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        Self::new(kind(&error), error)
    }
}

impl ConnectionError {
    /// Converts the error of a dial. It differs from that of an established connection in one point: if the peer closed the connection, the kind is
    /// [`io::ErrorKind::ConnectionRefused`].
    pub fn into_dial_error(self) -> io::Error {
        match self {
            Self::Closed { by: Side::Peer, .. } => io::Error::new(io::ErrorKind::ConnectionRefused, self),
            error => error.into(),
        }
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        let kind = match &error {
            OpenError::Name => io::ErrorKind::InvalidInput,
            OpenError::Draining => io::ErrorKind::ConnectionAborted,
            OpenError::Connection(error) => kind(error),
        };
        Self::new(kind, error)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::Blocked => io::ErrorKind::WouldBlock,
            ReadError::Reset(_) => io::ErrorKind::ConnectionReset,
            ReadError::Stopped | ReadError::StreamClosed => io::ErrorKind::NotConnected,
            ReadError::Connection(error) => kind(error),
        };
        Self::new(kind, error)
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match &error {
            WriteError::Blocked => io::ErrorKind::WouldBlock,
            WriteError::Stopped(_) => io::ErrorKind::ConnectionReset,
            WriteError::Closed => io::ErrorKind::BrokenPipe,
            WriteError::StreamClosed => io::ErrorKind::NotConnected,
            WriteError::Connection(error) => kind(error),
        };
        Self::new(kind, error)
    }
}
