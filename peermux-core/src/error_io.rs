//! Errors as [`std::io::Error`]s, for adapters: the kind says what a caller may do about it, the source what it was.

use std::io;

use crate::error::{ConnectionError, HandshakeError, OpenError, ReadError, WriteError};

fn kind(error: &ConnectionError) -> io::ErrorKind {
    match error {
        ConnectionError::Handshake(HandshakeError::Timeout)
        | ConnectionError::IdleTimeout
        | ConnectionError::DecisionTimeout => io::ErrorKind::TimedOut,
        ConnectionError::Handshake(HandshakeError::UnexpectedKey | HandshakeError::Refused) => {
            io::ErrorKind::PermissionDenied
        }
        ConnectionError::Handshake(HandshakeError::Truncated) | ConnectionError::Truncated => {
            io::ErrorKind::UnexpectedEof
        }
        ConnectionError::Handshake(_) | ConnectionError::Protocol(_) => io::ErrorKind::InvalidData,
        ConnectionError::Tampered => io::ErrorKind::InvalidData,
        ConnectionError::Closed { .. } => io::ErrorKind::ConnectionAborted,
        ConnectionError::Transport(_) => io::ErrorKind::ConnectionReset,
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        Self::new(kind(&error), error)
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
            ReadError::Stopped | ReadError::UnknownStream => io::ErrorKind::NotConnected,
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
            WriteError::Finished => io::ErrorKind::BrokenPipe,
            WriteError::UnknownStream => io::ErrorKind::NotConnected,
            WriteError::Connection(error) => kind(error),
        };
        Self::new(kind, error)
    }
}
