//! Which errors say that the peer processed nothing, so that the same can be tried again.

use crate::code::{ErrorCode, ProtocolErrorCode};
use crate::error::{ConnectionError, HandshakeError, OpenError, ReadError, Side, WriteError};

impl ConnectionError {
    /// Returns `true` if the peer has processed nothing of the whole connection, and the same attempt can succeed later: the peer refused the connection with REFUSED, or said that it did not decide
    /// about it in time, or the handshake did not come to its end (of early data the peer may have processed some).
    ///
    /// A connection that ended in another way may have been of use before. What is known then of a stream, its own error says.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Handshake(error) => matches!(error, HandshakeError::Truncated | HandshakeError::Timeout),
            Self::Closed { by: Side::Peer, closed, .. } => {
                [ErrorCode::REFUSED, ErrorCode::Protocol(ProtocolErrorCode::DECISION_TIMEOUT)].contains(&closed.code)
            }
            _ => false,
        }
    }
}

/// Whether the peer refused the whole connection. A stream that fails with its handshake is one of early data, which may have been processed.
fn is_refusal(error: &ConnectionError) -> bool {
    error.is_retryable() && !matches!(error, ConnectionError::Handshake(_))
}

impl OpenError {
    /// Returns `true` if the stream can be opened on another connection: the peer has never heard of it.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Name => false,
            Self::Draining | Self::Connection(_) => true,
        }
    }
}

impl ReadError {
    /// Returns `true` if the peer has processed nothing of the stream, and it can be opened again, on this connection or another one: the peer refused the stream with REFUSED, or
    /// the connection as [`ConnectionError::is_retryable`] says. Of a stream that [was early](crate::RecvStream::is_early) it may have processed something before it refused the connection.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Reset(code) => *code == ErrorCode::REFUSED,
            Self::Connection(error) => is_refusal(error),
            Self::Blocked | Self::Stopped | Self::StreamClosed => false,
        }
    }
}

impl WriteError {
    /// Returns `true` if the peer has processed nothing of the stream, as for [`ReadError::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Stopped(code) => *code == ErrorCode::REFUSED,
            Self::Connection(error) => is_refusal(error),
            Self::Blocked | Self::Closed | Self::StreamClosed => false,
        }
    }
}

/// Returns `true` if `error`, which an adapter returned, says that the peer processed nothing: see [`ConnectionError::is_retryable`], [`OpenError::is_retryable`],
/// [`ReadError::is_retryable`] and [`WriteError::is_retryable`]. Errors of the operating system, as of connecting, are not looked at: `false`.
#[cfg(feature = "std")]
pub fn is_retryable(error: &std::io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    inner.downcast_ref().is_some_and(ConnectionError::is_retryable)
        || inner.downcast_ref().is_some_and(OpenError::is_retryable)
        || inner.downcast_ref().is_some_and(ReadError::is_retryable)
        || inner.downcast_ref().is_some_and(WriteError::is_retryable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseInfo;

    fn closed(by: Side, code: ErrorCode) -> ConnectionError {
        ConnectionError::Closed { by, closed: CloseInfo { code, reason: "".into() }, answer: None }
    }

    #[test]
    fn what_was_refused_can_be_tried_again_and_what_may_have_been_processed_cannot() {
        assert!(closed(Side::Peer, ErrorCode::REFUSED).is_retryable());
        assert!(closed(Side::Peer, ErrorCode::Protocol(ProtocolErrorCode::DECISION_TIMEOUT)).is_retryable());
        assert!(ConnectionError::Handshake(HandshakeError::Truncated).is_retryable());
        assert!(ConnectionError::Handshake(HandshakeError::Timeout).is_retryable());
        assert!(!ConnectionError::Handshake(HandshakeError::Flight2).is_retryable());
        assert!(!closed(Side::Local, ErrorCode::REFUSED).is_retryable());
        assert!(!closed(Side::Peer, ErrorCode::NO_ERROR).is_retryable());
        assert!(!closed(Side::Peer, ErrorCode::Application(ErrorCode::REFUSED.number())).is_retryable());
        assert!(!ConnectionError::Truncated.is_retryable());
        assert!(
            OpenError::Draining.is_retryable() && OpenError::Connection(ConnectionError::IdleTimeout).is_retryable()
        );
        assert!(!OpenError::Name.is_retryable());
        assert!(
            ReadError::Reset(ErrorCode::REFUSED).is_retryable()
                && !ReadError::Reset(ErrorCode::CANCELLED).is_retryable()
        );
        assert!(ReadError::Connection(closed(Side::Peer, ErrorCode::REFUSED)).is_retryable());
        assert!(!ReadError::Stopped.is_retryable());
        let early = ConnectionError::Handshake(HandshakeError::Truncated);
        assert!(!ReadError::Connection(early.clone()).is_retryable() && !WriteError::Connection(early).is_retryable());
        assert!(WriteError::Stopped(ErrorCode::REFUSED).is_retryable() && !WriteError::Closed.is_retryable());
    }

    #[cfg(feature = "std")]
    #[test]
    fn errors_of_adapters_are_looked_into() {
        use std::io;
        assert!(is_retryable(&ReadError::Reset(ErrorCode::REFUSED).into()));
        assert!(is_retryable(&WriteError::Stopped(ErrorCode::REFUSED).into()));
        assert!(is_retryable(&OpenError::Draining.into()));
        assert!(is_retryable(&closed(Side::Peer, ErrorCode::REFUSED).into()));
        assert!(!is_retryable(&ReadError::Stopped.into()));
        assert!(!is_retryable(&io::ErrorKind::ConnectionRefused.into()));
    }
}
